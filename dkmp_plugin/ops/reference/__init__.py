"""Pure-ATen versions of the native ops: the definition the native kernels are tested against.

Everything here is TorchScript-compatible, runs on any device and can be differentiated to any order. The
native kernels are faster and need far less memory; without a compiler these functions take their place.
"""

from torch import Tensor

from dkmp_plugin.ops.reference.attention import dilated_attention
from dkmp_plugin.ops.reference.degrees import (
    degree_features,
    degree_gates,
    degree_invariants,
    degree_norm,
    degree_norm_apart,
    degree_norm_apart_through,
    degree_norm_through,
    degree_products,
    degree_update,
)
from dkmp_plugin.ops.reference.graph import edge_vectors, radius_shells
from dkmp_plugin.ops.reference.linear import linear
from dkmp_plugin.ops.reference.message import dilated_message
from dkmp_plugin.ops.reference.ranks import distance_ranks

__all__ = [
    "degree_features",
    "degree_gates",
    "degree_invariants",
    "degree_norm",
    "degree_norm_apart",
    "degree_norm_apart_through",
    "degree_norm_through",
    "degree_products",
    "degree_update",
    "dilated_attention",
    "dilated_message",
    "distance_ranks",
    "edge_vectors",
    "has_kernels",
    "linear",
    "radius_shells",
]


def has_kernels(tensor: Tensor) -> bool:
    """Whether native kernels run where a tensor is: never, where these functions are used."""
    return False
