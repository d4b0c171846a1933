"""Writes the shared chignolin conformations (GFN2-xTB + ALPB water) as a label file with splits.

Runs 0 (300 K) and 1 (350 K) are for training, the end of run 1 for validation, run 2 (400 K) for testing.
"""

import argparse
from pathlib import Path

import numpy as np
from shared_data import data_folder

from dkmp_plugin.datasets.label_file import (
    LabelledConformations,
    merge_runs,
    write_label_file,
    write_splits,
)

TEMPERATURES = (300, 350, 400)  # K, of the runs; Amber14 + OBC2 dynamics, a frame per 0.25 ps
NUM_VALIDATION = 40  # frames: the last 10 ps of run 1
LEVEL_OF_THEORY = "GFN2-xTB + ALPB water (tblite)"


def read_run(folder: Path, run: int, index: int, frames: slice, split: str) -> LabelledConformations:
    path = folder / f"gfn2_traj{run}.npz"
    if not path.is_file():
        raise SystemExit(f"there is no {path}; set DKMP_DATA to the folder of the shared data")
    arrays = np.load(path)
    energies = arrays["E"][frames]
    condition = f"{TEMPERATURES[run]} K"
    return LabelledConformations(
        atomic_numbers=arrays["z"],
        positions=arrays["R"][frames].astype(np.float64),
        energies=energies,
        forces=arrays["F"][frames].astype(np.float64),
        run=np.full(len(energies), index),
        energy_unit="kcal/mol",
        level_of_theory=LEVEL_OF_THEORY,
        total_charge=-2,
        sampling={"runs": [{"index": index, "split": split, "condition": condition, "trajectory": run}]},
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    data = data_folder()
    parser.add_argument("--data", type=Path, default=data / "chignolin", help="folder of gfn2_traj*.npz")
    parser.add_argument("--output", type=Path, default=Path("runs/nve"), help="folder to write into")
    arguments = parser.parse_args()
    labels = merge_runs(
        [
            read_run(arguments.data, 0, 0, slice(None), "train"),
            read_run(arguments.data, 1, 1, slice(None, -NUM_VALIDATION), "train"),
            read_run(arguments.data, 1, 2, slice(-NUM_VALIDATION, None), "val"),
            read_run(arguments.data, 2, 3, slice(None), "test"),
        ]
    )
    write_label_file(arguments.output / "chignolin.h5", labels)
    write_splits(arguments.output / "splits.npz", labels)
    print(f"{arguments.output / 'chignolin.h5'}: {len(labels)} conformations, labels {LEVEL_OF_THEORY}")


if __name__ == "__main__":
    main()
