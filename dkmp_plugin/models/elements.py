"""Which elements a model has seen in training."""

from typing import Iterable, Sequence

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


def _symbols(atomic_numbers: Iterable[int]) -> str:
    return ", ".join(_SYMBOLS.get(number, f"element {number}") for number in atomic_numbers)
