"""Widths of periodic boxes, and boxes that are none."""

import numpy as np
from ase.geometry import minkowski_reduce

# In Å. No crystal's cell is as narrow; PDB files write CRYST1 1 1 1 where there is no cell.
_NARROWEST = 1.5


def box_width(vectors: np.ndarray) -> float:
    """The smallest distance between opposite faces.

    Args:
        vectors: Box vectors as rows, shape (3, 3).

    Returns:
        In the unit of the vectors.
    """
    volume = abs(np.linalg.det(vectors))
    return min(float(volume / np.linalg.norm(np.cross(vectors[i - 2], vectors[i - 1]))) for i in range(3))


def refuse_placeholder(vectors: np.ndarray, remedy: str) -> None:
    """Refuse the box that some files have in place of none.

    Args:
        vectors: Box vectors as rows in Å, shape (3, 3).
        remedy: How to leave out the box.

    Raises:
        ValueError: If it is narrower than any crystal's cell.
    """
    width = box_width(vectors)
    if width < _NARROWEST:
        # Of the same lattice, however skewed the vectors are that describe it.
        width = box_width(minkowski_reduce(vectors)[0])
    if width < _NARROWEST:
        raise ValueError(
            f"the periodic box is {width:.2f} Å wide, at least {_NARROWEST} Å is expected: some files hold a "
            f"box of 1 Å where there is none; {remedy}"
        )
