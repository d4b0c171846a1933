"""Force of one atom moved along the line to another: is a potential smooth where a simulation found a jump?

`dkmp nve` keeps the state before the largest change of energy. Of a pair of atoms in it,

    python scripts/scan_pair.py structure.pdb before_largest_change.npz 160 42 model.pt other.pt

prints, for every model or checkpoint, how fast the force on the first atom changes along the line. A step of
0.5 fs moves a hydrogen by 0.02 Å: slopes that swing within that are not resolved.
"""

import argparse
from pathlib import Path

import ase.io
import numpy as np
import torch

from dkmp_plugin.evaluation.smoothness import LineScan
from dkmp_plugin.simulation.model_source import load_model
from dkmp_plugin.training.log_dir import best_checkpoint
from dkmp_plugin.units import ANGSTROM_PER_NANOMETER, energy_factor

STEP = 0.01  # Å


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("structure", help="PDB file, for the elements")
    parser.add_argument("state", type=Path, help="state of dkmp nve in OpenMM")
    parser.add_argument("moved", type=int, help="index of the atom that is moved")
    parser.add_argument("other", type=int, help="index of the atom it is moved to and from")
    parser.add_argument("models", nargs="+", type=Path, help="model files, checkpoints, or log_dirs")
    parser.add_argument("--range", nargs=2, type=float, default=(1.6, 2.4), help="distances in Å [1.6 2.4]")
    return parser.parse_args()


def slopes(
    path: Path, z: torch.Tensor, start: np.ndarray, moved: int, other: int, distances: np.ndarray
) -> np.ndarray:
    """Slope of the force on ``moved`` in eV/Å^2, at distances from ``other`` along the line through both."""
    model, info = load_model(best_checkpoint(path) if path.is_dir() else path)
    model = model.double()
    line = start[moved] - start[other]
    scan = LineScan(lambda positions: model(z, positions, None), start, [moved], line)
    in_ev = energy_factor(info.energy_unit, "eV")
    return in_ev * scan.run(distances - np.linalg.norm(line)).force_slope


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    z = torch.as_tensor(ase.io.read(arguments.structure, index=0).numbers)
    with np.load(arguments.state) as state:
        start = ANGSTROM_PER_NANOMETER * state["positions"]
    distances = np.arange(arguments.range[0], arguments.range[1] + STEP / 2, STEP)
    print("slope of the force along the line, eV/Å^2: RMS, largest; its change along the line, eV/Å^3: RMS")
    for path in arguments.models:
        slope = slopes(path, z, start, arguments.moved, arguments.other, distances)
        change = np.gradient(slope, STEP)
        rms, change_rms = np.sqrt(np.mean(slope**2)), np.sqrt(np.mean(change**2))
        print(f"{path}: {rms:.3g}, {np.abs(slope).max():.3g}; {change_rms:.3g}", flush=True)


if __name__ == "__main__":
    main()
