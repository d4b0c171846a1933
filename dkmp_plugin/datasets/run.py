"""One uninterrupted trajectory in memory, and what several of one system have in common."""

from dataclasses import dataclass
from typing import Optional, Sequence

import numpy as np

from dkmp_plugin.superposition import superpose


@dataclass(frozen=True)
class Run:
    """One uninterrupted trajectory.

    Attributes:
        name: File and, where it holds several runs, ``#`` and the number of this one.
        numbers: (N,) int64 atomic numbers.
        positions: (T, N, 3) in Å, float32.
        boxes: (T, 3, 3) box vectors as rows in Å, float32, or None.
        spacing: Picoseconds from frame to frame, or None if they are not known.
    """

    name: str
    numbers: np.ndarray
    positions: np.ndarray
    boxes: Optional[np.ndarray] = None
    spacing: Optional[float] = None


def same_atoms(runs: Sequence[Run]) -> bool:
    """Whether all runs are of the same system."""
    return all(np.array_equal(run.numbers, runs[0].numbers) for run in runs)


def mean_structure(runs: Sequence[Run]) -> np.ndarray:
    """Mean over all frames of runs of one system, superposed on it.

    Args:
        runs: The runs.

    Returns:
        (N, 3) in Å, float32, oriented as the first frame of the first run.

    Raises:
        ValueError: the runs are of different systems.
    """
    if not same_atoms(runs):
        raise ValueError("reference: mean needs runs of one system; use reference: first")
    mean = np.asarray(runs[0].positions[0], dtype=np.float64)
    count = sum(len(run.positions) for run in runs)
    # First on the first frame, then on the mean so far, which hardly changes any more.
    for _ in range(3):
        total = [superpose(run.positions, mean).sum(axis=0, dtype=np.float64) for run in runs]
        mean = np.sum(total, axis=0) / count
    return mean.astype(np.float32)
