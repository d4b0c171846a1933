"""Makes a molecule whole that the periodic box of a simulation cut apart."""

from typing import Optional, Sequence, Set, Tuple

import numpy as np

from dkmp_plugin.labeling.connectivity import bonded_neighbors

# No covalent bond is that long, and half a box that holds a molecule in water is longer.
_LONGEST_BOND = 5.0  # Å


def make_whole(
    positions: np.ndarray, bonds: Sequence[Tuple[int, int]], box: Optional[np.ndarray], name: str
) -> np.ndarray:
    """Moves atoms by box vectors until no bond is cut.

    Args:
        positions: (N, 3) in Å.
        bonds: Pairs of atoms.
        box: Box vectors as rows in Å, (3, 3), or None.
        name: What the molecule is, for messages.

    Returns:
        (N, 3) in Å; ``positions`` as they are where no bond is cut.

    Raises:
        ValueError: If a bond is cut and there is no box, or none that makes it whole.
    """
    neighbors = bonded_neighbors(len(positions), bonds)
    shifted = positions.copy()
    placed: Set[int] = set()
    for start in range(len(positions)):
        waiting = [] if start in placed else [start]
        placed.add(start)
        while waiting:
            atom = waiting.pop()
            for other in neighbors[atom]:
                if other not in placed:
                    placed.add(other)
                    waiting.append(other)
                    shifted[other] += _shift(shifted[other] - shifted[atom], box)
    for first, second in bonds:
        length = float(np.linalg.norm(shifted[second] - shifted[first]))
        if length > _LONGEST_BOND:
            raise ValueError(
                f"{name}: atoms {first} and {second} of it are bonded but {length:.1f} Å apart; where a "
                "periodic box cut it, give coordinates with that box, or make it whole (cpptraj: autoimage)"
            )
    return shifted


def _shift(vector: np.ndarray, box: Optional[np.ndarray]) -> np.ndarray:
    """The box vectors that make the vector of a cut bond short; zero for one that is not cut."""
    if box is None or np.linalg.norm(vector) <= _LONGEST_BOND:
        return np.zeros(3)
    # A box smaller than two bonds, such as the 1 Å of files without one, is none.
    if np.linalg.norm(box, axis=1).min() <= 2 * _LONGEST_BOND:
        return np.zeros(3)
    return -np.rint(np.linalg.solve(box.T, vector)) @ box
