"""DKMP^C: radius-shell dilation, equivariant, energies and forces (appendix D of the paper)."""

from functools import partial
from typing import Callable, Dict, Optional, Tuple

import torch
from torch import Tensor, nn

from dkmp_plugin.config import spline_degree
from dkmp_plugin.models.dilated_graph import DilatedGraph
from dkmp_plugin.models.dilated_layer import DegreeUpdateLayer, DilatedMessages, SharedUpdateLayer
from dkmp_plugin.models.layer_settings import LayerSettings
from dkmp_plugin.models.neighbor_embedding import NeighborEmbedding
from dkmp_plugin.models.product_layer import ProductUpdateLayer
from dkmp_plugin.models.radius_shell import RadiusShell

_LAYERS: Dict[int, Callable[[LayerSettings, RadiusShell], DilatedMessages]] = {
    1: SharedUpdateLayer,
    2: DegreeUpdateLayer,
    3: partial(ProductUpdateLayer, norm_offset=0.01, attention=True),
    4: partial(ProductUpdateLayer, norm_offset=1.0, attention=True),
    5: partial(ProductUpdateLayer, norm_offset=1.0, attention=False),
    6: partial(ProductUpdateLayer, norm_offset=1.0, attention=False),
}
# Of the activation functions since revision 6, in layers and energy head.
STRETCH = 6.0


class DKMPC(nn.Module):
    """DKMP^C as a torchmd-net representation model.

    Layer t sees shell t mod ``num_shells``: ``num_shells = num_layers`` is the paper's single pass
    outwards, fewer shells make several passes. ``shell_overlap > 0`` gives every shell a smooth window,
    so that energy and forces stay continuous when an atom crosses a border; 0 is the paper's hard
    partition.

    Args:
        hidden_channels: Width d.
        num_layers: Number of layers L.
        num_shells: Number of shells; ``num_layers`` when None.
        num_rbf: Number of radial basis functions per shell.
        rbf_type: ``expnorm`` or ``gauss``.
        trainable_rbf: Whether the radial basis has parameters.
        activation: Name of the activation function of the updates.
        cutoff_upper: Outer cutoff C in Å.
        shell_overlap: Width of the smooth shell borders in Å.
        num_heads: Number of attention heads; divides ``hidden_channels``.
        max_z: Number of elements the embedding holds.
        max_num_neighbors: Largest number of neighbours of an atom within the cutoff; 0 for no limit.
        box_vecs: Constant box vectors as rows in Å, shape (3, 3), or None.
        revision: 1 for :class:`SharedUpdateLayer`, 2 for :class:`DegreeUpdateLayer`, 3 to 6 for
            :class:`ProductUpdateLayer`.
        dtype: torch.float32 or torch.float64.

    Raises:
        ValueError: If ``revision`` is unknown.
    """

    trained_elements: Tensor

    def __init__(
        self,
        hidden_channels: int = 128,
        num_layers: int = 6,
        num_shells: Optional[int] = None,
        num_rbf: int = 32,
        rbf_type: str = "expnorm",
        trainable_rbf: bool = False,
        activation: str = "silu",
        cutoff_upper: float = 12.0,
        shell_overlap: float = 1.0,
        num_heads: int = 8,
        max_z: int = 100,
        max_num_neighbors: int = 0,
        box_vecs: Optional[Tensor] = None,
        revision: int = 6,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if revision not in _LAYERS:
            raise ValueError(f"revision: {revision!r} was given, one of {list(_LAYERS)} is expected")
        num_shells = num_layers if num_shells is None else num_shells
        degree = spline_degree(revision)
        shells = [RadiusShell(s, num_shells, cutoff_upper, shell_overlap, degree) for s in range(num_shells)]
        self.max_z = max_z
        self.distance = DilatedGraph(cutoff_upper, num_shells, shell_overlap, max_num_neighbors, box_vecs)
        settings = LayerSettings(
            hidden_channels,
            num_rbf,
            rbf_type,
            trainable_rbf,
            activation,
            STRETCH if revision > 5 else 1.0,
            num_heads,
            dtype,
        )
        self.embedding = NeighborEmbedding(settings, shells[0], max_z, amplified_filters=revision > 1)
        self.layers = nn.ModuleList(
            _LAYERS[revision](settings, shells[layer % num_shells]) for layer in range(num_layers)
        )
        self.norm = nn.LayerNorm(hidden_channels, dtype=dtype)
        # Which elements the weights have been trained on: simulations refuse others.
        self.register_buffer("trained_elements", torch.zeros(max_z, dtype=torch.bool))

    def reset_parameters(self) -> None:
        """Fresh weights, and no element trained on."""
        self.embedding.reset_parameters()
        for layer in self.layers:
            assert isinstance(layer, DilatedMessages)
            layer.reset_parameters()
        self.norm.reset_parameters()
        self.trained_elements.zero_()

    def forward(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Tensor,
        box: Optional[Tensor] = None,
        q: Optional[Tensor] = None,
        s: Optional[Tensor] = None,
    ) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Features of every atom.

        Args:
            z: Atomic numbers, shape (N,).
            pos: Positions in Å, shape (N, 3).
            batch: System of each atom, shape (N,), non-decreasing.
            box: Box vectors as rows in Å, shape (3, 3) or (B, 3, 3), or None for open systems.
            q: Unused (total charges, torchmd-net's interface).
            s: Unused (spins, torchmd-net's interface).

        Returns:
            Scalars (N, d), spherical features (N, 8, d), ``z``, ``pos``, ``batch``.
        """
        if self.training:
            self.trained_elements[z] = True
        edge_vector, edge_index, ptr = self.distance(pos, batch, box)
        x, vector = self.embedding(z, edge_vector, edge_index, ptr)
        for layer in self.layers:
            x, vector = layer(x, vector, edge_vector, edge_index, ptr)
        return self.norm(x), vector, z, pos, batch
