"""What labels must be, whatever file they come from: known units and elements, finite, of a whole charge."""

import warnings
from typing import Any, Optional, Sequence

import numpy as np

from dkmp_plugin.datasets.nearest_distance import nearest_distances
from dkmp_plugin.units import ENERGY_UNITS

# In Å. Neighbours have at least 0.7, and 0.07 to 0.3 in nm. Bonds of hydrogen reach 1.5 in silanes; those to
# C, N and O have 1.8 to 2.1 in bohr.
_CLOSEST_NEIGHBORS = 0.3
_LONGEST_BOND_OF_HYDROGEN = 1.7


def check_energy_unit(energy_unit: str) -> None:
    """Refuse a unit that nothing can be converted from.

    Raises:
        ValueError: it is none of ``ENERGY_UNITS``.
    """
    if energy_unit not in ENERGY_UNITS:
        raise ValueError(
            f"energy_unit: {energy_unit!r} was given, one of {', '.join(ENERGY_UNITS)} is expected; say in "
            "which unit the energies of the file are"
        )


def check_finite(name: str, values: Optional[np.ndarray], structure_of_row: np.ndarray) -> None:
    """Refuse texts and the like, NaN and infinity, and say in which structures these are.

    Args:
        name: What the values are, in the plural.
        values: (R, ...), or None: nothing is checked.
        structure_of_row: (R,) the structure that each row belongs to, ascending from 0.

    Raises:
        ValueError: a value is not finite, or the values are no real numbers.
    """
    if values is None:
        return
    if values.dtype.kind not in "fiu":
        raise ValueError(f"{name} are of type {values.dtype}, real numbers are expected; convert them")
    if np.isfinite(values).all():
        return
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    bad = np.unique(structure_of_row[~finite])
    raise ValueError(
        f"{name} hold NaN or infinity in {bad.size} of {structure_of_row[-1] + 1} structures (first: "
        f"{bad[0]}); remove or relabel them"
    )


def check_length_unit(positions: Sequence[np.ndarray], atomic_numbers: Sequence[np.ndarray]) -> None:
    """Tell nm and bohr from Å: a model of either is useless in simulations, and its errors do not show it.

    Warns where hydrogens are as far from their nearest atoms as in bohr, or in hydrides of metals.

    Args:
        positions: (N, 3) of some structures.
        atomic_numbers: (N,) of the same.

    Raises:
        ValueError: Neighbouring atoms are closer than in any molecule or crystal.
    """
    several = [index for index, numbers in enumerate(atomic_numbers) if len(numbers) > 1]
    if not several:
        return
    nearest = np.concatenate([nearest_distances(positions[index]) for index in several])
    numbers = np.concatenate([atomic_numbers[index] for index in several])
    median = float(np.median(nearest))
    if median < _CLOSEST_NEIGHBORS:
        raise ValueError(
            f"positions: neighbouring atoms are {median:.2g} Å apart (median), 1 to 3 is expected; they may "
            "be in nm: convert them to Å, and forces to energies per Å"
        )
    of_hydrogens = nearest[numbers == 1]
    if of_hydrogens.size and np.median(of_hydrogens) > _LONGEST_BOND_OF_HYDROGEN:
        warnings.warn(
            f"hydrogen atoms are {np.median(of_hydrogens):.2f} Å from their nearest atoms (median), 1 is "
            "usual in molecules; if positions are in bohr, convert them to Å, and forces to energies per Å",
            stacklevel=4,
        )


def check_atomic_numbers(elements: Sequence[int]) -> None:
    """Refuse elements that do not exist.

    Args:
        elements: The atomic numbers that occur, ascending.

    Raises:
        ValueError: one is not from 1 to 118.
    """
    if elements[0] < 1 or elements[-1] > 118:
        raise ValueError(f"atomic_numbers hold {list(elements)}, numbers from 1 to 118 are expected")


def check_total_charge(given: Any, name: str = "total_charge") -> int:
    """A total charge that a user or a file gave, as a plain integer.

    Args:
        given: The value.
        name: What to call it in the error.

    Raises:
        ValueError: it is no whole number.
    """
    try:
        # float(True) is 1.
        number = float("nan") if isinstance(given, (bool, np.bool_)) else float(given)
    except (TypeError, ValueError):
        number = float("nan")
    if not number.is_integer():
        plain = given.item() if isinstance(given, np.generic) else given
        raise ValueError(
            f"{name}: {plain!r} was given, a whole number of elementary charges is expected, such as 0 or -1"
        )
    return int(number)
