"""Further runs of chignolin like the shared ones, for tests on structures that no choice was made with.

Amber14 + OBC2 dynamics from chignolin.pdb, a run per temperature with a seed of its own, frames labelled with
GFN2-xTB + ALPB water. The files have the arrays of shared/data/chignolin:

    python scripts/label_further_runs.py        # runs/further_300.npz and _400.npz, half an hour each
    python scripts/reproduce_s2ef.py evaluate chignolin-elastic "$PWD/runs/further_400.npz@0:200"

A finished file is not made again.
"""

import argparse
from pathlib import Path

import numpy as np
from amber_chignolin import load_amber_chignolin
from chignolin_labels import write_labelled
from openmm import unit
from shared_data import data_folder

from dkmp_plugin.labeling.sampling import sample_langevin

TIME_STEP = 0.5  # fs
STEPS_BETWEEN_FRAMES = 1000  # twice as many as between the shared frames: less alike
EQUILIBRATION_STEPS = 40_000


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    data = data_folder()
    parser.add_argument("--data", type=Path, default=data / "chignolin", help="shared/data/chignolin")
    parser.add_argument("--output", type=Path, default=Path("runs"), help="folder to write into [runs]")
    parser.add_argument("--temperatures", type=int, nargs="+", default=[300, 400], help="K [300 400]")
    parser.add_argument("--frames", type=int, default=200, help="of every run [200]")
    parser.add_argument("--seed", type=int, default=2026, help="of the dynamics, plus the temperature [2026]")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    pdb, system = load_amber_chignolin(arguments.data)
    z = np.array([atom.element.atomic_number for atom in pdb.topology.atoms()])
    start = pdb.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    for temperature in arguments.temperatures:
        path = arguments.output / f"further_{temperature}.npz"
        if path.is_file():
            print(f"{path} is there")
            continue
        picoseconds = TIME_STEP * (EQUILIBRATION_STEPS + STEPS_BETWEEN_FRAMES * arguments.frames) / 1000
        print(f"{temperature} K: {picoseconds:g} ps of dynamics, then {arguments.frames} labels", flush=True)
        positions = sample_langevin(
            system,
            start,
            temperature=temperature,
            num_frames=arguments.frames,
            seed=arguments.seed + temperature,
            steps_between_frames=STEPS_BETWEEN_FRAMES,
            equilibration_steps=EQUILIBRATION_STEPS,
            time_step=TIME_STEP,
        )
        write_labelled(path, z, positions)
        print(f"{path}: {len(positions)} structures")


if __name__ == "__main__":
    main()
