"""Messages of one radius shell: its window, spherical harmonics, spline filters, and their sum."""

import math
from typing import List, Tuple

import torch
from torch import Tensor


def _smootherstep(distance: Tensor, border: float, overlap: float) -> Tensor:
    """Rises from 0 to 1 over ``overlap`` around ``border``, twice continuously differentiable."""
    if overlap == 0.0:
        return (distance >= border).to(distance.dtype)
    x = ((distance - (border - 0.5 * overlap)) / overlap).clamp(0.0, 1.0)
    return x * x * x * (10.0 - 15.0 * x + 6.0 * x * x)


def shell_window(distance: Tensor, lower: float, upper: float, overlap: float, cutoff: float) -> Tensor:
    """Weight (E,) of a shell at each distance; over all shells the weights add up to the cutoff envelope."""
    x = (distance / cutoff).clamp(max=1.0)
    x6 = x * x * x * x * x * x
    weight = 1.0 - x6 * (28.0 - 48.0 * x + 21.0 * x * x)
    if lower > 0.0:
        weight = weight * _smootherstep(distance, lower, overlap)
    if upper < cutoff:
        weight = weight * (1.0 - _smootherstep(distance, upper, overlap))
    return weight


def spherical_harmonics(unit: Tensor) -> Tensor:
    """Real harmonics of degree 1 (3) and 2 (5) of unit vectors (E, 3), each degree of norm 1: (E, 8)."""
    x, y, z = unit[:, 0], unit[:, 1], unit[:, 2]
    root3 = math.sqrt(3.0)
    return torch.stack(
        [
            x,
            y,
            z,
            root3 * x * z,
            root3 * x * y,
            y * y - 0.5 * (x * x + z * z),
            root3 * y * z,
            0.5 * root3 * (z * z - x * x),
        ],
        dim=1,
    )


def spline_weights(fraction: Tensor, degree: int) -> Tensor:
    """Uniform B-splines (E, degree + 1) that do not vanish at fractions (E,) of an interval, in order."""
    s = fraction
    weights: List[Tensor] = [torch.ones_like(s)]
    for p in range(1, degree + 1):
        # De Boor's recursion, for knots one apart.
        higher: List[Tensor] = []
        for m in range(p + 1):
            weight = torch.zeros_like(s)
            if m > 0:
                weight = weight + (s + float(p - m)) * weights[m - 1]
            if m < p:
                weight = weight + (1.0 + float(m) - s) * weights[m]
            higher.append(weight / float(p))
        weights = higher
    return torch.stack(weights, dim=1)


def _spline(distance: Tensor, table: Tensor, start: float, stop: float, degree: int) -> Tensor:
    """B-spline of coefficients ``table`` (n, F) on n - degree equal intervals of [start, stop]: (E, F)."""
    num_intervals = table.size(0) - degree
    x = (distance - start) / ((stop - start) / num_intervals)
    left = torch.nan_to_num(torch.floor(x.detach()).clamp(0.0, float(num_intervals - 1)))
    weights = spline_weights(x - left, degree)
    first = left.long()
    value = weights[:, 0:1] * table[first]
    for m in range(1, degree + 1):
        value = value + weights[:, m : m + 1] * table[first + m]
    return value


def check_dilated_message_input(
    edge_vector: Tensor,
    edge_index: Tensor,
    ptr: Tensor,
    shell: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    vector: Tensor,
    table: Tensor,
    num_heads: int,
    degree: int,
) -> None:
    """Refuses shapes and dtypes :func:`dilated_message` cannot use.

    Raises:
        ValueError: names the argument, its shape and the expected one.
    """
    num_edges, num_atoms = edge_vector.size(0), value.size(0)
    if edge_vector.dim() != 2 or edge_vector.size(1) != 3:
        raise ValueError(f"dilated_message: edge_vector has shape {list(edge_vector.shape)}, expected (E, 3)")
    if edge_index.dim() != 2 or edge_index.size(0) != 2 or edge_index.size(1) != num_edges:
        raise ValueError(
            f"dilated_message: edge_index has shape {list(edge_index.shape)}, expected (2, {num_edges})"
        )
    if edge_index.dtype != torch.int64 or ptr.dtype != torch.int64:
        raise ValueError("dilated_message: edge_index and ptr must be int64")
    if ptr.dim() != 1 or shell < 0 or shell + 1 >= ptr.size(0):
        raise ValueError(f"dilated_message: shell {shell} is not one of the {ptr.numel() - 1} shells of ptr")
    if value.dim() != 2 or value.size(1) % 3 != 0 or value.size(1) == 0:
        raise ValueError(f"dilated_message: value has shape {list(value.shape)}, expected (N, 3 d)")
    width = value.size(1) // 3
    if num_heads < 1 or width % num_heads != 0:
        raise ValueError(f"dilated_message: width {width} is not a multiple of num_heads = {num_heads}")
    if degree != 3 and degree != 5:
        raise ValueError(f"dilated_message: degree is {degree}, expected 3 or 5")
    if table.dim() != 2 or table.size(1) != 4 * width or table.size(0) <= degree:
        raise ValueError(
            f"dilated_message: table has shape {list(table.shape)}, expected (n >= {degree + 1}, {4 * width})"
        )
    for given in [query, key]:
        if given.numel() > 0 and list(given.shape) != [num_atoms, width]:
            raise ValueError(
                f"dilated_message: query or key has shape {list(given.shape)}, expected "
                f"({num_atoms}, {width}) or an empty tensor for no attention"
            )
    if (query.numel() == 0) != (key.numel() == 0):
        raise ValueError("dilated_message: give both query and key, or leave both empty")
    if vector.numel() > 0 and list(vector.shape) != [num_atoms, 8, width]:
        raise ValueError(
            f"dilated_message: vector has shape {list(vector.shape)}, expected "
            f"({num_atoms}, 8, {width}) or an empty tensor"
        )
    if value.dtype != torch.float32 and value.dtype != torch.float64:
        raise ValueError("dilated_message: tensors must be float32 or float64")
    for given in [edge_vector, query, key, vector, table]:
        if given.dtype != value.dtype:
            raise ValueError("dilated_message: all floating tensors must have the same dtype as value")


def dilated_message(
    edge_vector: Tensor,
    edge_index: Tensor,
    ptr: Tensor,
    shell: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    vector: Tensor,
    table: Tensor,
    num_heads: int,
    lower: float,
    upper: float,
    overlap: float,
    cutoff: float,
    degree: int = 3,
) -> Tuple[Tensor, Tensor]:
    """Reference of :func:`dkmp_plugin.ops.dilated_message`: gathers every edge, then sums per receiver."""
    check_dilated_message_input(
        edge_vector, edge_index, ptr, shell, query, key, value, vector, table, num_heads, degree
    )
    begin, end = int(ptr[shell]), int(ptr[shell + 1])
    num_atoms, width = value.size(0), value.size(1) // 3
    receiver, sender = edge_index[0, begin:end], edge_index[1, begin:end]
    step = edge_vector[begin:end]
    squared = (step * step).sum(1)
    # Coincident atoms have no direction: distance and unit vector are zero with zero gradient.
    apart = squared != 0.0  # NaN is no coincidence: it must not become a distance of zero
    length = torch.sqrt(torch.where(apart, squared, torch.ones_like(squared)))
    distance = torch.where(apart, length, torch.zeros_like(length))
    unit = torch.where(apart.unsqueeze(1), step / length.unsqueeze(1), torch.zeros_like(step))

    weight = shell_window(distance, lower, upper, overlap, cutoff).unsqueeze(1)
    start, stop = max(0.0, lower - 0.5 * overlap), min(cutoff, upper + 0.5 * overlap)
    filters = _spline(distance, table, start, stop, degree)
    f0, f1 = filters[:, :width], filters[:, width : 2 * width]
    f2, f3 = filters[:, 2 * width : 3 * width], filters[:, 3 * width :]
    if query.numel() > 0:
        scores = (query[receiver] * key[sender] * f0).view(-1, num_heads, width // num_heads).sum(2)
        attention = torch.nn.functional.silu(scores).unsqueeze(2).expand(-1, -1, width // num_heads)
        scalar_weight = weight * attention.reshape(-1, width)
    else:
        scalar_weight = weight
    sent = value[sender]
    scalar_message = scalar_weight * sent[:, :width] * f1
    direction = spherical_harmonics(unit).unsqueeze(2)
    vector_message = direction * (weight * sent[:, 2 * width :] * f3).unsqueeze(1)
    if vector.numel() > 0:
        carried = weight * sent[:, width : 2 * width] * f2
        vector_message = vector_message + vector[sender] * carried.unsqueeze(1)
    scalar = torch.zeros((num_atoms, width), dtype=value.dtype, device=value.device)
    output = torch.zeros((num_atoms, 8, width), dtype=value.dtype, device=value.device)
    return scalar.index_add(0, receiver, scalar_message), output.index_add(0, receiver, vector_message)
