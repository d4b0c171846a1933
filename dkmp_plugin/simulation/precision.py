"""Floating-point types of exported models, by the names that their files hold."""

import torch

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


def torch_dtype(name: str) -> torch.dtype:
    """The type of a name.

    Args:
        name: ``float32`` or ``float64``.

    Raises:
        ValueError: another name.
    """
    if name not in _DTYPES:
        raise ValueError(f"dtype: {name!r} was given, 'float32' or 'float64' is expected")
    return _DTYPES[name]
