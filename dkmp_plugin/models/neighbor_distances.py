"""Distances between an atom and its ranked neighbours, across periodic borders."""

from typing import List, Optional

import torch
from torch import Tensor

from dkmp_plugin.ops.reference.ranks import minimum_image, reduced_lattice


def short_lattice_vectors(box: Tensor) -> Tensor:
    """The same lattices as boxes (3, 3), (1, 3, 3) for all systems or (B, 3, 3), the first two as (3, 3)."""
    if box.dim() == 2 or box.size(0) == 1:
        return reduced_lattice(box.reshape(3, 3))
    return torch.stack([reduced_lattice(box[system]) for system in range(box.size(0))])


def neighbor_distances(
    pos: Tensor, centers: Tensor, neighbors: Tensor, batch: Tensor, box: Optional[Tensor]
) -> Tensor:
    """Distances to given neighbours, differentiable also where atoms coincide.

    Args:
        pos: (N, 3) in Å.
        centers: (n, 3) positions of n of these atoms.
        neighbors: (n, K) int64 their neighbours, -1 for none.
        batch: (n,) int64 their systems, 0 to B - 1.
        box: (3, 3) for all systems or (B, 3, 3), reduced (:func:`short_lattice_vectors`), or None.

    Returns:
        (n, K) in Å, of the nearest image; 0 where there is no neighbour.
    """
    senders = neighbors.clamp(min=0).flatten()
    vector = pos.index_select(0, senders).view(neighbors.size(0), -1, 3) - centers.unsqueeze(1)
    if box is not None:
        vector = _minimum_images(vector, batch, box)
    squared = (vector * vector).sum(2).masked_fill(neighbors < 0, 0.0)
    # The square root has an infinite slope at 0. What is no number must not become a distance of zero.
    apart = squared != 0.0
    length = torch.sqrt(torch.where(apart, squared, torch.ones_like(squared)))
    return torch.where(apart, length, torch.zeros_like(length))


def _minimum_images(vector: Tensor, batch: Tensor, box: Tensor) -> Tensor:
    """Nearest periodic images of vectors (N, K, 3) of a batch with one common box or one per system."""
    if box.dim() == 2:
        return minimum_image(vector, box)
    images: List[Tensor] = []
    first = 0
    sizes = torch.bincount(batch, minlength=box.size(0))
    for system in range(box.size(0)):
        stop = first + int(sizes[system])
        images.append(minimum_image(vector[first:stop], box[system]))
        first = stop
    return torch.cat(images)
