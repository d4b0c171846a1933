"""Graphs: which atoms are within the cutoff, in which radius shell, and the vectors between them."""

import math
from typing import List, Optional, Tuple

import torch
from torch import Tensor


# TorchScript cannot read module constants, so limits are functions.
def _block_pairs() -> int:
    """Pairs held at once while searching: bounds the memory of the search."""
    return 4194304


def _max_edges() -> int:
    """Edges the reference search agrees to build; the native search asks the machine for its free memory."""
    return 268435456


def _bytes_per_edge() -> int:
    """Two int64 indices and three int32 cell offsets."""
    return 28


def _broken_offset() -> int:
    """Cell offset of edges whose vector is NaN: radius_shells on a GPU marks a graph it could not hold."""
    return -2147483648


def check_radius_shells_input(
    pos: Tensor, batch: Tensor, box: Optional[Tensor], cutoff: float, num_shells: int, overlap: float
) -> None:
    """Refuses what :func:`radius_shells` cannot answer; each message says what to do.

    Raises:
        ValueError: a shape, dtype, value or setting is outside what the op accepts.
    """
    if pos.dim() != 2 or pos.size(1) != 3:
        raise ValueError(f"radius_shells: pos has shape {list(pos.shape)}, expected (N, 3)")
    if pos.dtype != torch.float32 and pos.dtype != torch.float64:
        raise ValueError("radius_shells: pos must be float32 or float64; convert it with pos.float()")
    if batch.dim() != 1 or batch.size(0) != pos.size(0):
        raise ValueError(
            f"radius_shells: batch has shape {list(batch.shape)}, expected one system index per atom, "
            f"({pos.size(0)},)"
        )
    if batch.dtype != torch.int64:
        raise ValueError("radius_shells: batch must be int64; convert it with batch.long()")
    if not (cutoff > 0.0) or math.isinf(cutoff):
        raise ValueError(
            f"radius_shells: cutoff is {cutoff}, expected a positive finite distance in angstrom"
        )
    if num_shells < 1:
        raise ValueError(f"radius_shells: num_shells is {num_shells}, expected at least 1")
    if not (overlap >= 0.0) or overlap > cutoff / num_shells * (1.0 + 1e-9):
        raise ValueError(
            f"radius_shells: overlap is {overlap}, expected a value between 0 and the shell width "
            f"cutoff/num_shells = {cutoff / num_shells}"
        )
    if not bool((pos.abs() <= 1e16).all()):
        raise ValueError(
            "radius_shells: pos holds NaN or infinite values, or values beyond 1e16 angstrom; check the "
            "structure or the time step"
        )
    if batch.numel() > 0 and (int(batch[0]) < 0 or bool((batch[1:] < batch[:-1]).any())):
        raise ValueError("radius_shells: batch must be non-negative and sorted; order the atoms by system")
    if box is not None:
        check_box("radius_shells", pos, batch, box)


def check_box(name: str, pos: Tensor, batch: Tensor, box: Tensor) -> None:
    """Refuses lattice vectors that an op cannot use.

    Args:
        name: of the op, for the message.
        pos: (N, 3).
        batch: (N,) non-negative and sorted.
        box: what was given.

    Raises:
        ValueError: a shape, dtype or value is outside what the ops accept.
    """
    shape_ok = (box.dim() == 2 or box.dim() == 3) and box.size(-1) == 3 and box.size(-2) == 3
    if not shape_ok:
        raise ValueError(f"{name}: box has shape {list(box.shape)}, expected (3, 3) or (B, 3, 3)")
    if box.dtype != pos.dtype:
        raise ValueError(f"{name}: box and pos have different dtypes; convert one with .to(pos.dtype)")
    if box.dim() == 3 and box.size(0) != 1 and batch.numel() > 0 and box.size(0) <= int(batch[-1]):
        raise ValueError(
            f"{name}: box holds {box.size(0)} boxes but batch names system {int(batch[-1])}; "
            "give one box per system or a single (3, 3) box"
        )
    if not bool(torch.isfinite(box).all()):
        raise ValueError(f"{name}: box holds NaN or infinite values")
    boxes = box.detach().reshape(-1, 3, 3).double()
    volume = torch.linalg.det(boxes).abs()
    edges = torch.sqrt((boxes * boxes).sum(-1)).prod(-1)
    if bool((volume <= 1e-6 * edges).any()):
        raise ValueError(
            f"{name}: box is singular (its rows, the lattice vectors, span no volume); pass box=None "
            "for a system without periodic boundaries"
        )


def _too_many_edges(count: float) -> None:
    raise ValueError(
        f"radius_shells: the cutoff gives about {count} edges, which need about "
        f"{count * _bytes_per_edge() / 1e9} GB; use a smaller cutoff or fewer atoms"
    )


def _periodic_images(cell: Tensor, cutoff: float, num_atoms: int) -> Tensor:
    """Offsets (I, 3) that can bring two atoms of one cell within the cutoff, in lexicographic order."""
    inverse = torch.linalg.inv(cell)
    # Columns of the inverse are the reciprocal vectors; 1/|column| is the distance of opposite faces.
    reach = cutoff * torch.sqrt((inverse * inverse).sum(0))
    volume = float(torch.linalg.det(cell).abs())
    expected = 4.19 * cutoff * cutoff * cutoff / volume * num_atoms * num_atoms
    if expected > 2.0 * _max_edges():
        _too_many_edges(expected)
    ranges: List[Tensor] = []
    for axis in range(3):
        most = math.floor(float(reach[axis]) + 1e-6) + 1
        ranges.append(torch.arange(-most, most + 1, device=cell.device))
    return torch.cartesian_prod(ranges[0], ranges[1], ranges[2])


def _scale_rows(offsets: Tensor, cell: Tensor) -> Tensor:
    """offsets (..., 3) @ cell (3, 3), summed in a fixed order so that -offsets gives exactly the negative."""
    return offsets[..., 0:1] * cell[0] + offsets[..., 1:2] * cell[1] + offsets[..., 2:3] * cell[2]


def _search_one_system(pos: Tensor, cell: Optional[Tensor], cutoff: float) -> Tuple[Tensor, Tensor, Tensor]:
    """All pairs of one system closer than the cutoff: (2, E) indices, (E, 3) offsets, (E,) distances."""
    num_atoms = pos.size(0)
    images = torch.zeros((1, 3), dtype=torch.int64, device=pos.device)
    home = torch.zeros((num_atoms, 3), dtype=torch.int64, device=pos.device)
    if cell is not None:
        images = _periodic_images(cell.double(), cutoff, num_atoms)
        home = torch.floor(torch.matmul(pos.double(), torch.linalg.inv(cell.double()))).long()
    edges: List[Tensor] = []
    offsets: List[Tensor] = []
    distances: List[Tensor] = []
    limit = torch.tensor(cutoff, dtype=pos.dtype, device=pos.device)
    rows = max(1, _block_pairs() // max(1, num_atoms * images.size(0)))
    found = 0
    for start in range(0, num_atoms, rows):
        stop = min(num_atoms, start + rows)
        # (pos[j] - pos[i]) + n @ box is exactly the negative of its reverse: shells stay symmetric.
        vector = (pos.unsqueeze(0) - pos[start:stop].unsqueeze(1)).unsqueeze(2)
        wrap = (home[start:stop].unsqueeze(1) - home.unsqueeze(0)).unsqueeze(2) + images
        if cell is not None:
            vector = vector + _scale_rows(wrap.to(pos.dtype), cell)
        x, y, z = vector[..., 0], vector[..., 1], vector[..., 2]
        distance = torch.sqrt(x * x + y * y + z * z)
        receiver = torch.arange(start, stop, device=pos.device).view(-1, 1, 1)
        sender = torch.arange(num_atoms, device=pos.device).view(1, -1, 1)
        itself = (receiver == sender) & (wrap == 0).all(-1)
        hit = torch.nonzero((distance < limit) & ~itself)
        edges.append(torch.stack([hit[:, 0] + start, hit[:, 1]]))
        offsets.append(wrap[hit[:, 0], hit[:, 1], hit[:, 2]].to(torch.int32))
        distances.append(distance[hit[:, 0], hit[:, 1], hit[:, 2]])
        found += hit.size(0)
        if found > _max_edges():
            _too_many_edges(float(found))
    return torch.cat(edges, 1), torch.cat(offsets), torch.cat(distances)


def radius_shells(
    pos: Tensor,
    batch: Tensor,
    box: Optional[Tensor],
    cutoff: float,
    num_shells: int,
    overlap: float,
    max_neighbors: int,
    max_edges: Optional[int] = None,
) -> Tuple[Tensor, Tensor, Tensor]:
    """Reference of :func:`dkmp_plugin.ops.radius_shells`: brute force over atoms and periodic images."""
    check_radius_shells_input(pos, batch, box, cutoff, num_shells, overlap)
    pos = pos.detach()
    edges: List[Tensor] = [torch.zeros((2, 0), dtype=torch.int64, device=pos.device)]
    offsets: List[Tensor] = [torch.zeros((0, 3), dtype=torch.int32, device=pos.device)]
    distances: List[Tensor] = [torch.zeros((0,), dtype=pos.dtype, device=pos.device)]
    systems, sizes = torch.unique_consecutive(batch, return_counts=True)
    first = 0
    for index in range(systems.size(0)):
        size = int(sizes[index])
        cell: Optional[Tensor] = None
        if box is not None:
            boxes = box.detach().reshape(-1, 3, 3)
            cell = boxes[0] if boxes.size(0) == 1 else boxes[int(systems[index])]
        edge, offset, distance = _search_one_system(pos[first : first + size], cell, cutoff)
        edges.append(edge + first)
        offsets.append(offset)
        distances.append(distance)
        first += size
    edge_index, cell_offsets, edge_distance = torch.cat(edges, 1), torch.cat(offsets), torch.cat(distances)
    if max_neighbors > 0 and edge_index.size(1) > 0:
        most = int(torch.bincount(edge_index[0]).max())
        if most > max_neighbors:
            raise ValueError(
                f"radius_shells: an atom has {most} neighbours within the cutoff of {cutoff}, more than "
                f"max_neighbors = {max_neighbors}; raise max_neighbors to at least {most} or reduce the "
                "cutoff (max_num_neighbors and cutoff_upper of the training's configuration; in a "
                "simulation, the box is too small or atoms are too close)"
            )
    graph = _sort_into_shells(edge_index, cell_offsets, edge_distance, cutoff, num_shells, overlap)
    if max_edges is None:
        return graph
    return _pad(graph[0], graph[1], graph[2], max_edges)


def _pad(
    edge_index: Tensor, cell_offsets: Tensor, ptr: Tensor, max_edges: int
) -> Tuple[Tensor, Tensor, Tensor]:
    found = edge_index.size(1)
    if max_edges < 1:
        raise ValueError(f"radius_shells: max_edges is {max_edges}, expected at least 1")
    if found > max_edges:
        raise ValueError(
            f"radius_shells: found {found} edges, more than max_edges = {max_edges}; raise max_edges or "
            "reduce the cutoff (of a simulated molecule: the periodic box is narrower than twice it)"
        )
    nobody = torch.full((2, max_edges - found), -1, dtype=torch.int64, device=ptr.device)
    nowhere = torch.zeros((max_edges - found, 3), dtype=cell_offsets.dtype, device=ptr.device)
    return torch.cat([edge_index, nobody], 1), torch.cat([cell_offsets, nowhere]), ptr


def in_shell(distance: Tensor, shell: int, cutoff: float, num_shells: int, overlap: float) -> Tensor:
    """Whether distances (E,), all below the cutoff, are in a shell, overlaps included; bool (E,).

    The borders are rounded to the distances' type, as in the native ops.
    """
    inside = torch.ones_like(distance, dtype=torch.bool)
    if shell > 0:
        lower = torch.tensor(cutoff * shell / num_shells - 0.5 * overlap, dtype=distance.dtype)
        inside = inside & (distance >= lower.to(distance.device))
    if shell + 1 < num_shells:
        upper = torch.tensor(cutoff * (shell + 1) / num_shells + 0.5 * overlap, dtype=distance.dtype)
        inside = inside & (distance < upper.to(distance.device))
    return inside


def _sort_into_shells(
    edge_index: Tensor, cell_offsets: Tensor, distance: Tensor, cutoff: float, num_shells: int, overlap: float
) -> Tuple[Tensor, Tensor, Tensor]:
    chosen: List[Tensor] = []
    ends: List[int] = [0]
    total = 0
    for shell in range(num_shells):
        members = torch.nonzero(in_shell(distance, shell, cutoff, num_shells, overlap)).squeeze(1)
        chosen.append(members)
        total += members.size(0)
        ends.append(total)
    order = torch.cat(chosen)
    ptr = torch.tensor(ends, dtype=torch.int64, device=distance.device)
    return edge_index.index_select(1, order), cell_offsets.index_select(0, order), ptr


def edge_vectors(
    pos: Tensor, edge_index: Tensor, cell_offsets: Tensor, box: Optional[Tensor], batch: Tensor
) -> Tensor:
    """Reference of :func:`dkmp_plugin.ops.edge_vectors`."""
    receiver, sender = edge_index[0], edge_index[1]
    vector = pos[sender] - pos[receiver]
    if box is not None:
        steps = cell_offsets.to(pos.dtype)
        if box.dim() == 3 and box.size(0) > 1:
            cell = box[batch[receiver]]
            shift = steps[:, 0:1] * cell[:, 0] + steps[:, 1:2] * cell[:, 1] + steps[:, 2:3] * cell[:, 2]
            vector = vector + shift
        else:
            vector = vector + _scale_rows(steps, box.reshape(3, 3))
    # Edges that pad a graph of fixed size: zero, and no gradient that has to cancel.
    vector = torch.where((receiver >= 0).unsqueeze(1), vector, torch.zeros_like(vector))
    if cell_offsets.dim() == 2 and cell_offsets.size(0) == receiver.size(0):
        broken = (cell_offsets[:, 0] == _broken_offset()).unsqueeze(1)
        vector = torch.where(broken, torch.full_like(vector, float("nan")), vector)
    return vector
