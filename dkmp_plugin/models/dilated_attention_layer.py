"""One layer of DKMP^R: dilated graph attention over one shell of distance ranks (paper, section 3.2.2)."""

from typing import List, Tuple

import torch
from torch import Tensor, nn
from torchmdnet.models.utils import act_class_mapping

from dkmp_plugin.models.linear_map import LinearMap
from dkmp_plugin.ops import dilated_attention

# Atoms treated at once outside training: on CPUs what stays in cache, elsewhere what takes few launches.
BLOCK_SIZE = 1024
DEVICE_BLOCK_SIZE = 65536


def atoms_at_once(on: Tensor, block_size: int, device_block_size: int) -> int:
    """Number of atoms in a block, for features where the tensor is."""
    return block_size if on.device.type == "cpu" else device_block_size


class DilatedAttentionLayer(nn.Module):
    """Scalar cross-attention and vector self-attention over K neighbours, then a feed-forward block.

    Queries and values come from the structure features, keys of the scalar attention from the element
    features, keys of the vector attention from the structure features; only the structure features change.
    The paper leaves open how the two attentions combine; both choices here run as one call of the op:

    - ``split`` (default): half of the heads attend by elements, half by structure; a learned factor scales
      the distance in the logits; pre-norm residual blocks, whose feed-forward also sees by itself what was
      attended.
    - ``literal``: every head attends both ways and the two results are added; the distance in Å enters the
      logits as it is, ``softmax((q.k + dist) / sqrt(d))``; post-norm residual blocks.

    Args:
        hidden_channels: Width d.
        num_heads: Heads; an even divisor of d for ``split``.
        activation: torchmd-net name of the activation.
        variant: ``split`` or ``literal``.
    """

    def __init__(self, hidden_channels: int, num_heads: int, activation: str, variant: str) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.block_size, self.device_block_size = BLOCK_SIZE, DEVICE_BLOCK_SIZE
        self.literal = variant == "literal"
        key_channels = hidden_channels if self.literal else hidden_channels // 2
        self.norm_attention = nn.LayerNorm(hidden_channels)
        self.query = LinearMap(hidden_channels, hidden_channels)
        self.element_key = LinearMap(hidden_channels, key_channels)
        self.structure_key = LinearMap(hidden_channels, key_channels)
        self.value = LinearMap(hidden_channels, hidden_channels)
        self.output = LinearMap(hidden_channels, hidden_channels)
        self.norm_feed_forward = nn.LayerNorm(hidden_channels)
        inputs = hidden_channels if self.literal else 2 * hidden_channels
        self.feed_forward = nn.Sequential(
            LinearMap(inputs, 2 * hidden_channels),
            act_class_mapping[activation](),
            LinearMap(2 * hidden_channels, hidden_channels),
        )
        initial = torch.tensor(1.0 if self.literal else -0.3)
        self.distance_factor = nn.Parameter(initial, requires_grad=not self.literal)

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.LayerNorm)):
                module.reset_parameters()
        nn.init.constant_(self.distance_factor, 1.0 if self.literal else -0.3)

    def _project(self, structure: Tensor, elements: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of atoms, each (n, d); keys of ``literal`` are (n, 2 d)."""
        if not self.literal:
            structure = self.norm_attention(structure)
        keys = torch.cat([self.element_key(elements), self.structure_key(structure)], 1)
        return self.query(structure), keys, self.value(structure)

    def _attend(
        self, query: Tensor, keys: Tensor, value: Tensor, neighbors: Tensor, distance: Tensor
    ) -> Tensor:
        """What every atom gathers, (N, d), before the output projection."""
        num_atoms, channels = query.shape
        heads = [num_atoms, self.num_heads, channels // self.num_heads]
        query, value = query.view(heads), value.view(heads)
        bias = self.distance_factor * distance
        if self.literal:
            keys = keys.view(num_atoms, 2 * self.num_heads, channels // self.num_heads)
            query, value = torch.cat([query, query], 1), torch.cat([value, value], 1)
            both = dilated_attention(query, keys, value, neighbors, bias)
            mixed = both[:, : self.num_heads] + both[:, self.num_heads :]
        else:
            mixed = dilated_attention(query, keys.view(heads), value, neighbors, bias)
        return mixed.reshape(num_atoms, channels)

    def _update(self, structure: Tensor, mixed: Tensor) -> Tensor:
        """New features of atoms (n, d) from their own and what they gathered."""
        attended = self.output(mixed)
        if self.literal:
            structure = self.norm_attention(structure + attended)
            return self.norm_feed_forward(structure + self.feed_forward(structure))
        structure = structure + attended
        inputs = torch.cat([self.norm_feed_forward(structure), self.norm_feed_forward(attended)], 1)
        return structure + self.feed_forward(inputs)

    def is_differentiated(self, structure: Tensor) -> bool:
        """Whether gradients are asked for: then what a layer has read must stay as it is."""
        asked = structure.requires_grad or self.query.weight.requires_grad
        return torch.is_grad_enabled() and asked

    def forward(
        self,
        structure: Tensor,
        elements: Tensor,
        neighbors: Tensor,
        distance: Tensor,
        workspace: List[Tensor],
    ) -> Tensor:
        """Update the structure features.

        Args:
            structure: (N, d) features X; overwritten by the result where no gradient is asked for.
            elements: (N, d) features S.
            neighbors: (N, K) int64 atom indices, -1 for none.
            distance: (N, K) in Å; anything finite where there is no neighbour.
            workspace: An empty list for the first of several layers, the same list for the others: its memory
                is used again.

        Returns:
            (N, d).
        """
        if self.training:
            query, keys, value = self._project(structure, elements)
            return self._update(structure, self._attend(query, keys, value, neighbors, distance))
        # All but the attention works on each atom alone. In blocks it needs few large pieces of memory: with
        # many, malloc's heap grows by holes to gigabytes when a TorchScript module of 40,000 atoms runs. They
        # serve every layer, because the first write to a page that is new costs more than the result on it.
        differentiable = self.is_differentiated(structure)
        if len(workspace) == 0 or differentiable:
            workspace.clear()
            workspace.extend([torch.empty_like(structure), torch.empty_like(structure)])
            channels = structure.size(1)
            workspace.append(
                structure.new_empty(structure.size(0), 2 * channels if self.literal else channels)
            )
        query, value, keys = workspace[0], workspace[1], workspace[2]
        size = atoms_at_once(structure, self.block_size, self.device_block_size)
        for first in range(0, structure.size(0), size):
            block = slice(first, first + size)
            query[block], keys[block], value[block] = self._project(structure[block], elements[block])
        mixed = self._attend(query, keys, value, neighbors, distance)
        updated = torch.empty_like(structure) if differentiable else structure
        for first in range(0, structure.size(0), size):
            block = slice(first, first + size)
            updated[block] = self._update(structure[block], mixed[block])
        return updated
