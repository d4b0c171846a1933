"""An order of atoms in which neighbours follow each other in memory."""

import torch
from torch import Tensor


def spatial_order(pos: Tensor, batch: Tensor, cell: float = 4.0, bits: int = 10) -> Tensor:
    """Atoms along a Z-order curve through the cells of a grid, system by system (Morton 1966).

    Args:
        pos: (N, 3) in Å.
        batch: (N,) int64 system of each atom, non-decreasing.
        cell: Edge of the cells in Å.
        bits: Of the number of cells along each axis; what is farther away counts as the last.

    Returns:
        (N,) int64, the atom at each place; ``batch`` stays non-decreasing.
    """
    lowest = pos.amin(0) if pos.size(0) > 0 else pos.new_zeros(3)
    cells = ((pos - lowest) / cell).clamp(0.0, 2.0**bits - 1.0).to(torch.int64)
    key = batch << (3 * bits)
    for bit in range(bits):
        for axis in range(3):
            key = key | (((cells[:, axis] >> bit) & 1) << (3 * bit + axis))
    return torch.argsort(key)
