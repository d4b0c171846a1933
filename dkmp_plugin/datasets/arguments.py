"""The keys of ``dataset_arg``: torchmd-net hands them to the dataset as keyword arguments."""

import inspect
from numbers import Integral
from typing import Any, Iterable


def refuse_unknown_arguments(dataset: type, given: Iterable[str], more: Iterable[str] = ()) -> None:
    """Refuses keyword arguments that a dataset does not take.

    Called by ``__new__``, which sees them before Python's own TypeError.

    Args:
        dataset: The class.
        given: Names of the keyword arguments.
        more: What it takes as ``**keywords``, where its signature has these.

    Raises:
        ValueError: an unknown one; the message names those that are known.
    """
    known = []
    for parameter in list(inspect.signature(dataset.__init__).parameters.values())[1:]:  # type: ignore[misc]
        known += list(more) if parameter.kind is parameter.VAR_KEYWORD else [parameter.name]
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ValueError(
            f"dataset_arg: {', '.join(map(repr, unknown))} is unknown to {dataset.__name__}, which takes "
            f"{', '.join(name for name in known if name != 'root')}; correct the name"
        )


def check_whole_number(name: str, value: Any, least: int) -> None:
    """Refuses what is no whole number of at least ``least``.

    Args:
        name: The key.
        value: What was given.
        least: Smallest possible value.

    Raises:
        ValueError: another type, or a smaller number.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}: {value!r} was given, a whole number of at least {least} is expected")
