"""Close contacts of chignolin, closer than any training structure shows, labelled with GFN2-xTB + ALPB water.

Dynamics with a trained potential gets there sooner or later, and what it finds there decides whether the run
survives. Frames of run 2 (400 K), in each one hydrogen pulled to a heavy atom more than three bonds away that
is no partner for a hydrogen bond, by a restraint on their distance, while Amber14 + OBC2 relaxes the rest.
The file has the arrays of shared/data/chignolin, the widest contacts of all pairs first:

    python scripts/label_contacts.py
    python scripts/reproduce_s2ef.py evaluate chignolin-normuon "$PWD/runs/contacts.npz@96:120"   # 1.7 Å
"""

import argparse
from pathlib import Path
from typing import List, Tuple

import numpy as np
import openmm
from amber_chignolin import load_amber_chignolin
from chignolin_labels import write_labelled
from shared_data import data_folder

DISTANCES = (2.1, 2.0, 1.9, 1.8, 1.7)  # Å, one after the other
START = (2.2, 2.8)  # Å, between which a pair is before it is pulled
PULL = 2e6  # kJ/mol/nm^2; the molecule keeps the pair up to 0.08 Å further apart than asked
RESTRAINT = 2000.0  # kJ/mol/nm^2, holds every atom near its place in the frame


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    data = data_folder()
    parser.add_argument("--data", type=Path, default=data / "chignolin", help="shared/data/chignolin")
    parser.add_argument("--output", type=Path, default=Path("runs/contacts.npz"), help="[runs/contacts.npz]")
    parser.add_argument("--pairs", type=int, default=24, help="frames, and pairs pulled [24]")
    parser.add_argument("--seed", type=int, default=0, help="of their choice [0]")
    return parser.parse_args()


def candidates(system: openmm.System, z: np.ndarray, positions: np.ndarray) -> List[Tuple[int, int]]:
    """Pairs (hydrogen, heavy atom) that may be pulled."""
    (nonbonded,) = [force for force in system.getForces() if isinstance(force, openmm.NonbondedForce)]
    distance = np.linalg.norm(positions[:, None] - positions, axis=-1)
    allowed = (distance > START[0]) & (distance < START[1]) & (z[:, None] == 1) & (z > 1)
    for index in range(nonbonded.getNumExceptions()):  # atoms within three bonds of each other
        first, second, *_ = nonbonded.getExceptionParameters(index)
        allowed[first, second] = allowed[second, first] = False
    # An N-H or O-H beside an oxygen is a hydrogen bond, of which training structures have many.
    bonded_to = z[np.where(z > 1, distance, np.inf).argmin(1)]
    allowed[np.ix_(np.isin(bonded_to, (7, 8)), z == 8)] = False
    return [(int(hydrogen), int(heavy)) for hydrogen, heavy in np.argwhere(allowed)]


def pull(system: openmm.System, positions: np.ndarray, pair: Tuple[int, int]) -> List[np.ndarray]:
    """The structures, in Å, with the pair at each of the distances."""
    system = openmm.XmlSerializer.clone(system)
    between = openmm.CustomBondForce("pull * (r - distance)^2")
    between.addGlobalParameter("pull", PULL)
    between.addGlobalParameter("distance", 0.0)
    between.addBond(*pair)
    hold = openmm.CustomExternalForce(f"{RESTRAINT} * ((x - x0)^2 + (y - y0)^2 + (z - z0)^2)")
    for name in ("x0", "y0", "z0"):
        hold.addPerParticleParameter(name)
    for atom, place in enumerate(positions / 10.0):
        hold.addParticle(atom, place)
    for force in (between, hold):
        system.addForce(force)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(positions / 10.0)
    pulled = []
    for distance in DISTANCES:
        context.setParameter("distance", distance / 10.0)
        openmm.LocalEnergyMinimizer.minimize(context, 1.0, 60)
        state = context.getState(getPositions=True)
        pulled.append(10.0 * np.array(state.getPositions(asNumpy=True)._value))
    return pulled


def main() -> None:
    arguments = parse_arguments()
    _, system = load_amber_chignolin(arguments.data)
    with np.load(arguments.data / "gfn2_traj2.npz") as run:
        z, frames = run["z"], run["R"].astype(np.float64)
    generator = np.random.default_rng(arguments.seed)
    structures: List[List[np.ndarray]] = []
    for frame in generator.permutation(len(frames)):
        pairs = candidates(system, z, frames[frame])
        if pairs:
            structures.append(pull(system, frames[frame], pairs[generator.integers(len(pairs))]))
        if len(structures) == arguments.pairs:
            break
    positions = np.array(structures).swapaxes(0, 1).reshape(-1, len(z), 3)
    write_labelled(arguments.output, z, positions)
    print(f"{arguments.output}: {len(structures)} pairs, each at {', '.join(map(str, DISTANCES))} Å")


if __name__ == "__main__":
    main()
