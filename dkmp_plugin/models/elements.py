"""Which elements a model has seen in training, and of which composition its structures were."""

import warnings
from collections import Counter
from math import gcd
from typing import Dict, Iterable, Mapping, Optional, Sequence

from torchmdnet.utils import ATOMIC_NUMBERS

_SYMBOLS = {number: symbol for symbol, number in ATOMIC_NUMBERS.items()}


def check_elements(atomic_numbers: Iterable[int], trained: Sequence[int], model: str = "the model") -> None:
    """Refuses atoms of elements that a model has never seen.

    Args:
        atomic_numbers: of the system.
        trained: of the training data.
        model: name of the model, for the message.

    Raises:
        ValueError: naming the elements.
    """
    unknown = sorted(set(atomic_numbers) - set(trained))
    if unknown:
        raise ValueError(
            f"the system holds {_symbols(unknown)}, but {model} was trained on {_symbols(trained)} only; "
            "leave these atoms out, or use a model trained on data that has them"
        )


def warn_of_other_composition(
    atomic_numbers: Iterable[int],
    trained: Optional[Sequence[Mapping[str, int]]],
    model: str = "the model",
    stacklevel: int = 2,
) -> None:
    """Warns where atoms are not of the composition of a structure in the training data, or of several copies.

    The model of one ligand computes energies for any other of the same elements, and they mean nothing.

    Args:
        atomic_numbers: of the system.
        trained: atoms per element (atomic number as text) of every composition in the training data; None
            where it is not known, or they were many.
        model: name of the model, for the message.
        stacklevel: as of ``warnings.warn``, seen from the caller.
    """
    given = {str(number): count for number, count in Counter(atomic_numbers).items()}
    if not trained or _reduced(given) in [_reduced(composition) for composition in trained]:
        return
    warnings.warn(
        f"the atoms are {_formula(given)}, but {model} was trained on "
        f"{', '.join(_formula(composition) for composition in trained)} alone: its energies and forces may "
        "mean nothing here; give the model of this molecule",
        stacklevel=stacklevel + 1,
    )


def _reduced(composition: Mapping[str, int]) -> Dict[str, int]:
    factor = gcd(*composition.values())
    return {number: count // factor for number, count in composition.items()}


def _formula(composition: Mapping[str, int]) -> str:
    """In Hill's order: carbon, hydrogen, then the others by their symbols."""
    counts = {_symbols([int(number)]): count for number, count in composition.items()}
    first = ("C", "H") if "C" in counts else ()
    order = sorted(counts, key=lambda symbol: (symbol not in first, symbol))
    return "".join(f"{symbol}{counts[symbol] if counts[symbol] > 1 else ''}" for symbol in order)


def _symbols(atomic_numbers: Iterable[int]) -> str:
    return ", ".join(_SYMBOLS.get(number, f"element {number}") for number in atomic_numbers)
