"""Rigid superposition of structures (Kabsch 1976, doi:10.1107/S0567739476001873)."""

from typing import Tuple

import numpy as np

# Frames that are turned together; bounds what double precision costs in memory.
_CHUNK_FRAMES = 1000


def superpose(positions: np.ndarray, reference: np.ndarray, each_frame: bool = True) -> np.ndarray:
    """Rigidly moves frames onto a reference structure, so that their squared distances are the least.

    Args:
        positions: (T, n, 3).
        reference: (n, 3), in the same unit.
        each_frame: superpose every frame on its own (removes tumbling); otherwise the motion that superposes
            the first frame is applied to all.

    Returns:
        (T, n, 3), of the type of ``positions``.
    """
    center = reference.mean(axis=0, dtype=np.float64)
    target = reference - center
    moved = np.empty_like(positions)
    first = _center(positions[:1])
    rotation, shift = _rotations(first[0], target), first[1]
    for start in range(0, len(positions), _CHUNK_FRAMES):
        chunk = slice(start, start + _CHUNK_FRAMES)
        if each_frame:
            centered, _ = _center(positions[chunk])
            rotation = _rotations(centered, target)
        else:
            centered = positions[chunk] - shift
        moved[chunk] = centered @ rotation + center
    return moved


def remove_drift(positions: np.ndarray) -> np.ndarray:
    """Superposes every frame of a run onto the one before: no overall motion, the path itself stays.

    Args:
        positions: (T, n, 3).

    Returns:
        (T, n, 3), of the type of ``positions``; the first frame as given.
    """
    moved = positions.copy()
    for index in range(1, len(positions)):
        moved[index] = superpose(positions[index : index + 1], moved[index - 1])[0]
    return moved


def _center(frames: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Frames (T, n, 3) about their centroids, and these (T, 1, 3), in double precision."""
    double = frames.astype(np.float64)
    centroids = double.mean(axis=1, keepdims=True)
    return double - centroids, centroids


def _rotations(centered: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Matrices (T, 3, 3) that turn rows (T, n, 3) onto the target (n, 3), both about their centroids."""
    left, _, right = np.linalg.svd(centered.transpose(0, 2, 1) @ target)
    # No mirror image: where that would fit better, the shortest axis is turned the other way.
    left[:, :, 2] *= np.sign(np.linalg.det(left @ right))[:, None]
    return left @ right
