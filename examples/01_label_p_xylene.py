"""Samples p-xylene (out of T4 lysozyme L99A + p-xylene) and labels it with GFN2-xTB: one HDF5 file.

Independent Langevin runs at several temperatures, plus strained frames; every run belongs as a whole to
the training, validation or test split. An interrupted campaign goes on where it stopped.
"""

import argparse
import os
from pathlib import Path

# One small molecule at a time: more threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from t4_lysozyme import LIGAND_RESIDUE, complex_files

from dkmp_plugin.datasets.label_file import split_indices, write_splits
from dkmp_plugin.labeling.amber import read_amber
from dkmp_plugin.labeling.campaign import plan_runs, run_campaign


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=Path("runs/demo/p_xylene.h5"), help="label file to write"
    )
    parser.add_argument(
        "--splits", type=Path, help="npz for torchmd-net's `splits:` [splits.npz beside the output]"
    )
    parser.add_argument("--temperatures", type=float, nargs="+", default=[300.0, 500.0, 800.0], help="kelvin")
    parser.add_argument("--train-runs", type=int, default=6, help="training runs per condition")
    parser.add_argument("--train-frames", type=int, default=125, help="labels per training run")
    parser.add_argument(
        "--val-frames", type=int, default=50, help="labels per validation run (one per condition)"
    )
    parser.add_argument(
        "--test-frames", type=int, default=100, help="labels per test run (one per condition)"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of the first run; each run has its own")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    prmtop, coordinates = complex_files()
    molecule = read_amber(prmtop, coordinates, LIGAND_RESIDUE)
    frames = {
        "train": [arguments.train_frames] * arguments.train_runs,
        "val": [arguments.val_frames],
        "test": [arguments.test_frames],
    }
    runs = plan_runs(frames, arguments.temperatures, arguments.seed)
    labels = run_campaign(molecule, runs, arguments.output)
    splits = arguments.splits or arguments.output.with_name("splits.npz")
    write_splits(splits, labels)
    sizes = ", ".join(f"{name} {len(members)}" for name, members in split_indices(labels).items())
    print(f"{len(labels)} labels ({sizes}) from {len(runs)} independent runs, {labels.level_of_theory}")
    print(f"written: {arguments.output} and {splits}")


if __name__ == "__main__":
    main()
