"""One uninterrupted trajectory in memory, and what several of one system have in common."""

from dataclasses import dataclass
from typing import Optional, Sequence

import numpy as np

from dkmp_plugin.superposition import superpose

# In Å: formats round positions to 0.01 at most; between frames that say anything some atom moves farther.
_SAME, _MOVED = 0.02, 0.1


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


def holds_start_of(run: Run, other: Run) -> bool:
    """Whether a run goes through the first two frames of another, to the precision of trajectory formats.

    One frame alone is often shared: that from which replicas start.

    Args:
        run: A run.
        other: Another; where nothing moves in its first two frames the answer is no.
    """
    start = other.positions[:2]
    if not same_atoms([run, other]) or len(start) < 2 or np.abs(start[1] - start[0]).max() < _MOVED:
        return False
    # The first atom tells most frames apart.
    near = np.abs(run.positions[:-1, 0] - start[0, 0]).max(axis=1) < _SAME
    return any(
        bool(np.abs(run.positions[frame : frame + 2] - start).max() < _SAME) for frame in np.flatnonzero(near)
    )


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
