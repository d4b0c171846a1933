"""Lengths of spherical features."""

from typing import Tuple

import torch
from torch import Tensor, nn

from dkmp_plugin.ops import degree_norm_apart_through, degree_norm_through


class DegreeNorm(nn.Module):
    """Each degree's features over their root mean square length over the channels, times learned factors.

    Args:
        hidden_channels: Width d.
        offset: Added to the mean square: features much shorter than its root keep their length, so the result
            is smooth where they vanish.
        dtype: Floating-point type.
    """

    def __init__(self, hidden_channels: int, offset: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.offset = offset
        self.weight = nn.Parameter(torch.ones(2, hidden_channels, dtype=dtype))

    def reset_parameters(self) -> None:
        """Factors of one."""
        nn.init.ones_(self.weight)

    def forward(self, vector: Tensor) -> Tuple[Tensor, Tensor]:
        """Normalised features, shape (N, 8, d) as the argument; and the argument, to go on with.

        Whoever goes on with what is handed on lets this backward add all gradients in one pass over memory.
        """
        return degree_norm_through(vector, self.weight, self.offset)

    def apart(self, vector: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """The same as features of degree 1, shape (N, 3, d), and of degree 2, shape (N, 5, d)."""
        return degree_norm_apart_through(vector, self.weight, self.offset)
