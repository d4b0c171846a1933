"""One radius shell of DKMP^C: its borders and the sum of its messages (paper, equation 3)."""

import math
from typing import Tuple

import torch
from torch import Tensor, nn

from dkmp_plugin.ops import dilated_message

# Order of magnitude of the number density of organic matter (water and proteins: about 0.1 atoms/Å^3).
_ATOM_DENSITY = 0.1


class RadiusShell(nn.Module):
    """One shell: its borders, the interval on which its messages do not vanish, and their sum.

    Args:
        shell: Index of the shell, counted from the centre.
        num_shells: Number of shells.
        cutoff: Outer cutoff in Å.
        overlap: Width of the smooth border between shells in Å.
        spline_degree: Degree of the radial filters' splines.
    """

    def __init__(
        self, shell: int, num_shells: int, cutoff: float, overlap: float, spline_degree: int
    ) -> None:
        super().__init__()
        self.index = shell
        self.spline_degree = spline_degree
        self.cutoff = cutoff
        self.overlap = overlap
        # The last border is the cutoff itself, bit for bit: the ops compare with it.
        self.lower = shell * cutoff / num_shells
        self.upper = cutoff if shell == num_shells - 1 else (shell + 1) * cutoff / num_shells
        self.start = max(0.0, self.lower - overlap / 2)
        self.end = min(cutoff, self.upper + overlap / 2)

        # 1 / sqrt(expected number of neighbours): keeps sums over far shells at order one.
        volume = 4.0 / 3.0 * math.pi * (self.end**3 - self.start**3)
        self.scale = 1.0 / math.sqrt(max(1.0, _ATOM_DENSITY * volume))

    def forward(
        self,
        edge_vector: Tensor,
        edge_index: Tensor,
        ptr: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        vector: Tensor,
        table: Tensor,
        num_heads: int,
    ) -> Tuple[Tensor, Tensor]:
        """Messages summed over this shell's edges; arguments as ``dkmp_plugin.ops.dilated_message``."""
        width = table.size(1) // 4
        # The scale goes into the filters of the messages, not those of the attention: in a frozen module it
        # then costs nothing.
        scaled = torch.cat([table[:, :width], self.scale * table[:, width:]], dim=1)
        return dilated_message(
            edge_vector,
            edge_index,
            ptr,
            self.index,
            query,
            key,
            value,
            vector,
            scaled,
            num_heads,
            self.lower,
            self.upper,
            self.overlap,
            self.cutoff,
            self.spline_degree,
        )
