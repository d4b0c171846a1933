"""Lengths of spherical features."""

import torch
from torch import Tensor, nn


class DegreeNorm(nn.Module):
    """Each degree's features over their root mean square length over the channels, times learned factors.

    Features near zero stay near zero (the mean square is offset by 0.01), so the result is smooth.

    Args:
        hidden_channels: Width d.
        dtype: Floating-point type.
    """

    def __init__(self, hidden_channels: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, hidden_channels, dtype=dtype))

    def reset_parameters(self) -> None:
        """Factors of one."""
        nn.init.ones_(self.weight)

    def forward(self, vector: Tensor) -> Tensor:
        """Normalised features, shape (N, 8, d) as the argument."""
        first, second = vector.split([3, 5], dim=1)
        power = torch.stack(
            [first.square().sum(dim=1).mean(dim=1), second.square().sum(dim=1).mean(dim=1)], dim=1
        )
        factors = torch.rsqrt(power + 0.01).unsqueeze(2) * self.weight
        return torch.cat([first * factors[:, :1], second * factors[:, 1:]], dim=1)
