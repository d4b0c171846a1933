"""Potentials with random weights whose forces are strong enough to compare."""

from typing import Any, Dict

import torch
from torchmdnet.models.model import TorchMD_Net, create_model

from dkmp_plugin.models.radial import RadialFilters


def strong_potential(settings: Dict[str, Any]) -> TorchMD_Net:
    """A torchmd-net model with random weights, and radial filters as large as a trained model's.

    Fresh filters start small: the forces would be too weak for comparisons to tell right from wrong.
    """
    model = create_model(settings)
    for module in model.modules():
        if isinstance(module, RadialFilters):
            with torch.no_grad():
                module.linear.weight *= module.gain
    return model
