"""How far apart neighbouring atoms are: it tells Å from nm where no bonds are known."""

import numpy as np
from scipy.spatial import cKDTree


def nearest_distances(positions: np.ndarray) -> np.ndarray:
    """Distances (N,) from each atom to its nearest neighbour, in the unit of the positions.

    Args:
        positions: (N, 3), of at least two atoms.
    """
    return cKDTree(positions).query(positions, k=2)[0][:, 1]


def median_nearest_distance(positions: np.ndarray) -> float:
    """Median of :func:`nearest_distances`."""
    return float(np.median(nearest_distances(positions)))
