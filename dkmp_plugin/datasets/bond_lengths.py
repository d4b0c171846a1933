"""Frames whose bonds have lengths that no molecule has: mixed units, molecules cut by the box."""

from typing import Optional

import numpy as np

# Typical lengths in Å of covalent bonds and of the gap between neighbouring selected atoms.
_BOND_RANGE = (0.7, 2.6)
# Topologies with guessed bonds hold a few wrong ones of 4 to 6 Å; a molecule cut by the box is longer.
_LONGEST_BOND = 10.0


def check_bonds(
    name: str,
    positions: np.ndarray,
    bonds: np.ndarray,
    boxes: Optional[np.ndarray] = None,
    first_frame: int = 0,
) -> None:
    """Refuses frames that cannot be what they claim to be.

    Args:
        name: What to call the frames in errors.
        positions: (T, N, 3) in Å.
        bonds: (b, 2) indices of bonded atoms; may be empty.
        boxes: (T, 3, 3) in Å, or None.
        first_frame: What to call the first frame in errors.

    Raises:
        ValueError: bonds of impossible length (unit mix-up), or molecules cut by the box.
    """
    if len(bonds) == 0:
        return
    lengths = np.linalg.norm(positions[:, bonds[:, 0]] - positions[:, bonds[:, 1]], axis=2)
    median = float(np.median(lengths[0]))
    if not _BOND_RANGE[0] <= median <= _BOND_RANGE[1]:
        raise ValueError(
            f"{name}: its bonds have a median length of {median:.3g} Å, about 1 to 1.5 is expected; the file "
            "mixes nm and Å, or the topology belongs to another system"
        )
    check_molecules_are_whole(name, lengths, bonds, boxes, first_frame)


def check_molecules_are_whole(
    name: str,
    lengths: np.ndarray,
    bonds: np.ndarray,
    boxes: Optional[np.ndarray] = None,
    first_frame: int = 0,
) -> None:
    """Refuses bonds that are too long for any molecule.

    Args:
        name: What to call the frames in errors.
        lengths: (T, b) of the bonds in Å; there is at least one.
        bonds: (b, 2) indices of bonded atoms.
        boxes: (T, 3, 3) in Å, or None.
        first_frame: What to call the first frame in errors.

    Raises:
        ValueError: a molecule is cut by the box.
    """
    # Atoms that are not kept may be missing in some frames (NaN).
    frame, bond = np.unravel_index(int(np.argmax(np.nan_to_num(lengths))), lengths.shape)
    longest = _LONGEST_BOND
    if boxes is not None:
        longest = min(longest, 0.5 * float(np.linalg.norm(boxes, axis=2).min()))
    if lengths[frame, bond] > longest:
        raise ValueError(
            f"{name}: in frame {first_frame + frame} atoms {bonds[bond, 0]} and {bonds[bond, 1]} are bonded "
            f"but {lengths[frame, bond]:.1f} Å apart: a molecule is cut by the periodic box; make molecules "
            "whole (mdtraj: trajectory.image_molecules(), GROMACS: trjconv -pbc whole)"
        )
