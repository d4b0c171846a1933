"""DKMP^C: radius-shell dilation, equivariant, energies and forces (appendix D of the paper)."""

from functools import partial
from typing import Callable, Dict, Optional, Tuple

import torch
from torch import Tensor, nn

from dkmp_plugin.config import spline_degree
from dkmp_plugin.models.dilated_layer import DegreeUpdateLayer, DilatedMessages, SharedUpdateLayer
from dkmp_plugin.models.initial_weights import reset_linear_maps
from dkmp_plugin.models.layer_settings import LayerSettings
from dkmp_plugin.models.linear_map import LinearMap
from dkmp_plugin.models.product_layer import ProductUpdateLayer
from dkmp_plugin.models.radial import RadialFilters
from dkmp_plugin.models.radius_shell import RadiusShell
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
        self.filters = RadialFilters(
            4 * d,
            settings.rbf_type,
            settings.num_rbf,
            shell.start,
            shell.end,
            shell.cutoff,
            settings.trainable_rbf,
            amplified_filters,
            shell.spline_degree,
            dtype,
        )
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
