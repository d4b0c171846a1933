"""The graph of DKMP^R: distance ranks of a structure."""

from typing import Optional

import torch
from torch import Tensor, nn

from dkmp_plugin.ops import distance_ranks


class RankedGraph(nn.Module):
    """Distance ranks of a structure, and the constant box of torchmd-net's ``box_vecs``.

    ``torchmdnet.models.model.load_model`` expects the box as ``representation_model.distance.box``.

    Args:
        num_neighbors: Columns M of the ranks.
        box: Constant box vectors as rows, (3, 3) in Å, or None.
    """

    box: Tensor

    def __init__(self, num_neighbors: int, box: Optional[Tensor]) -> None:
        super().__init__()
        self.num_neighbors = num_neighbors
        self.has_constant_box = box is not None
        self.register_buffer("box", torch.zeros(3, 3) if box is None else box)

    def choose_box(self, box: Optional[Tensor]) -> Optional[Tensor]:
        """The box of this call, or else the constant one, or None."""
        if box is None and self.has_constant_box:
            return self.box
        return box

    def forward(self, pos: Tensor, batch: Tensor, box: Optional[Tensor]) -> Tensor:
        """Ranks (N, M) int64; see :func:`dkmp_plugin.ops.distance_ranks`."""
        return distance_ranks(pos.detach(), self.num_neighbors, batch, self.choose_box(box))
