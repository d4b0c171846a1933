"""Dilated attention in pure ATen: the definition that native kernels are tested against."""

from typing import List, Optional

import torch
from torch import Tensor


# TorchScript cannot read module constants, so limits are functions.
def _block_elements() -> int:
    """Gathered key (or value) elements held at once: bounds the memory of inference at any system size."""
    return 8388608


def check_dilated_attention_input(
    query: Tensor, key: Tensor, value: Tensor, neighbors: Tensor, bias: Optional[Tensor]
) -> None:
    """Refuses what :func:`dilated_attention` cannot answer.

    Raises:
        ValueError: a shape or dtype is outside what the op accepts.
    """
    if query.dim() != 3 or key.shape != query.shape or value.shape != query.shape:
        raise ValueError(
            f"dilated_attention: query, key and value have shapes {list(query.shape)}, {list(key.shape)} and "
            f"{list(value.shape)}, expected one common shape (N, H, D)"
        )
    if query.size(1) == 0 or query.size(2) == 0:
        raise ValueError(
            f"dilated_attention: query has shape {list(query.shape)}, expected at least one head and one "
            "channel per head"
        )
    if query.dtype != torch.float32 and query.dtype != torch.float64:
        raise ValueError("dilated_attention: query must be float32 or float64; convert it with .float()")
    if key.dtype != query.dtype or value.dtype != query.dtype:
        raise ValueError("dilated_attention: query, key and value must have the same dtype")
    if neighbors.dim() != 2 or neighbors.size(0) != query.size(0):
        raise ValueError(
            f"dilated_attention: neighbors has shape {list(neighbors.shape)}, expected (N, K) with "
            f"N = {query.size(0)}"
        )
    if neighbors.dtype != torch.int64 and neighbors.dtype != torch.int32:
        raise ValueError("dilated_attention: neighbors must be int64 or int32")
    if neighbors.numel() > 0 and (int(neighbors.min()) < -1 or int(neighbors.max()) >= query.size(0)):
        raise ValueError(
            f"dilated_attention: neighbors holds indices from {int(neighbors.min())} to "
            f"{int(neighbors.max())}, expected -1 (none) to N - 1 = {query.size(0) - 1}"
        )
    if bias is not None and bias.shape != neighbors.shape:
        raise ValueError(
            f"dilated_attention: bias has shape {list(bias.shape)}, expected that of neighbors, "
            f"{list(neighbors.shape)}"
        )
    if bias is not None and bias.dtype != query.dtype:
        raise ValueError("dilated_attention: bias must have the same dtype as query")


def _attend(
    query: Tensor, key: Tensor, value: Tensor, neighbors: Tensor, bias: Optional[Tensor], scale: float
) -> Tensor:
    """One block of receivers: query (n, H, D), neighbors (n, K), bias (n, K); key and value of all atoms."""
    num_receivers, num_heads, width = query.shape
    absent = neighbors < 0
    senders = neighbors.clamp(min=0).long().flatten()
    gathered = [num_receivers, neighbors.size(1), num_heads, width]
    keys = key.index_select(0, senders).view(gathered)
    logits = (query.unsqueeze(1) * keys).sum(3)
    if bias is not None:
        logits = logits + bias.unsqueeze(2)
    # Rows without any neighbour stay free of NaN, also in gradients.
    alone = absent.all(1, keepdim=True)
    logits = (scale * logits).masked_fill(absent.unsqueeze(2), float("-inf"))
    logits = logits.masked_fill(alone.unsqueeze(2), 0.0)
    weights = torch.softmax(logits, 1).masked_fill(absent.unsqueeze(2), 0.0)
    values = value.index_select(0, senders).view(gathered)
    return (weights.unsqueeze(3) * values).sum(1)


def dilated_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    neighbors: Tensor,
    bias: Optional[Tensor] = None,
    scale: Optional[float] = None,
) -> Tensor:
    """Attention of every atom over its own list of neighbours.

    ``out_ih = sum_k softmax_k(scale (q_ih . k_jh + bias_ik)) v_jh`` with ``j = neighbors[i, k]``; an atom
    without neighbours gets zeros. Differentiable to any order in query, key, value and bias.

    Args:
        query: (N, H, D) float32 or float64.
        key: (N, H, D).
        value: (N, H, D).
        neighbors: (N, K) int64 or int32, -1 where there is none.
        bias: (N, K) added to the logits before scaling, the same for all heads; None for none.
        scale: factor of the logits; 1/sqrt(D) by default.

    Returns:
        (N, H, D).

    Raises:
        ValueError: a shape, dtype or index is outside what the op accepts.
    """
    check_dilated_attention_input(query, key, value, neighbors, bias)
    num_atoms, num_heads, width = query.shape
    factor = width**-0.5
    if scale is not None:
        factor = scale
    if neighbors.size(1) == 0 or num_atoms == 0:
        return query * 0.0
    block = max(1, _block_elements() // max(1, neighbors.size(1) * num_heads * width))
    outputs: List[Tensor] = []
    for start in range(0, num_atoms, block):
        stop = min(start + block, num_atoms)
        block_bias: Optional[Tensor] = None
        if bias is not None:
            block_bias = bias[start:stop]
        outputs.append(_attend(query[start:stop], key, value, neighbors[start:stop], block_bias, factor))
    return torch.cat(outputs)
