"""The reference of :func:`dkmp_plugin.ops.linear`."""

from typing import Optional

import torch
from torch import Tensor


def linear(input: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    """Reference of :func:`dkmp_plugin.ops.linear`."""
    return torch.nn.functional.linear(input, weight, bias)
