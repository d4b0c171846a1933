"""The graph of DKMP^C: all radius shells of a structure."""

from typing import Optional, Tuple

import torch
from torch import Tensor, nn

from dkmp_plugin.ops import edge_vectors, radius_shells


class DilatedGraph(nn.Module):
    """The radius shells of a structure as one edge list (paper, equations 2 and 3).

    Holds the constant box of torchmd-net's ``box_vecs`` option, under the name that
    ``torchmdnet.models.model.load_model`` expects (``representation_model.distance.box``).

    A caller that knows the edges already (``dkmp_plugin.simulation.neighbor_reuse``) assigns them to
    ``edge_index``, ``cell_offsets`` and ``ptr`` and sets ``edges_given``: then nothing is searched.

    Args:
        cutoff: Outer cutoff C in Å.
        num_shells: Number of shells.
        overlap: Width of the smooth border between shells in Å.
        max_num_neighbors: Largest number of neighbours of an atom within the cutoff; more is an
            error, 0 stands for no limit.
        box: Constant box vectors as rows, shape (3, 3), in Å, or None.
    """

    box: Tensor
    edges_given: bool
    edge_index: Tensor
    cell_offsets: Tensor
    ptr: Tensor
    # 0: as many edges as there are. Otherwise always this many, padded (dkmp_plugin.ops.radius_shells): the
    # fixed shapes of a CUDA graph. Simulations set it on an exported model.
    max_edges: int

    def __init__(
        self, cutoff: float, num_shells: int, overlap: float, max_num_neighbors: int, box: Optional[Tensor]
    ) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.num_shells = num_shells
        self.overlap = overlap
        self.max_num_neighbors = max_num_neighbors
        self.max_edges = 0
        self.has_constant_box = box is not None
        self.register_buffer("box", torch.zeros(3, 3) if box is None else box)
        self.edges_given = False
        self.edge_index = torch.zeros(2, 0, dtype=torch.long)
        self.cell_offsets = torch.zeros(0, 3, dtype=torch.int32)
        self.ptr = torch.zeros(num_shells + 1, dtype=torch.long)

    def forward(self, pos: Tensor, batch: Tensor, box: Optional[Tensor]) -> Tuple[Tensor, Tensor, Tensor]:
        """Find the edges of all shells.

        Args:
            pos: Positions in Å, shape (N, 3).
            batch: System of each atom, shape (N,), non-decreasing.
            box: Box vectors as rows in Å, shape (3, 3) or (B, 3, 3), or None.

        Returns:
            Edge vectors r_j - r_i in Å, shape (E, 3); edge index, shape (2, E), receivers i then
            senders j; first edge of each shell, shape (num_shells + 1,).
        """
        if box is None and self.has_constant_box:
            box = self.box
        if box is not None:
            box = box.to(pos.dtype)
        if self.edges_given:
            given = edge_vectors(pos, self.edge_index, self.cell_offsets, box, batch)
            return given, self.edge_index, self.ptr
        max_edges: Optional[int] = None
        if self.max_edges > 0:
            max_edges = self.max_edges
        edge_index, cell_offsets, ptr = radius_shells(
            pos.detach(),
            batch,
            box,
            self.cutoff,
            self.num_shells,
            self.overlap,
            self.max_num_neighbors,
            max_edges,
        )
        return edge_vectors(pos, edge_index, cell_offsets, box, batch), edge_index, ptr
