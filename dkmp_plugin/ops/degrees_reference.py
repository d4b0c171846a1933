"""Products of spherical features and their gates in pure ATen: the meaning of the native ops.

Degree 2 is multiplied as Cartesian tensors, symmetric traceless matrices. The order of the components is that
of :func:`dkmp_plugin.ops.reference.spherical_harmonics`.
"""

import math
from typing import Tuple

import torch
from torch import Tensor

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


def check_pairs(first: Tensor, second: Tensor) -> None:
    """Raise ValueError unless the shapes are (N, 3, 2 d) and (N, 5, 2 d)."""
    if (
        first.dim() != 3
        or second.dim() != 3
        or first.size(1) != 3
        or second.size(1) != 5
        or first.size(2) % 2 != 0
        or first.size(0) != second.size(0)
        or first.size(2) != second.size(2)
    ):
        raise ValueError(
            f"degree_products: features have shapes {list(first.shape)} and {list(second.shape)}, expected "
            "(N, 3, 2 d) and (N, 5, 2 d)"
        )


def degree_products(first: Tensor, second: Tensor) -> Tuple[Tensor, Tensor]:
    """Reference of :func:`dkmp_plugin.ops.degree_products`."""
    check_pairs(first, second)
    left, right = first.chunk(2, dim=-1)
    second_left, second_right = second.chunk(2, dim=-1)
    matrix, matrix_right = to_matrices(second_left), to_matrices(second_right)
    first_product = (matrix * right.unsqueeze(1)).sum(dim=2)
    outer = left.unsqueeze(2) * right.unsqueeze(1)
    second_product = from_matrices((matrix.unsqueeze(3) * matrix_right.unsqueeze(1)).sum(dim=2) + outer)
    invariants = torch.stack(
        [
            (left * right).sum(dim=1),
            (second_left * second_right).sum(dim=1),
            (first_product * left).sum(dim=1),
            (second_product * second_left).sum(dim=1),
        ],
        dim=1,
    )
    return torch.cat([first_product, second_product], dim=1), invariants


def degree_gates(
    gates: Tensor, invariants: Tensor, first: Tensor, second: Tensor, product: Tensor
) -> Tuple[Tensor, Tensor]:
    """Reference of :func:`dkmp_plugin.ops.degree_gates`."""
    num_channels = invariants.size(2)
    if gates.dim() != 2 or gates.size(1) != 9 * num_channels:
        raise ValueError(
            f"degree_gates: gates have shape {list(gates.shape)}, expected (N, {9 * num_channels}) beside "
            f"invariants of shape {list(invariants.shape)}"
        )
    check_pairs(first, second)
    shift, scales, factors = gates.view(gates.size(0), 9, num_channels).split([1, 4, 4], dim=1)
    scalar = shift.squeeze(1) + (scales * invariants).sum(dim=1)
    first_product, second_product = product.split([3, 5], dim=1)
    vector = [
        factors[:, :1] * first[:, :, :num_channels] + factors[:, 2:3] * first_product,
        factors[:, 1:2] * second[:, :, :num_channels] + factors[:, 3:] * second_product,
    ]
    return scalar, torch.cat(vector, dim=1)
