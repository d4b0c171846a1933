"""Loads a potential from whatever the user has: an exported model or a training checkpoint."""

from pathlib import Path
from typing import Tuple

import torch

from dkmp_plugin.simulation.model_file import ModelInfo, load_model_file


def load_model(path: Path) -> Tuple[torch.jit.ScriptModule, ModelInfo]:
    """Load a potential.

    Args:
        path: A model exported with ``dkmp export`` (``.pt``) or a training checkpoint (``.ckpt``), which
            keeps the precision of its training.

    Returns:
        The scripted ``forward(z, pos, box) -> energy`` and its description.

    Raises:
        ValueError: If the file is not a readable DKMP^C model.
    """
    if path.suffix == ".ckpt":
        from dkmp_plugin.simulation.export import script_checkpoint

        return script_checkpoint(path)
    return load_model_file(path)
