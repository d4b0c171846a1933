"""TorchScript without the advice of newer torch to leave it: OpenMM's TorchForce takes nothing else."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Dict, Optional, Union

import torch
from torch import nn


@contextmanager
def _without_advice() -> Iterator[None]:
    with warnings.catch_warnings():
        # DeprecationWarning in torch 2.10, FutureWarning in 2.15: of no use to whoever runs a simulation.
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is")
        yield


def script(module: nn.Module) -> torch.jit.ScriptModule:
    """As ``torch.jit.script``."""
    with _without_advice():
        return torch.jit.script(module)


def freeze(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """As ``torch.jit.freeze``."""
    with _without_advice():
        return torch.jit.freeze(module)


def save(
    module: torch.jit.ScriptModule, file: BinaryIO, extra_files: Optional[Dict[str, str]] = None
) -> None:
    """As ``torch.jit.save``; ``extra_files`` are texts by name."""
    with _without_advice():
        torch.jit.save(module, file, _extra_files=extra_files)


def load(
    file: Union[str, Path, BinaryIO], device: Union[str, torch.device] = "cpu"
) -> torch.jit.ScriptModule:
    """As ``torch.jit.load``, onto a device, wherever the module was when it was saved."""
    with _without_advice():
        return torch.jit.load(str(file) if isinstance(file, Path) else file, map_location=device)


def to_bytes(module: torch.jit.ScriptModule) -> bytes:
    """What :func:`save` writes."""
    buffer = io.BytesIO()
    save(module, buffer)
    return buffer.getvalue()


def from_bytes(saved: bytes, device: Union[str, torch.device] = "cpu") -> torch.jit.ScriptModule:
    """The module that :func:`to_bytes` was given, on a device."""
    return load(io.BytesIO(saved), device)
