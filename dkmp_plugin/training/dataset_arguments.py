"""``dataset_arg`` as text: torchmd-net's flag hands it on, to datasets that take keyword arguments."""

from typing import Any, Dict, Optional

import yaml


def parsed_arguments(text: str) -> Optional[Dict[str, Any]]:
    """``dataset_arg`` of a command line.

    Args:
        text: A mapping in YAML, as which JSON counts too, or ``null``.

    Raises:
        ValueError: anything else.
    """
    try:
        arguments = yaml.safe_load(text)
    except yaml.YAMLError:
        arguments = text
    if arguments is None:
        return None
    if not isinstance(arguments, dict) or not all(isinstance(name, str) for name in arguments):
        raise ValueError(
            f"dataset_arg: {text!r} was given, a mapping of names to values is expected; write it as "
            '\'{"files": "a.xyz"}\', or in the configuration'
        )
    return arguments
