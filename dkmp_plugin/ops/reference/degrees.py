"""Norms and products of spherical features and their gates in pure ATen: the meaning of the native ops.

Degree 2 is multiplied as Cartesian tensors, symmetric traceless matrices. The order of the components is that
of :func:`dkmp_plugin.ops.reference.message.spherical_harmonics`.
"""

import math
from typing import Optional, Tuple

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


def bounded(invariant: Tensor, limit: float = 100.0) -> Tensor:
    """The same up to the limit, then levelling off at 2.6 times it; twice continuously differentiable.

    Invariants are squares of features that they scale in turn: where atoms nearly coincide, as in the first
    steps of a minimiser, a few layers would otherwise leave the range of single precision. Those of trained
    models are of order ten.
    """
    inner = invariant.clamp(-limit, limit)
    return inner + limit * torch.atan((invariant - inner) / limit)


def check_pairs(name: str, first: Tensor, second: Tensor) -> None:
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
            f"{name}: features have shapes {list(first.shape)} and {list(second.shape)}, expected "
            "(N, 3, 2 d) and (N, 5, 2 d)"
        )


def check_gates(name: str, gates: Tensor, first: Tensor, per_channel: int) -> None:
    """Raise ValueError unless gates are (N, per_channel d) beside features (N, 3, 2 d)."""
    if gates.dim() != 2 or 2 * gates.size(1) != per_channel * first.size(2):
        raise ValueError(
            f"{name}: gates have shape {list(gates.shape)} beside features of shape {list(first.shape)}, "
            f"expected (N, {per_channel} d)"
        )


def degree_invariants(first: Tensor, second: Tensor) -> Tensor:
    """Reference of :func:`dkmp_plugin.ops.degree_invariants`."""
    check_pairs("degree_invariants", first, second)
    left, right = first.chunk(2, dim=-1)
    second_left, second_right = second.chunk(2, dim=-1)
    return bounded(torch.stack([(left * right).sum(dim=1), (second_left * second_right).sum(dim=1)], dim=1))


def degree_products(first: Tensor, second: Tensor) -> Tuple[Tensor, Tensor]:
    """Reference of :func:`dkmp_plugin.ops.degree_products`."""
    check_pairs("degree_products", first, second)
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


def degree_features(
    first: Tensor, second: Tensor, message: Tensor, scalars: Tensor, gate: Optional[Tensor] = None
) -> Tuple[Tensor, Tensor, Tensor]:
    """Reference of :func:`dkmp_plugin.ops.degree_features`."""
    check_pairs("degree_features", first, second)
    if message.dim() != 2 or 2 * message.size(1) != first.size(2) or message.size() != scalars.size():
        raise ValueError(
            f"degree_features: messages and scalars have shapes {list(message.shape)} and "
            f"{list(scalars.shape)} beside features of shape {list(first.shape)}, expected (N, d)"
        )
    if gate is not None:
        message = gate * message
    invariants = degree_products(first, second)[1]
    return torch.cat([message, invariants.flatten(1), scalars], dim=1), first, second


def degree_update(
    gates: Tensor, first: Tensor, second: Tensor, scalars: Tensor, vector: Tensor
) -> Tuple[Tensor, Tensor]:
    """Reference of :func:`dkmp_plugin.ops.degree_update`."""
    check_pairs("degree_update", first, second)
    check_gates("degree_update", gates, first, 9)
    product, invariants = degree_products(first, second)
    scalar_change, vector_change = degree_gates(gates, invariants, first, second, product)
    return scalars + scalar_change, vector + vector_change


def degree_gates(
    gates: Tensor, invariants: Tensor, first: Tensor, second: Tensor, product: Optional[Tensor] = None
) -> Tuple[Tensor, Tensor]:
    """Reference of :func:`dkmp_plugin.ops.degree_gates`."""
    check_pairs("degree_gates", first, second)
    num_channels = first.size(2) // 2
    per_channel = 5 if product is None else 9
    check_gates("degree_gates", gates, first, per_channel)
    num_invariants = per_channel // 2
    gates = gates.view(gates.size(0), per_channel, num_channels)
    shift, scales, factors = gates.split([1, num_invariants, num_invariants], dim=1)
    scalar = shift.squeeze(1) + (scales * invariants).sum(dim=1)
    left = first[:, :, :num_channels]
    second_left = second[:, :, :num_channels]
    change, second_change = factors[:, :1] * left, factors[:, 1:2] * second_left
    if product is not None:
        change = change + factors[:, 2:3] * product[:, :3]
        second_change = second_change + factors[:, 3:] * product[:, 3:]
    return scalar, torch.cat([change, second_change], dim=1)


def degree_norm_apart(vector: Tensor, weight: Tensor, offset: float) -> Tuple[Tensor, Tensor]:
    """Reference of :func:`dkmp_plugin.ops.degree_norm_apart`."""
    if (
        vector.dim() != 3
        or vector.size(1) != 8
        or vector.size(2) == 0
        or weight.dim() != 2
        or weight.size(0) != 2
        or weight.size(1) != vector.size(2)
    ):
        raise ValueError(
            f"degree_norm: features have shape {list(vector.shape)} and weights {list(weight.shape)}, "
            "expected (N, 8, d) and (2, d)"
        )
    if not offset > 0.0:
        raise ValueError(f"degree_norm: offset is {offset}, expected a number above zero")
    first, second = vector.split([3, 5], dim=1)
    power = torch.stack(
        [first.square().sum(dim=1).mean(dim=1), second.square().sum(dim=1).mean(dim=1)], dim=1
    )
    factors = torch.rsqrt(power + offset).unsqueeze(2) * weight
    return first * factors[:, :1], second * factors[:, 1:]


def degree_norm(vector: Tensor, weight: Tensor, offset: float) -> Tensor:
    """Reference of :func:`dkmp_plugin.ops.degree_norm`."""
    first, second = degree_norm_apart(vector, weight, offset)
    return torch.cat([first, second], dim=1)


def degree_norm_through(vector: Tensor, weight: Tensor, offset: float) -> Tuple[Tensor, Tensor]:
    """Reference of :func:`dkmp_plugin.ops.degree_norm_through`."""
    return degree_norm(vector, weight, offset), vector


def degree_norm_apart_through(vector: Tensor, weight: Tensor, offset: float) -> Tuple[Tensor, Tensor, Tensor]:
    """Reference of :func:`dkmp_plugin.ops.degree_norm_apart_through`."""
    first, second = degree_norm_apart(vector, weight, offset)
    return first, second, vector
