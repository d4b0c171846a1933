"""A small molecule and its trajectories in the formats of real simulations."""

from pathlib import Path
from typing import Optional

import mdtraj
import numpy as np

# Two glycines: N, CA, C, O each, in Å.
GLYCINES = np.array(
    [
        [0.0, 0.0, 0.0],
        [1.46, 0.0, 0.0],
        [2.0, 1.42, 0.0],
        [1.25, 2.39, 0.0],
        [3.33, 1.55, 0.0],
        [3.98, 2.85, 0.0],
        [5.49, 2.7, 0.0],
        [6.02, 1.59, 0.0],
    ]
)


def topology() -> mdtraj.Topology:
    """Glycylglycine without hydrogens, with its bonds."""
    result = mdtraj.Topology()
    chain = result.add_chain()
    for _ in range(2):
        residue = result.add_residue("GLY", chain)
        for name in ("N", "CA", "C", "O"):
            result.add_atom(name, mdtraj.element.get_by_symbol(name[0]), residue)
    result.create_standard_bonds()
    return result


def walk(num_frames: int, seed: int = 0, step: float = 0.05, shift: float = 0.0) -> np.ndarray:
    """A random walk (T, 8, 3) in Å away from the start structure."""
    steps = step * np.random.default_rng(seed).normal(size=(num_frames, 8, 3))
    steps[0] = 0
    return GLYCINES + shift + np.cumsum(steps, axis=0)


def write(
    path: Path, positions: np.ndarray, times: Optional[np.ndarray] = None, box: Optional[float] = None
) -> str:
    """Writes positions in Å; returns the file name."""
    trajectory = mdtraj.Trajectory(positions / 10.0, topology(), times)
    if box is not None:
        trajectory.unitcell_lengths = np.full((len(positions), 3), box / 10.0)
        trajectory.unitcell_angles = np.full((len(positions), 3), 90.0)
    trajectory.save(str(path))
    return path.name
