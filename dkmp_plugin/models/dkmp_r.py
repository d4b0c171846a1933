"""DKMP^R: dilated graph attention over distance ranks, structure to structure (paper, section 3.2.2).

A propagator: it predicts the displacement to the next frame of a trajectory, not the gradient of an energy.
"""

from typing import List, Optional, Tuple

import torch
from torch import Tensor, nn

from dkmp_plugin.config import ATTENTION_VARIANTS, CANONICAL_FRAMES
from dkmp_plugin.models.canonical_frame import (
    SUPERPOSED_FRAMES,
    centroids,
    count_systems,
    principal_frames,
    superposition_frames,
)
from dkmp_plugin.models.coordinate_embedding import CoordinateEmbedding
from dkmp_plugin.models.dilated_attention_layer import (
    BLOCK_SIZE,
    DEVICE_BLOCK_SIZE,
    DilatedAttentionLayer,
    atoms_at_once,
)
from dkmp_plugin.models.linear_map import LinearMap
from dkmp_plugin.models.neighbor_distances import neighbor_distances, short_lattice_vectors
from dkmp_plugin.models.neighborhood_deviation import NeighborhoodDeviation
from dkmp_plugin.models.partition import rank_columns
from dkmp_plugin.models.ranked_graph import RankedGraph
from dkmp_plugin.models.reference_structure import ReferenceStructure
from dkmp_plugin.models.spatial_order import spatial_order

# Deviations from a reference are a few Å.
_DEVIATION_SCALE = 0.3
_MEANS_PER_LAYER = 2
# Up to this many atoms, features stay in cache in any order.
_REORDERED_FROM = 8192


class DKMPR(nn.Module):
    """Dilated structure-to-structure network.

    Layer l of L attends over the neighbours of ranks ``(l K, (l + 1) K]``, ``K = M // L`` (paper, eq. 4).
    Coordinates are taken relative to the centroid of each system, so the prediction is translation-
    equivariant. With ``canonical_frame = "principal"`` they are also turned into the principal axes, and the
    output head turns its displacements back: rotation-equivariant too. Both hold to rounding, except for
    structures whose frame is undefined, where rounding decides it: one or two atoms, linear molecules and,
    with ``principal``, symmetric ones (see :func:`principal_frames`). Without a frame the model must be shown
    structures in one common orientation (superposed), or learn from rotated copies.

    ``first`` and ``mean`` instead superpose the structure on a reference: the first frame of its trajectory,
    or the mean structure of the training runs, which the model keeps. Equivariance is as above, and the model
    sees how far each atom, and the mean of its neighbours in every layer, is from the reference (see
    :class:`NeighborhoodDeviation`): thermal deviations relax, and that is most of what can be predicted.

    With a box, ranks and distances are those of the nearest periodic image; the centroid is that of the
    positions as given, so molecules must be whole.

    Args:
        hidden_channels: Width d.
        num_layers: L.
        num_heads: Attention heads; see :class:`DilatedAttentionLayer`.
        num_neighbors: M, at least L.
        activation: torchmd-net name of the activation.
        max_z: Largest atomic number + 1.
        canonical_frame: ``none``, ``principal``, ``first`` or ``mean``.
        attention_variant: ``split`` or ``literal``.
        num_frequencies: Plane waves of the coordinate embedding; 0 for the paper's linear embedding.
        partition: Which ranks each layer sees; see :func:`rank_columns`.
        box_vecs: Constant box, (3, 3) in Å, or None.
        dtype: Of the parameters.

    Attributes:
        trained_elements: (max_z,) bool, the atomic numbers seen in training.
        num_vectors: V, vectors per atom behind the features: its deviation from the reference and means over
            neighbours; 0 without a reference.

    Raises:
        ValueError: a setting is impossible.
    """

    trained_elements: Tensor
    columns: Tensor

    def __init__(
        self,
        hidden_channels: int = 128,
        num_layers: int = 6,
        num_heads: int = 8,
        num_neighbors: int = 192,
        activation: str = "silu",
        max_z: int = 100,
        canonical_frame: str = "principal",
        attention_variant: str = "split",
        num_frequencies: int = 32,
        partition: str = "dilated",
        box_vecs: Optional[Tensor] = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        _check_settings(
            hidden_channels, num_layers, num_heads, num_neighbors, canonical_frame, attention_variant
        )
        self.hidden_channels = hidden_channels
        self.block_size, self.device_block_size = BLOCK_SIZE, DEVICE_BLOCK_SIZE
        self.reordered_from = _REORDERED_FROM
        per_layer = num_neighbors // num_layers
        self.use_frame = canonical_frame != "none"
        self.deviation_scale = _DEVIATION_SCALE
        self.use_reference = canonical_frame in SUPERPOSED_FRAMES
        self.num_vectors = 1 + _MEANS_PER_LAYER * num_layers if self.use_reference else 0
        self.distance = RankedGraph(per_layer * num_layers, box_vecs)
        self.register_buffer("columns", rank_columns(partition, num_layers, per_layer), persistent=False)
        self.embedding = nn.Embedding(max_z, hidden_channels)
        self.coordinate_embedding = CoordinateEmbedding(
            hidden_channels, num_frequencies, activation, self.use_reference
        )
        self.reference = ReferenceStructure(canonical_frame == "mean")
        self.layers = nn.ModuleList(
            DilatedAttentionLayer(hidden_channels, num_heads, activation, attention_variant)
            for _ in range(num_layers)
        )
        self.deviations = nn.ModuleList(
            NeighborhoodDeviation(hidden_channels, _MEANS_PER_LAYER)
            for _ in range(num_layers if self.use_reference else 0)
        )
        self.literal = attention_variant == "literal"
        self.norm = nn.Identity() if self.literal else nn.LayerNorm(hidden_channels)
        seen = 6 if self.use_reference else 3
        self.coordinate_skip = nn.Identity() if self.literal else LinearMap(seen, hidden_channels)
        self.register_buffer("trained_elements", torch.zeros(max_z, dtype=torch.bool))
        self.reset_parameters()
        self.to(dtype)

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        self.trained_elements.zero_()
        self.embedding.reset_parameters()
        self.coordinate_embedding.reset_parameters()
        for layer in self.layers:
            assert isinstance(layer, DilatedAttentionLayer)
            layer.reset_parameters()
        for means in self.deviations:
            assert isinstance(means, NeighborhoodDeviation)
            means.reset_parameters()
        for module in (self.norm, self.coordinate_skip):
            if isinstance(module, (nn.LayerNorm, nn.Linear)):
                module.reset_parameters()

    def forward(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Tensor,
        box: Optional[Tensor] = None,
        q: Optional[Tensor] = None,
        s: Optional[Tensor] = None,
    ) -> Tuple[Tensor, Optional[Tensor], Tensor, Tensor, Tensor]:
        """Features of a structure whose own distances give the ranks.

        Args:
            z: (N,) int64 atomic numbers.
            pos: (N, 3) in Å.
            batch: (N,) int64 system of each atom, non-decreasing.
            box: (3, 3) or (B, 3, 3) box vectors as rows in Å, or None.
            q: Unused (torchmd-net passes total charges here).
            s: Unused (torchmd-net passes spins here).

        Returns:
            features (N, d), and behind them V vectors (N, 3 V) in Å, in the canonical frame; the frame of
            each atom's system (N, 3, 3), columns are its axes, or None; and z, pos, batch as given.
        """
        return self.encode(z, pos, batch, self.distance(pos, batch, box), box, None)

    @torch.jit.export
    def encode(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Tensor,
        neighbors: Tensor,
        box: Optional[Tensor] = None,
        reference: Optional[Tensor] = None,
    ) -> Tuple[Tensor, Optional[Tensor], Tensor, Tensor, Tensor]:
        """Features of a structure with known ranks, as of the first frame of a trajectory (appendix E).

        Args:
            z: (N,) int64 atomic numbers.
            pos: (N, 3) in Å.
            batch: (N,) int64 system of each atom, non-decreasing.
            neighbors: (N, at least M) int64 ranks, -1 for none.
            box: (3, 3) or (B, 3, 3) box vectors as rows in Å, or None.
            reference: (N, 3) in Å, the first frame of the trajectory, for ``canonical_frame = "first"``
                (None: ``pos``); in training also the mean structure for ``mean``.

        Returns:
            As :meth:`forward`.

        Raises:
            ValueError: neighbors has fewer columns than the model uses; the structure is of another system
                than the stored mean.
        """
        if neighbors.size(1) < self.distance.num_neighbors:
            raise ValueError(
                f"DKMPR: neighbors has {neighbors.size(1)} columns, the model uses "
                f"{self.distance.num_neighbors}; rank at least max_num_neighbors neighbours"
            )
        if self.training:
            self.trained_elements[z] = True
            if self.use_reference:
                self.reference.remember(reference, batch, z)
        given_z, given_pos, given_batch = z, pos, batch
        coordinates, frame, origin = self._orient(z, pos, batch, reference)
        # Atoms that the layers read together lie together, whatever the order of the file.
        order, place = z, z[:0]
        reordered = not self.training and pos.size(0) > self.reordered_from
        if reordered:
            order, place = _order_in_space(pos, batch)
            z, pos, batch = z[order], pos[order], batch[order]
            coordinates, origin = coordinates[order], origin[order]
        deviation = coordinates - origin
        elements = self.embedding(z)
        structure = self._embed(coordinates, origin, elements)
        # Kept for the means over the same neighbours; without a reference they would only take memory.
        seen_by: List[Tensor] = []
        distances: List[Tensor] = []
        workspace: List[Tensor] = []
        graph: List[Tensor] = []
        for index, layer in enumerate(self.layers):
            if self.use_reference or layer.is_differentiated(structure):  # type: ignore[operator]
                graph = []
            graph = self._layer_graph(self.columns[index], pos, neighbors, batch, box, order, place, graph)
            seen, distance = graph[0], graph[1]
            structure = layer(structure, elements, seen, distance, workspace)
            if self.use_reference:
                seen_by.append(seen)
                distances.append(distance)
        vectors = [deviation]
        for index, means in enumerate(self.deviations):
            vectors.append(means(structure, deviation, seen_by[index], distances[index]).flatten(1))
        structure = self._features(structure, coordinates, deviation, torch.cat(vectors, 1))
        if reordered:
            structure = structure.index_select(0, place[:-1])
        return structure, frame, given_z, given_pos, given_batch

    def _orient(
        self, z: Tensor, pos: Tensor, batch: Tensor, reference: Optional[Tensor]
    ) -> Tuple[Tensor, Optional[Tensor], Tensor]:
        """Coordinates (N, 3) in the canonical frame, the frame, and the reference in it (N, 3)."""
        frame: Optional[Tensor] = None
        if pos.size(0) == 0:
            return pos, frame, pos
        num_systems = count_systems(batch)
        coordinates = pos - centroids(pos, batch, num_systems).index_select(0, batch)
        origin = coordinates
        if self.use_frame:
            if self.use_reference:
                origin = self.reference(z, pos, batch, num_systems, reference)
                frames = superposition_frames(coordinates, origin, batch, num_systems)
            else:
                frames = principal_frames(coordinates, batch, num_systems)
            frame = frames.index_select(0, batch)
            coordinates = torch.bmm(coordinates.unsqueeze(1), frame).squeeze(1)
        return coordinates, frame, origin

    def _embed(self, coordinates: Tensor, origin: Tensor, elements: Tensor) -> Tensor:
        """Structure features (N, d) of coordinates and their reference (N, 3) in Å, and elements (N, d)."""
        deviation = coordinates.new_empty(coordinates.size(0), 0)
        if self.use_reference:
            deviation = self.deviation_scale * (coordinates - origin)
            coordinates = origin
        if self.training:
            return self.coordinate_embedding(coordinates, elements, deviation)
        structure = torch.empty_like(elements)
        size = atoms_at_once(elements, self.block_size, self.device_block_size)
        for first in range(0, elements.size(0), size):
            block = slice(first, first + size)
            structure[block] = self.coordinate_embedding(
                coordinates[block], elements[block], deviation[block]
            )
        return structure

    def _features(self, structure: Tensor, coordinates: Tensor, deviation: Tensor, vectors: Tensor) -> Tensor:
        """What the head sees: features (N, d), and behind them, with a reference, vectors (N, 3 V) in Å."""
        if not self.literal:
            # The head sees the coordinates themselves too: slow displacements are smooth in them.
            skipped = 0.1 * coordinates
            if self.use_reference:
                skipped = torch.cat([skipped, self.deviation_scale * deviation], 1)
            structure = self.norm(structure) + self.coordinate_skip(skipped)
        if self.use_reference:
            structure = torch.cat([structure, vectors], 1)
        return structure

    def _layer_graph(
        self,
        columns: Tensor,
        pos: Tensor,
        neighbors: Tensor,
        batch: Tensor,
        box: Optional[Tensor],
        order: Tensor,
        place: Tensor,
        memory: List[Tensor],
    ) -> List[Tensor]:
        """Neighbours (N, K) and the distances (N, K) in Å to them, 0 where there is none.

        Args:
            columns: (K,) the ranks that the layer sees.
            pos: (N, 3) in Å.
            neighbors: (N, M) in the order of the file.
            batch: (N,) system of each atom.
            box: As of :meth:`encode`.
            order: (N,) the atom of the file at each place; unused without ``place``.
            place: (N + 1,) the place of each atom of the file, and -1; or empty where they are the same.
            memory: The result of another layer, to overwrite; or empty.
        """
        box = self.distance.choose_box(box)
        if box is not None:
            box = short_lattice_vectors(box.to(pos.dtype))
        if self.training:
            seen = neighbors.index_select(1, columns)
            return [seen, neighbor_distances(pos, pos, seen, batch, box)]
        # In blocks for the reasons given in DilatedAttentionLayer.forward.
        if len(memory) == 0:
            shape = [pos.size(0), columns.size(0)]
            memory = [neighbors.new_empty(shape), pos.new_empty(shape)]
        seen, distance = memory[0], memory[1]
        size = atoms_at_once(pos, self.block_size, self.device_block_size)
        for first in range(0, pos.size(0), size):
            block = slice(first, first + size)
            if place.size(0) > 0:
                seen[block] = place[neighbors[order[block].unsqueeze(1), columns]]
            else:
                seen[block] = neighbors[block].index_select(1, columns)
            distance[block] = neighbor_distances(pos, pos[block], seen[block], batch[block], box)
        return memory


def _order_in_space(pos: Tensor, batch: Tensor) -> Tuple[Tensor, Tensor]:
    """Order (N,) of the atoms, and each one's place (N + 1,) in it; the last, of no neighbour, is -1."""
    order = spatial_order(pos, batch)
    place = torch.empty_like(order)
    place[order] = torch.arange(order.size(0), device=order.device)
    return order, torch.cat([place, torch.full_like(place[:1], -1)])


def _check_settings(
    hidden_channels: int,
    num_layers: int,
    num_heads: int,
    num_neighbors: int,
    canonical_frame: str,
    attention_variant: str,
) -> None:
    if canonical_frame not in CANONICAL_FRAMES:
        raise ValueError(
            f"canonical_frame: {canonical_frame!r} was given, one of {CANONICAL_FRAMES} is expected"
        )
    if attention_variant not in ATTENTION_VARIANTS:
        raise ValueError(
            f"attention_variant: {attention_variant!r} was given, one of {ATTENTION_VARIANTS} is expected"
        )
    if num_layers < 1 or num_neighbors < num_layers:
        raise ValueError(
            f"max_num_neighbors: {num_neighbors} was given, at least one neighbour for each of the "
            f"{num_layers} layers is expected"
        )
    if hidden_channels % num_heads != 0:
        raise ValueError(
            f"num_heads: {num_heads} was given, a divisor of embedding_dimension "
            f"({hidden_channels}) is expected"
        )
    if attention_variant == "split" and num_heads % 2 != 0:
        raise ValueError(
            f"num_heads: {num_heads} was given, an even number is expected (half of the heads attend by "
            "elements, half by structure)"
        )
