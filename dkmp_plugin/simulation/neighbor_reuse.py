"""Neighbours of one step used again in the next ones, as long as no atom has moved far (Verlet list)."""

from typing import Optional, Tuple

import torch
from torch import Tensor, nn

from dkmp_plugin.ops import edge_vectors, radius_shells
from dkmp_plugin.ops.reference.graph import in_shell
from dkmp_plugin.simulation.model_file import ModelInfo, constant_box


class NeighborList(nn.Module):
    """The edges of all shells, picked from a list that reaches farther than the cutoff.

    All pairs within cutoff + skin are searched once. Until an atom has moved by more than skin / 2 since, no
    other pair can come within the cutoff, and each step picks from the list what is in each shell now: the
    edges are those of a fresh search. Another box, or another number of atoms, is searched anew.

    The list lives in the module's attributes, which TorchScript keeps between calls, frozen or not. Positions
    decide on the host whether to search: not for CUDA graphs.

    Args:
        cutoff: outer cutoff in Å.
        num_shells: number of shells.
        overlap: width of the smooth border between shells in Å.
        skin: in Å.
        max_num_neighbors: largest number of neighbours of an atom within the cutoff, not the skin; 0 for no
            limit.

    Attributes:
        num_searches: how often pairs have been searched.
    """

    _positions: Tensor
    _box: Optional[Tensor]
    _edge_index: Tensor
    _cell_offsets: Tensor
    num_searches: int

    def __init__(
        self, cutoff: float, num_shells: int, overlap: float, skin: float, max_num_neighbors: int = 0
    ) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.num_shells = num_shells
        self.overlap = overlap
        self.skin = skin
        self.max_num_neighbors = max_num_neighbors
        self._positions = torch.zeros(0, 3)
        self._box = None
        self._edge_index = torch.zeros(2, 0, dtype=torch.long)
        self._cell_offsets = torch.zeros(0, 3, dtype=torch.int32)
        self.num_searches = 0

    def forward(self, positions: Tensor, box: Optional[Tensor]) -> Tuple[Tensor, Tensor, Tensor]:
        """The edges of these atoms.

        Args:
            positions: (N, 3) in Å, of the model's floating-point type.
            box: (3, 3) in Å, or None.

        Returns:
            edge_index (2, E), cell_offsets (E, 3) and ptr (num_shells + 1,) as from
            ``dkmp_plugin.ops.radius_shells``.

        Raises:
            ValueError: an atom has more neighbours within the cutoff than allowed.
        """
        positions = positions.detach()
        if box is not None:
            box = box.detach()
        batch = torch.zeros(positions.size(0), dtype=torch.long, device=positions.device)
        if self._is_outdated(positions, box):
            edge_index, cell_offsets, _ = radius_shells(
                positions, batch, box, self.cutoff + self.skin, 1, 0.0, 0, None
            )
            self._edge_index = edge_index
            self._cell_offsets = cell_offsets
            self._positions = positions.clone()
            self._box = None if box is None else box.clone()
            self.num_searches = self.num_searches + 1
        edge_index, cell_offsets = self._edge_index, self._cell_offsets
        vector = edge_vectors(positions, edge_index, cell_offsets, box, batch)
        # As the op's: a root of a sum of squares, so that an edge at a border is in the same shell.
        distance = torch.sqrt((vector * vector).sum(dim=1))
        self._check_number_of_neighbors(edge_index[0], distance)
        near = torch.nonzero(distance < self.cutoff).view(-1)
        distance = distance.index_select(0, near)
        chosen = [
            near[in_shell(distance, shell, self.cutoff, self.num_shells, self.overlap)]
            for shell in range(self.num_shells)
        ]
        edges = torch.cat(chosen)
        counts = torch.tensor([0] + [shell.size(0) for shell in chosen], device=positions.device)
        return (
            edge_index.index_select(1, edges),
            cell_offsets.index_select(0, edges),
            counts.cumsum(0),
        )

    def _is_outdated(self, positions: Tensor, box: Optional[Tensor]) -> bool:
        if self.num_searches == 0 or self._positions.size(0) != positions.size(0):
            return True
        before = self._box
        if (before is None) != (box is None):
            return True
        if before is not None and box is not None and not torch.equal(before, box):
            return True
        moved = torch.linalg.vector_norm(positions - self._positions, dim=1)
        # Not "any is larger": NaN is to be searched, which refuses it.
        return not bool((moved <= 0.5 * self.skin).all())

    def _check_number_of_neighbors(self, receiver: Tensor, distance: Tensor) -> None:
        """As ``dkmp_plugin.ops.radius_shells`` does; the list itself, which reaches farther, has no limit."""
        if self.max_num_neighbors > 0 and receiver.size(0) > 0:
            most = int(torch.bincount(receiver[distance < self.cutoff], minlength=1).max())
            if most > self.max_num_neighbors:
                raise ValueError(
                    f"an atom has {most} neighbours within the cutoff of {self.cutoff} Å, more than "
                    f"max_num_neighbors = {self.max_num_neighbors} of the model; train it with a larger one"
                )


class ReusingModel(nn.Module):
    """An exported model that is given its edges by a :class:`NeighborList`.

    Args:
        model: exported model: ``(z, pos Å, box Å) -> energy``.
        info: its description.
        skin: in Å.

    Raises:
        ValueError: the model was exported before models could be given their edges.
    """

    box: Tensor

    def __init__(self, model: torch.jit.ScriptModule, info: ModelInfo, skin: float) -> None:
        super().__init__()
        graph = model.model.representation_model.distance
        if not hasattr(graph, "edges_given"):
            raise ValueError("the model was exported by an older dkmp_plugin; export it again, or use skin=0")
        self.model = model
        self.neighbors = NeighborList(
            info.cutoff, info.num_shells, info.shell_overlap, skin, graph.max_num_neighbors
        )
        box = constant_box(model)
        self.has_constant_box = box is not None
        self.register_buffer("box", torch.zeros(3, 3) if box is None else box)

    def forward(self, z: Tensor, pos: Tensor, box: Optional[Tensor]) -> Tensor:
        """As the exported model; see ``dkmp_plugin.simulation.export.EnergyModel``."""
        if box is None and self.has_constant_box:
            box = self.box.to(pos.dtype)
        edge_index, cell_offsets, ptr = self.neighbors(pos, box)
        self.model.model.representation_model.distance.edge_index = edge_index
        self.model.model.representation_model.distance.cell_offsets = cell_offsets
        self.model.model.representation_model.distance.ptr = ptr
        self.model.model.representation_model.distance.edges_given = True
        return self.model(z, pos, box)
