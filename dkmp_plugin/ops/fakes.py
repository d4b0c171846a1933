"""Shapes of ops whose result size depends on the data, for ``torch.compile`` and ``torch.export``.

The other native ops register theirs in C++ (dispatch key Meta).
"""

from typing import Optional, Tuple

import torch
from torch import Tensor


def register() -> None:
    """Registers the fakes; call once, after the native library is loaded."""
    torch.library.register_fake("dkmp_plugin::radius_shells", _radius_shells)


def _radius_shells(
    pos: Tensor,
    batch: Tensor,
    box: Optional[Tensor],
    cutoff: float,
    num_shells: int,
    overlap: float,
    max_neighbors: int,
    max_edges: Optional[int] = None,
) -> Tuple[Tensor, Tensor, Tensor]:
    num_edges = max_edges if max_edges is not None else torch.library.get_ctx().new_dynamic_size()
    edge_index = pos.new_empty((2, num_edges), dtype=torch.int64)
    ptr = pos.new_empty((num_shells + 1,), dtype=torch.int64)
    if box is None:
        return edge_index, pos.new_empty((1, 3), dtype=torch.int32).expand(num_edges, 3), ptr
    return edge_index, pos.new_empty((num_edges, 3), dtype=torch.int32), ptr
