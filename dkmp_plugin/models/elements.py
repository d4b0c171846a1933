"""Which elements a model has seen in training."""

from typing import Iterable, Sequence


def check_elements(atomic_numbers: Iterable[int], trained: Sequence[int]) -> None:
    """Refuses atoms of elements that a model has never seen.

    Args:
        atomic_numbers: of the system.
        trained: of the training data.

    Raises:
        ValueError: naming the elements.
    """
    unknown = sorted(set(atomic_numbers) - set(trained))
    if unknown:
        raise ValueError(
            f"the system holds elements {unknown} (atomic numbers), the model was trained on "
            f"{list(trained)}; choose a selection without them, or train on data that has them"
        )
