"""Where one run of a trajectory file ends and the next begins, and how much time lies between its frames."""

from itertools import pairwise
from pathlib import Path
from typing import List, Optional

import numpy as np

# A jump is this many times the median step and moves atoms by at least this much (root mean square, Å).
_JUMP_FACTOR, _JUMP_MINIMUM = 4.0, 1.0
# Formats that store times; of others mdtraj counts the frames.
_WITH_TIMES = (".xtc", ".trr", ".nc", ".netcdf", ".ncdf", ".h5", ".hdf5", ".lh5")
_TIME_TOLERANCE = 0.01


def find_borders(steps: np.ndarray, times: np.ndarray, stored_times: bool = False) -> List[int]:
    """Frames at which another run begins.

    A frame begins a new run where time does not advance, or where the atoms move several times farther than
    they do in a typical step; and where frames are missing, if times are stored. Times none of which advances
    say nothing.

    Args:
        steps: (T - 1,) root mean square displacement in Å from each frame to the next.
        times: (T,) in ps.
        stored_times: whether they come from the file (see :func:`stores_times`).

    Returns:
        Ascending frame numbers, without 0.
    """
    if len(times) < 3:
        return []
    advance = np.diff(times.astype(np.float64))
    far = (steps > _JUMP_FACTOR * np.median(steps)) & (steps > _JUMP_MINIMUM)
    knows_times = (advance > 0).any()
    begins = far | (advance <= 0) if knows_times else far
    if knows_times and stored_times:
        _mark_gaps(begins, advance, float(np.spacing(np.float32(np.abs(times).max()))))
    return [int(frame) + 1 for frame in np.flatnonzero(begins)]


def _mark_gaps(begins: np.ndarray, advance: np.ndarray, rounding: float) -> None:
    """Marks, in place, advances (T - 1,) in ps that are not those of their run.

    Args:
        begins: (T - 1,) whether another run begins after each frame.
        advance: (T - 1,) in ps.
        rounding: error in ps of a time, which formats store in single precision.
    """
    borders = [-1, *np.flatnonzero(begins), len(advance)]
    for before, after in pairwise(borders):
        within = advance[before + 1 : after]
        if len(within) > 0:
            typical = np.median(within)
            begins[before + 1 : after] = np.abs(within - typical) > _TIME_TOLERANCE * typical + 2 * rounding


def stores_times(path: Path, times: np.ndarray, stride: int) -> bool:
    """Whether times (T,) in ps come from the file: not where they only count the frames."""
    counts = np.array_equal(times, stride * np.arange(len(times)))
    return path.suffix.lower() in _WITH_TIMES and not counts


def frame_spacing(times: np.ndarray) -> Optional[float]:
    """Picoseconds from frame to frame of one run with times (T,), or None if these do not say."""
    advance = float(np.median(np.diff(times.astype(np.float64)))) if len(times) > 1 else 0.0
    return advance if advance > 0 else None


def same_spacing(first: Optional[float], second: Optional[float]) -> bool:
    """Whether two runs may have the same time between frames, in ps; None if it is not known."""
    return first is None or second is None or abs(first - second) <= _TIME_TOLERANCE * max(first, second)
