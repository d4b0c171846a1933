"""How far the neighbourhood of an atom is from the reference: what fast and slow motion are told apart by."""

import torch
from torch import Tensor, nn

from dkmp_plugin.models.linear_map import LinearMap
from dkmp_plugin.ops import dilated_attention

# Width of queries and keys; the op wants values as wide as keys, three of them are the coordinates.
_HEAD_CHANNELS = 8


class NeighborhoodDeviation(nn.Module):
    """Attention-weighted mean deviation from the reference over the neighbours of a layer.

    The thermal motion of an atom consists of a slow part that it shares with its neighbourhood and a fast
    part of its own, which has decayed in the next frame. An optimal linear prediction (a Wiener filter)
    weighs the deviation of the atom against means over its neighbourhood; which neighbours count is learned.

    Args:
        hidden_channels: Width d.
        num_heads: Means per atom.
    """

    def __init__(self, hidden_channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_channels = _HEAD_CHANNELS
        self.norm = nn.LayerNorm(hidden_channels)
        self.query = LinearMap(hidden_channels, num_heads * _HEAD_CHANNELS)
        self.key = LinearMap(hidden_channels, num_heads * _HEAD_CHANNELS)
        self.distance_factor = nn.Parameter(torch.tensor(-0.3))

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        for module in (self.norm, self.query, self.key):
            module.reset_parameters()
        nn.init.constant_(self.distance_factor, -0.3)

    def forward(self, structure: Tensor, deviation: Tensor, neighbors: Tensor, distance: Tensor) -> Tensor:
        """Mean deviations (N, num_heads, 3) in Å.

        Args:
            structure: (N, d) features.
            deviation: (N, 3) in Å.
            neighbors: (N, K) int64 atom indices, -1 for none.
            distance: (N, K) in Å.
        """
        normed = self.norm(structure)
        shape = [structure.size(0), self.num_heads, self.head_channels]
        value = torch.cat([deviation, deviation.new_zeros(shape[0], self.head_channels - 3)], 1)
        value = value.unsqueeze(1).expand(shape).contiguous()
        query, key = self.query(normed).view(shape), self.key(normed).view(shape)
        bias = self.distance_factor * distance
        return dilated_attention(query, key, value, neighbors, bias)[:, :, :3]
