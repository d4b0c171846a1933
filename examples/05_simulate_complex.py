"""Simulates a complex: the ligand by a potential that `dkmp bespoke` makes for it, the rest by Amber.

    python examples/05_simulate_complex.py host-guest
    python examples/05_simulate_complex.py thrombin
    python examples/05_simulate_complex.py t4-lysozyme-water

Makes the ligand's potential first where it is not there (the same as the `dkmp bespoke` command it prints).
Writes a trajectory, a table of energies and a checkpoint; called again, it goes on from the checkpoint.
With --quick, everything is as small as it can be: the potential is of no use, but every step is taken.
"""

import argparse
import math
from pathlib import Path

from dkmp_plugin.simulation.stack import prepare_backend

prepare_backend()  # before openmm is imported

import openmm  # noqa: E402
from complexes import COMPLEXES, PreparedComplex  # noqa: E402
from openmm import app, unit  # noqa: E402
from openmmml import MLPotential  # noqa: E402

from dkmp_plugin.bespoke.pipeline import make_potential  # noqa: E402
from dkmp_plugin.bespoke.settings import BespokeSettings  # noqa: E402


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("complex", choices=sorted(COMPLEXES))
    parser.add_argument("--output", type=Path, help="folder to write [runs/demo/COMPLEX]")
    parser.add_argument("--model", type=Path, help="a potential that is there [made in OUTPUT/ligand]")
    parser.add_argument("--steps", type=int, default=10_000, help="of 1 fs [10000]")
    parser.add_argument("--padding", type=float, default=1.0, help="water around the complex in nm [1.0]")
    parser.add_argument("--report-interval", type=int, default=100, help="steps between frames [100]")
    parser.add_argument("--platform", default="CPU", help="OpenMM platform [CPU]")
    parser.add_argument("--quick", action="store_true", help="smallest sizes: shows that every step works")
    return parser.parse_args()


def ligand_potential(arguments: argparse.Namespace, output: Path) -> Path:
    """The exported potential of the ligand; made where it is missing."""
    files = COMPLEXES[arguments.complex][0]()
    settings = BespokeSettings(str(files.prmtop), str(files.coordinates), files.residue)
    print(
        f"dkmp bespoke {files.prmtop} --coordinates {files.coordinates} --residue {files.residue} "
        f"--output {output}" + (" --quick" if arguments.quick else "")
    )
    make_potential(settings.quick() if arguments.quick else settings, output)
    return output / "model.pt"


def make_simulation(prepared: PreparedComplex, model: Path, platform: str) -> app.Simulation:
    mixed = MLPotential("dkmp", modelPath=str(model)).createMixedSystem(
        prepared.topology, prepared.system, prepared.ligand
    )
    integrator = openmm.LangevinMiddleIntegrator(300 * unit.kelvin, 1 / unit.picosecond, 1 * unit.femtosecond)
    return app.Simulation(prepared.topology, mixed, integrator, openmm.Platform.getPlatformByName(platform))


def main() -> None:
    arguments = parse_arguments()
    output = arguments.output or Path("runs/demo") / arguments.complex
    model = arguments.model or ligand_potential(arguments, output / "ligand")
    steps, interval, iterations = arguments.steps, arguments.report_interval, 200
    if arguments.quick:
        steps, interval, iterations = 20, 10, 5
    files, prepare = COMPLEXES[arguments.complex]
    prepared = prepare(files(), arguments.padding)
    simulation = make_simulation(prepared, model, arguments.platform)
    print(f"{prepared.topology.getNumAtoms()} atoms, {len(prepared.ligand)} of them by {model}")
    output.mkdir(parents=True, exist_ok=True)
    checkpoint = output / "checkpoint.chk"
    resumed = checkpoint.exists()
    if resumed:
        simulation.loadCheckpoint(str(checkpoint))
        print(f"going on at step {simulation.currentStep}")
    else:
        simulation.context.setPositions(prepared.positions * unit.angstrom)
        simulation.minimizeEnergy(maxIterations=iterations)
        simulation.context.setVelocitiesToTemperature(300 * unit.kelvin, 1)
        state = simulation.context.getState(getPositions=True)
        with open(output / "start.pdb", "w") as file:
            app.PDBFile.writeFile(prepared.topology, state.getPositions(), file)
    simulation.reporters += [
        app.DCDReporter(str(output / "trajectory.dcd"), interval, append=resumed),
        app.StateDataReporter(
            str(output / "state.csv"),
            interval,
            append=resumed,
            step=True,
            potentialEnergy=True,
            temperature=True,
        ),
        app.CheckpointReporter(str(checkpoint), interval),
    ]
    simulation.step(max(0, steps - simulation.currentStep))
    energy = simulation.context.getState(getEnergy=True).getPotentialEnergy()
    if not math.isfinite(energy.value_in_unit(unit.kilojoule_per_mole)):
        raise SystemExit("the energy is not finite")
    print(f"{simulation.currentStep} steps of 1 fs, energy {energy}; written: {output}")


if __name__ == "__main__":
    main()
