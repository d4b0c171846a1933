"""Loads a potential from whatever the user has: an exported model or a training checkpoint."""

from pathlib import Path
from typing import Tuple

import torch

from dkmp_plugin.simulation.model_file import ModelInfo, load_model_file, read_model_info
from dkmp_plugin.simulation.torchscript_file import is_checkpoint


def load_model(path: Path) -> Tuple[torch.jit.ScriptModule, ModelInfo]:
    """Load a potential.

    Args:
        path: A model exported with ``dkmp export`` (``.pt``) or a training checkpoint (``.ckpt``), which
            keeps the precision of its training. What a file is its content says.

    Returns:
        The scripted ``forward(z, pos, box) -> energy`` and its description.

    Raises:
        ValueError: If the file is not a readable DKMP^C model.
    """
    path = path.expanduser()
    if is_checkpoint(path):
        from dkmp_plugin.simulation.export import script_checkpoint

        return script_checkpoint(path)
    return load_model_file(path)


def read_info(path: Path) -> ModelInfo:
    """The description alone, of the same files; see :func:`load_model`."""
    path = path.expanduser()
    return load_model(path)[1] if is_checkpoint(path) else read_model_info(path)
