"""Dilated K-star graphs: radius shells (every edge within a cutoff) and distance ranks (M nearest atoms).

Shell l of L (0-based) holds the edges with l C/L <= r < (l+1) C/L (paper eq. 3). With ``overlap`` > 0 the
interval grows by overlap/2 at its inner borders, so that smooth windows can hand an edge over from one shell
to the next; such an edge is listed once per shell.
"""

from typing import NamedTuple, Optional

import torch
from torch import Tensor

from dkmp_plugin import ops

__all__ = ["RadiusShells", "distance_ranks", "edge_vectors", "radius_shells"]

distance_ranks = ops.distance_ranks
edge_vectors = ops.edge_vectors


class RadiusShells(NamedTuple):
    """Edges of a dilated graph, sorted by shell, then receiver, sender and periodic image.

    Attributes:
        edge_index: (2, E) int64; row 0 is the receiver i, row 1 the sender j.
        shift: (E, 3) angstrom, added to pos[j]; differentiable with respect to the box.
        distance: (E,) angstrom; differentiable with respect to positions and box, gradient 0 at distance 0.
        shell: (E,) int64 in [0, num_shells); num_shells for padding.
        ptr: (num_shells + 1,) int64; shell l holds the edges ptr[l]:ptr[l+1].
    """

    edge_index: Tensor
    shift: Tensor
    distance: Tensor
    shell: Tensor
    ptr: Tensor


def radius_shells(
    pos: Tensor,
    cutoff: float,
    num_shells: int,
    batch: Optional[Tensor] = None,
    box: Optional[Tensor] = None,
    overlap: float = 0.0,
    max_edges: Optional[int] = None,
    max_neighbors: int = 0,
) -> RadiusShells:
    """Finds all pairs of atoms closer than the cutoff and sorts them into distance shells.

    Args:
        pos: (N, 3) positions in angstrom, float32 or float64.
        cutoff: outer limit C in angstrom.
        num_shells: number of shells L of equal width C/L.
        batch: (N,) int64 system of each atom, non-decreasing; None for one system.
        box: (3, 3) or (B, 3, 3) lattice vectors as rows, in angstrom, of any floating-point type; None for
            open boundaries. Any triclinic box and any cutoff: several periodic images are found where the
            box is small.
        overlap: width in angstrom by which neighbouring shells overlap, at most C/L.
        max_edges: the graph then has exactly this many edges E, the shapes of a CUDA graph. Edges from
            ptr[num_shells] on are padding: edge_index -1, shift, distance and their gradients zero, shell
            num_shells. More edges than this are an error on the CPU; on a GPU, where nothing is read back,
            every shift and distance is then NaN. None for as many edges as there are.
        max_neighbors: an error is raised when an atom has more neighbours within the cutoff; 0 for no limit.

    Returns:
        The graph; see :class:`RadiusShells`.

    Raises:
        ValueError: bad shapes, NaN positions, a singular box, impossible settings, or a limit exceeded.
    """
    if batch is None:
        batch = torch.zeros(pos.size(0), dtype=torch.int64, device=pos.device)
    if box is not None:
        box = box.to(pos.dtype)
    edge_index, cell_offsets, ptr = ops.radius_shells(
        pos, batch, box, cutoff, num_shells, overlap, max_neighbors, max_edges
    )
    vector = ops.edge_vectors(pos, edge_index, cell_offsets, box, batch)
    shift = ops.edge_vectors(torch.zeros_like(pos), edge_index, cell_offsets, box, batch)
    squared = (vector * vector).sum(1)
    # The square root has an infinite slope at 0: coincident atoms get distance 0 with gradient 0.
    apart = squared != 0.0
    length = torch.sqrt(torch.where(apart, squared, torch.ones_like(squared)))
    distance = torch.where(apart, length, torch.zeros_like(length))
    place = torch.arange(edge_index.size(1), device=pos.device)
    shell = torch.searchsorted(ptr[1:], place, right=True)
    return RadiusShells(edge_index, shift, distance, shell, ptr)
