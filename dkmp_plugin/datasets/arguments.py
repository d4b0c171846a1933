"""``dataset_root`` and the keys of ``dataset_arg``: torchmd-net hands the first to the dataset by position,
the others as keyword arguments.
"""

import inspect
from numbers import Integral
from os import PathLike
from typing import Any, Iterable, Mapping, Sequence


def check_arguments(
    dataset: type, positional: Sequence[Any], given: Mapping[str, Any], more: Iterable[str] = ()
) -> None:
    """Refuses arguments that a dataset does not take, or that lack what it needs.

    Called by ``__new__``, which sees them before Python's own TypeError.

    Args:
        dataset: The class.
        positional: The arguments without a name.
        given: The keyword arguments.
        more: Names that it takes as ``**keywords``, where its signature has these.

    Raises:
        ValueError: an unknown one (the message names those that are known), a missing one, or a root that is
            no path.
    """
    if not positional and not given:
        # So does pickle call __new__; of a user's call without arguments Python says what is missing.
        return
    parameters = list(inspect.signature(dataset.__init__).parameters.values())[1:]  # type: ignore[misc]
    known = []
    for parameter in parameters:
        known += list(more) if parameter.kind is parameter.VAR_KEYWORD else [parameter.name]
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ValueError(
            f"dataset_arg: {', '.join(map(repr, unknown))} is unknown to {dataset.__name__}, which takes "
            f"{', '.join(name for name in known if name != 'root')}; correct the name"
        )
    values = {**dict(zip(known, positional, strict=False)), **given}
    if "root" in values and not isinstance(values["root"], (str, PathLike)):
        raise ValueError(
            f"dataset_root: {values['root']!r} was given, the path of {dataset.__name__}'s folder or file is "
            "expected; add it to the configuration"
        )
    required = [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    missing = [name for name in required if name not in values]
    if missing:
        raise ValueError(
            f"dataset_arg: {dataset.__name__} needs {', '.join(missing)}, which was not given; add it"
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


def check_boolean(name: str, value: Any) -> None:
    """Refuses what is not True or False: texts, of which every one but the empty counts as true.

    Args:
        name: The key.
        value: What was given.

    Raises:
        ValueError: another type.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name}: {value!r} was given, true or false is expected")
