"""The ops of the native library, one plain function each, so that TorchScript can compile their callers.

CPU and CUDA tensors take the native kernels; tensors elsewhere take the reference, which runs on any device.
Scripted modules, which OpenMM and ASE run on CPUs and CUDA devices only, hold the native ops alone: with the
reference beside every one of them, which TorchScript copies into each layer, a System took seconds to make.
"""

from typing import Optional, Tuple

import torch
from torch import Tensor

from dkmp_plugin.ops import reference


def has_kernels(tensor: Tensor) -> bool:
    """Whether a tensor is where the native kernels run."""
    return tensor.device.type == "cpu" or tensor.device.type == "cuda"


def radius_shells(
    pos: Tensor,
    batch: Tensor,
    box: Optional[Tensor],
    cutoff: float,
    num_shells: int,
    overlap: float,
    max_neighbors: int,
    max_edges: Optional[int] = None,
) -> Tuple[Tensor, Tensor, Tensor]:
    """Native :func:`dkmp_plugin.ops.radius_shells`."""
    if not torch.jit.is_scripting() and not has_kernels(pos):
        return reference.radius_shells(pos, batch, box, cutoff, num_shells, overlap, max_neighbors, max_edges)
    return torch.ops.dkmp_plugin.radius_shells(
        pos, batch, box, cutoff, num_shells, overlap, max_neighbors, max_edges
    )


def edge_vectors(
    pos: Tensor, edge_index: Tensor, cell_offsets: Tensor, box: Optional[Tensor], batch: Tensor
) -> Tensor:
    """Native :func:`dkmp_plugin.ops.edge_vectors`."""
    if not torch.jit.is_scripting() and not has_kernels(pos):
        return reference.edge_vectors(pos, edge_index, cell_offsets, box, batch)
    return torch.ops.dkmp_plugin.edge_vectors(pos, edge_index, cell_offsets, box, batch)


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
    """Native :func:`dkmp_plugin.ops.dilated_message`."""
    if not torch.jit.is_scripting() and not has_kernels(value):
        return reference.dilated_message(
            edge_vector,
            edge_index,
            ptr,
            shell,
            query,
            key,
            value,
            vector,
            table,
            num_heads,
            lower,
            upper,
            overlap,
            cutoff,
            degree,
        )
    return torch.ops.dkmp_plugin.dilated_message(
        edge_vector,
        edge_index,
        ptr,
        shell,
        query,
        key,
        value,
        vector,
        table,
        num_heads,
        lower,
        upper,
        overlap,
        cutoff,
        degree,
    )


def distance_ranks(
    pos: Tensor, num_neighbors: int, batch: Optional[Tensor] = None, box: Optional[Tensor] = None
) -> Tensor:
    """Native :func:`dkmp_plugin.ops.distance_ranks`."""
    if not torch.jit.is_scripting() and not has_kernels(pos):
        return reference.distance_ranks(pos, num_neighbors, batch, box)
    return torch.ops.dkmp_plugin.distance_ranks(pos, num_neighbors, batch, box)


def dilated_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    neighbors: Tensor,
    bias: Optional[Tensor],
    scale: Optional[float],
) -> Tensor:
    """Native :func:`dkmp_plugin.ops.dilated_attention`."""
    if not torch.jit.is_scripting() and not has_kernels(query):
        return reference.dilated_attention(query, key, value, neighbors, bias, scale)
    return torch.ops.dkmp_plugin.dilated_attention(query, key, value, neighbors, bias, scale)


def degree_invariants(first: Tensor, second: Tensor) -> Tensor:
    """Native :func:`dkmp_plugin.ops.degree_invariants`."""
    if not torch.jit.is_scripting() and not has_kernels(first):
        return reference.degree_invariants(first, second)
    return torch.ops.dkmp_plugin.degree_invariants(first, second)


def degree_products(first: Tensor, second: Tensor) -> Tuple[Tensor, Tensor]:
    """Native :func:`dkmp_plugin.ops.degree_products`."""
    if not torch.jit.is_scripting() and not has_kernels(first):
        return reference.degree_products(first, second)
    return torch.ops.dkmp_plugin.degree_products(first, second)


def degree_gates(
    gates: Tensor, invariants: Tensor, first: Tensor, second: Tensor, product: Optional[Tensor] = None
) -> Tuple[Tensor, Tensor]:
    """Native :func:`dkmp_plugin.ops.degree_gates`."""
    if not torch.jit.is_scripting() and not has_kernels(gates):
        return reference.degree_gates(gates, invariants, first, second, product)
    return torch.ops.dkmp_plugin.degree_gates(gates, invariants, first, second, product)


def degree_features(
    first: Tensor, second: Tensor, message: Tensor, scalars: Tensor, gate: Optional[Tensor] = None
) -> Tuple[Tensor, Tensor, Tensor]:
    """Native :func:`dkmp_plugin.ops.degree_features`."""
    if not torch.jit.is_scripting() and not has_kernels(first):
        return reference.degree_features(first, second, message, scalars, gate)
    return torch.ops.dkmp_plugin.degree_features(first, second, message, scalars, gate)


def degree_update(
    gates: Tensor, first: Tensor, second: Tensor, scalars: Tensor, vector: Tensor
) -> Tuple[Tensor, Tensor]:
    """Native :func:`dkmp_plugin.ops.degree_update`."""
    if not torch.jit.is_scripting() and not has_kernels(gates):
        return reference.degree_update(gates, first, second, scalars, vector)
    return torch.ops.dkmp_plugin.degree_update(gates, first, second, scalars, vector)


def degree_norm(vector: Tensor, weight: Tensor, offset: float) -> Tensor:
    """Native :func:`dkmp_plugin.ops.degree_norm`."""
    if not torch.jit.is_scripting() and not has_kernels(vector):
        return reference.degree_norm(vector, weight, offset)
    return torch.ops.dkmp_plugin.degree_norm(vector, weight, offset)


def degree_norm_apart(vector: Tensor, weight: Tensor, offset: float) -> Tuple[Tensor, Tensor]:
    """Native :func:`dkmp_plugin.ops.degree_norm_apart`."""
    if not torch.jit.is_scripting() and not has_kernels(vector):
        return reference.degree_norm_apart(vector, weight, offset)
    return torch.ops.dkmp_plugin.degree_norm_apart(vector, weight, offset)


def degree_norm_through(vector: Tensor, weight: Tensor, offset: float) -> Tuple[Tensor, Tensor]:
    """Native :func:`dkmp_plugin.ops.degree_norm_through`."""
    if not torch.jit.is_scripting() and not has_kernels(vector):
        return reference.degree_norm_through(vector, weight, offset)
    return torch.ops.dkmp_plugin.degree_norm_through(vector, weight, offset)


def degree_norm_apart_through(vector: Tensor, weight: Tensor, offset: float) -> Tuple[Tensor, Tensor, Tensor]:
    """Native :func:`dkmp_plugin.ops.degree_norm_apart_through`."""
    if not torch.jit.is_scripting() and not has_kernels(vector):
        return reference.degree_norm_apart_through(vector, weight, offset)
    return torch.ops.dkmp_plugin.degree_norm_apart_through(vector, weight, offset)


def linear(input: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    """Native :func:`dkmp_plugin.ops.linear`."""
    return torch.ops.dkmp_plugin.linear(input, weight, bias)
