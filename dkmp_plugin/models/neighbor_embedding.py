"""The first features of DKMP^C, from the elements and the first shell."""

from typing import Tuple

import torch
from torch import Tensor, nn

from dkmp_plugin.models.initial_weights import reset_linear_maps
from dkmp_plugin.models.layer_settings import LayerSettings
from dkmp_plugin.models.linear_map import LinearMap
from dkmp_plugin.models.radial import shell_filters
from dkmp_plugin.models.radius_shell import RadiusShell


class NeighborEmbedding(nn.Module):
    """First features: the element and the directions and elements of the neighbours in the first shell.

    ``v^0_i`` is a sum of spherical harmonics over the neighbours (appendix D), here weighted by learned
    radial filters and element embeddings.

    Args:
        settings: What the layers of the model share.
        shell: The first shell.
        max_z: Number of elements the embedding holds.
        amplified_filters: Whether the optimiser's steps on the radial filters are amplified.
    """

    def __init__(
        self, settings: LayerSettings, shell: RadiusShell, max_z: int, amplified_filters: bool
    ) -> None:
        super().__init__()
        d, dtype = settings.hidden_channels, settings.dtype
        self.shell = shell
        self.embedding = nn.Embedding(max_z, d, dtype=dtype)
        self.neighbor_values = nn.Embedding(max_z, 3 * d, dtype=dtype)
        self.filters = shell_filters(4 * d, settings, shell, amplified_filters)
        self.combine = LinearMap(2 * d, d, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal embeddings, Xavier-uniform weights."""
        self.embedding.reset_parameters()
        self.neighbor_values.reset_parameters()
        self.filters.reset_parameters()
        reset_linear_maps(self.combine)

    def forward(
        self, z: Tensor, edge_vector: Tensor, edge_index: Tensor, ptr: Tensor
    ) -> Tuple[Tensor, Tensor]:
        """Scalar features (N, d) and spherical features (N, 8, d) of atomic numbers ``z`` (N,)."""
        element = self.embedding(z)
        none = element.new_zeros((0, element.shape[1]))
        no_vector = element.new_zeros((0, 8, element.shape[1]))
        values = self.neighbor_values(z)
        message, vector = self.shell(
            edge_vector, edge_index, ptr, none, none, values, no_vector, self.filters(), 1
        )
        return self.combine(torch.cat([element, message], dim=-1)), vector
