"""Neighbours of one step used again in the next ones, as long as no atom has moved far (Verlet list)."""

from typing import Optional

import torch
from torch import Tensor

from dkmp_plugin.ops import edge_vectors, radius_shells

# Where an exported model keeps its graph; freezing must not fold these into constants.
_GRAPH = "model.representation_model.distance"
REUSED_ATTRIBUTES = [f"{_GRAPH}.{name}" for name in ("edges_given", "edge_index", "cell_offsets", "ptr")]


class NeighborReuse:
    """Gives a model its edges from a list that reaches farther than its cutoff.

    All pairs within cutoff + skin are searched once. Until an atom has moved by more than skin / 2 since, no
    other pair can come within the cutoff, and each step picks from the list what is in each shell now: the
    edges, and so the energy, are those of a fresh search.

    Args:
        model: exported model, scripted or frozen with ``preserved_attrs=REUSED_ATTRIBUTES``.
        cutoff: outer cutoff in Å.
        num_shells: number of shells.
        overlap: width of the smooth border between shells in Å.
        skin: in Å.

    Attributes:
        num_searches: how often pairs have been searched.

    Raises:
        ValueError: the model was exported before models could be given their edges.
    """

    def __init__(
        self, model: torch.jit.ScriptModule, cutoff: float, num_shells: int, overlap: float, skin: float
    ) -> None:
        self._graph = model.model.representation_model.distance
        if not hasattr(self._graph, "edges_given"):
            raise ValueError("the model was exported by an older dkmp_plugin; export it again, or use skin=0")
        self._cutoff = cutoff
        self._num_shells = num_shells
        self._overlap = overlap
        self._skin = skin
        self._positions: Optional[Tensor] = None
        self._box: Optional[Tensor] = None
        self._edge_index = self._cell_offsets = torch.zeros(0)
        self.num_searches = 0

    def update(self, positions: Tensor, box: Optional[Tensor]) -> None:
        """Set the edges of the model for these atoms.

        Args:
            positions: (N, 3) in Å, of the model's floating-point type.
            box: (3, 3) in Å, or None.
        """
        positions = positions.detach()
        box = None if box is None else box.detach()
        batch = torch.zeros(len(positions), dtype=torch.long)
        if self._is_outdated(positions, box):
            self._edge_index, self._cell_offsets, _ = radius_shells(
                positions, batch, box, self._cutoff + self._skin, 1, 0.0, 0
            )
            self._positions, self._box = positions.clone(), box
            self.num_searches += 1
        vector = edge_vectors(positions, self._edge_index, self._cell_offsets, box, batch)
        distance = torch.linalg.vector_norm(vector, dim=1)
        chosen = [torch.nonzero(self._in_shell(distance, s)).flatten() for s in range(self._num_shells)]
        edges = torch.cat(chosen)
        counts = torch.tensor([0] + [len(shell) for shell in chosen])
        self._graph.edge_index = self._edge_index[:, edges].contiguous()
        self._graph.cell_offsets = self._cell_offsets[edges].contiguous()
        self._graph.ptr = counts.cumsum(0)
        self._graph.edges_given = True

    def _is_outdated(self, positions: Tensor, box: Optional[Tensor]) -> bool:
        if self._positions is None or self._positions.shape != positions.shape:
            return True
        if (self._box is None) != (box is None):
            return True
        if self._box is not None and box is not None and not torch.equal(self._box, box):
            return True
        moved = torch.linalg.vector_norm(positions - self._positions, dim=1)
        return not bool((moved <= 0.5 * self._skin).all())

    def _in_shell(self, distance: Tensor, shell: int) -> Tensor:
        """As ``dkmp_plugin.ops.radius_shells`` decides it."""
        inside = distance < self._cutoff
        width = self._cutoff / self._num_shells
        if shell > 0:
            inside = inside & (distance >= width * shell - 0.5 * self._overlap)
        if shell + 1 < self._num_shells:
            inside = inside & (distance < width * (shell + 1) + 0.5 * self._overlap)
        return inside
