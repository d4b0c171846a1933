"""One energy per element, which training subtracts from total energies: fits and checks."""

from math import isfinite
from typing import Dict, Iterable, Mapping, Sequence

import numpy as np


def least_squares_reference_energies(
    elements: Sequence[int], composition: np.ndarray, energies: np.ndarray
) -> Dict[int, float]:
    """Per-element energies whose sum comes closest to the given total energies.

    Where all structures have the same composition only the sum is determined (the mean energy); the smallest
    values that give it are taken. They have no physical meaning beyond that sum.

    Args:
        elements: The E elements.
        composition: (M, E) how often each occurs in each structure.
        energies: (M,) total energies.

    Returns:
        Atomic number -> energy, in the unit of ``energies``.
    """
    solution, *_ = np.linalg.lstsq(composition.astype(np.float64), energies.astype(np.float64), rcond=None)
    return {int(element): float(value) for element, value in zip(elements, solution, strict=True)}


def fit_reference_energies(atomic_numbers: np.ndarray, energies: np.ndarray) -> Dict[int, float]:
    """Per-element energies whose sum comes closest to the given total energies (least squares).

    With one molecule only their sum is determined (the mean energy); the smallest values that give it
    are taken. They have no physical meaning beyond that sum.

    Args:
        atomic_numbers: (N,).
        energies: (M,) total energies of conformations of that molecule.

    Returns:
        Atomic number -> energy, in the unit of ``energies``.
    """
    elements, counts = np.unique(atomic_numbers, return_counts=True)
    return least_squares_reference_energies(elements.tolist(), counts[None, :], np.array([np.mean(energies)]))


def check_reference_energies(elements: Sequence[int], given: Mapping[int, float]) -> Dict[int, float]:
    """Reference energies that a user gave, with plain keys and values.

    Raises:
        ValueError: an element of the data has none, keys that are no atomic numbers, values that are no
            energies (NaN is none), or anything else than a mapping.
    """
    if not isinstance(given, Mapping):
        raise ValueError(
            f"reference_energies: {given!r} was given, an energy for each atomic number is expected, such as "
            "{1: -13.6, 8: -2040.3}; leave it out for a fit, or give {} for total energies"
        )
    references: Dict[int, float] = {}
    for element, energy in given.items():
        try:
            number, value = float(element), float(energy)
        except (TypeError, ValueError):
            number = value = float("nan")
        if not number.is_integer() or not isfinite(value):
            raise ValueError(
                f"reference_energies: {element!r}: {energy!r} was given, an atomic number and an energy are "
                "expected, such as 1: -13.6"
            )
        references[int(number)] = value
    check_covered(elements, references)
    return references


def check_covered(elements: Iterable[int], references: Mapping[int, float]) -> None:
    """Refuse reference energies of some elements only.

    Args:
        elements: Those of the data.
        references: Atomic number -> energy.

    Raises:
        ValueError: an element of the data has none.
    """
    uncovered = sorted(set(elements) - set(references))
    if uncovered:
        raise ValueError(
            f"reference_energies lack the elements {uncovered} that the data has; give one energy for each"
        )
