"""Which device a model runs on: what users may ask for, and what this machine has."""

import warnings
from typing import Optional, Union

import torch


def resolve_device(device: Union[str, torch.device, None] = None) -> torch.device:
    """The device that was asked for, if it can be used here.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``; None for the GPU where there is one that the ops can run on,
            else the CPU.

    Returns:
        The device; ``cuda`` without a number is the current GPU.

    Raises:
        ValueError: Another kind of device, or a GPU that cannot be used here.
    """
    if device is None:
        return torch.device("cpu" if why_no_gpu() else "cuda")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "cuda"):
        raise ValueError(f"device: '{device}' was given, one of cpu, cuda, cuda:0, cuda:1, ... is expected")
    if chosen.type == "cpu":
        return torch.device("cpu")
    reason = why_no_gpu()
    if reason is None and chosen.index is not None and chosen.index >= torch.cuda.device_count():
        reason = f"torch sees {torch.cuda.device_count()} GPU(s), counted from 0"
    if reason is not None:
        raise ValueError(
            f"device: '{device}' was given, but {reason}; use 'cpu', or see the line GPU of `dkmp info`"
        )
    return chosen


def available_device(device: Optional[str]) -> torch.device:
    """As :func:`resolve_device`, for what was chosen on another machine: the nearest that this one has.

    Args:
        device: What was asked for there.
    """
    try:
        return resolve_device(device)
    except ValueError as error:
        chosen = resolve_device()
        warnings.warn(f"{error}. The model runs on '{chosen}' instead", stacklevel=2)
        return chosen


def why_no_gpu() -> Optional[str]:
    """Why models cannot run on a GPU; None where they can."""
    from dkmp_plugin import ops

    if not torch.cuda.is_available():
        built = "" if torch.backends.cuda.is_built() else ", because this torch was built for CPUs alone"
        return f"torch sees no GPU{built}"
    # Without the native library the reference runs, wherever torch does.
    return ops.why_no_cuda() if ops.status().native else None


def synchronize(device: torch.device) -> None:
    """Wait for what was started on a device, before reading a clock."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
