"""Spherical features as Cartesian tensors: degree 2 as symmetric traceless matrices, and lengths of features.

The order of the components is that of ``dkmp_plugin.ops.reference.spherical_harmonics``.
"""

import math

import torch
from torch import Tensor, nn

# Factors: a unit vector u has |u u^T - 1/3|^2 = 2/3, and its five harmonics of degree 2 have length one.


def to_matrices(features: Tensor) -> Tensor:
    """Features of degree 2, (N, 5, d), as symmetric traceless matrices (N, 3, 3, d) of the same length."""
    xz, xy, yy, yz, difference = (features * math.sqrt(0.5)).unbind(1)
    yy = yy / math.sqrt(3.0)
    rows = [-yy - difference, xy, xz, xy, 2.0 * yy, yz, xz, yz, difference - yy]
    return torch.stack(rows, dim=1).view(features.size(0), 3, 3, features.size(2))


def from_matrices(matrices: Tensor) -> Tensor:
    """The symmetric traceless part of matrices (N, 3, 3, d) as features of degree 2, (N, 5, d)."""
    half = 0.5 * math.sqrt(3.0)
    xz = half * (matrices[:, 0, 2] + matrices[:, 2, 0])
    xy = half * (matrices[:, 0, 1] + matrices[:, 1, 0])
    yy = matrices[:, 1, 1] - 0.5 * (matrices[:, 0, 0] + matrices[:, 2, 2])
    yz = half * (matrices[:, 1, 2] + matrices[:, 2, 1])
    difference = half * (matrices[:, 2, 2] - matrices[:, 0, 0])
    return torch.stack([xz, xy, yy, yz, difference], dim=1) / math.sqrt(1.5)


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
