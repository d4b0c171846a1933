"""Pure-ATen versions of the native ops: the definition the native kernels are tested against.

Everything here is TorchScript-compatible, runs on any device and can be differentiated to any order. The
native kernels are faster and need far less memory; without a compiler these functions take their place.
"""

import math
from typing import List, Optional, Tuple

import torch
from torch import Tensor


def has_kernels(tensor: Tensor) -> bool:
    """Whether native kernels run where a tensor is: the library is not loaded."""
    return False


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
        _check_box(pos, batch, box)


def _check_box(pos: Tensor, batch: Tensor, box: Tensor) -> None:
    shape_ok = (box.dim() == 2 or box.dim() == 3) and box.size(-1) == 3 and box.size(-2) == 3
    if not shape_ok:
        raise ValueError(f"radius_shells: box has shape {list(box.shape)}, expected (3, 3) or (B, 3, 3)")
    if box.dtype != pos.dtype:
        raise ValueError("radius_shells: box and pos have different dtypes; convert one with .to(pos.dtype)")
    if box.dim() == 3 and box.size(0) != 1 and batch.numel() > 0 and box.size(0) <= int(batch[-1]):
        raise ValueError(
            f"radius_shells: box holds {box.size(0)} boxes but batch names system {int(batch[-1])}; "
            "give one box per system or a single (3, 3) box"
        )
    if not bool(torch.isfinite(box).all()):
        raise ValueError("radius_shells: box holds NaN or infinite values")
    boxes = box.detach().reshape(-1, 3, 3).double()
    volume = torch.linalg.det(boxes).abs()
    edges = torch.sqrt((boxes * boxes).sum(-1)).prod(-1)
    if bool((volume <= 1e-6 * edges).any()):
        raise ValueError(
            "radius_shells: box is singular (its rows, the lattice vectors, span no volume); pass box=None "
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


def _smootherstep(distance: Tensor, border: float, overlap: float) -> Tensor:
    """Rises from 0 to 1 over ``overlap`` around ``border``, twice continuously differentiable."""
    if overlap == 0.0:
        return (distance >= border).to(distance.dtype)
    x = ((distance - (border - 0.5 * overlap)) / overlap).clamp(0.0, 1.0)
    return x * x * x * (10.0 - 15.0 * x + 6.0 * x * x)


def shell_window(distance: Tensor, lower: float, upper: float, overlap: float, cutoff: float) -> Tensor:
    """Weight (E,) of a shell at each distance; over all shells the weights add up to the cutoff envelope."""
    x = (distance / cutoff).clamp(max=1.0)
    x6 = x * x * x * x * x * x
    weight = 1.0 - x6 * (28.0 - 48.0 * x + 21.0 * x * x)
    if lower > 0.0:
        weight = weight * _smootherstep(distance, lower, overlap)
    if upper < cutoff:
        weight = weight * (1.0 - _smootherstep(distance, upper, overlap))
    return weight


def spherical_harmonics(unit: Tensor) -> Tensor:
    """Real harmonics of degree 1 (3) and 2 (5) of unit vectors (E, 3), each degree of norm 1: (E, 8)."""
    x, y, z = unit[:, 0], unit[:, 1], unit[:, 2]
    root3 = math.sqrt(3.0)
    return torch.stack(
        [
            x,
            y,
            z,
            root3 * x * z,
            root3 * x * y,
            y * y - 0.5 * (x * x + z * z),
            root3 * y * z,
            0.5 * root3 * (z * z - x * x),
        ],
        dim=1,
    )


def spline_weights(fraction: Tensor, degree: int) -> Tensor:
    """Uniform B-splines (E, degree + 1) that do not vanish at fractions (E,) of an interval, in order."""
    s = fraction
    weights: List[Tensor] = [torch.ones_like(s)]
    for p in range(1, degree + 1):
        # De Boor's recursion, for knots one apart.
        higher: List[Tensor] = []
        for m in range(p + 1):
            weight = torch.zeros_like(s)
            if m > 0:
                weight = weight + (s + float(p - m)) * weights[m - 1]
            if m < p:
                weight = weight + (1.0 + float(m) - s) * weights[m]
            higher.append(weight / float(p))
        weights = higher
    return torch.stack(weights, dim=1)


def _spline(distance: Tensor, table: Tensor, start: float, stop: float, degree: int) -> Tensor:
    """B-spline of coefficients ``table`` (n, F) on n - degree equal intervals of [start, stop]: (E, F)."""
    num_intervals = table.size(0) - degree
    x = (distance - start) / ((stop - start) / num_intervals)
    left = torch.nan_to_num(torch.floor(x.detach()).clamp(0.0, float(num_intervals - 1)))
    weights = spline_weights(x - left, degree)
    first = left.long()
    value = weights[:, 0:1] * table[first]
    for m in range(1, degree + 1):
        value = value + weights[:, m : m + 1] * table[first + m]
    return value


def check_dilated_message_input(
    edge_vector: Tensor,
    edge_index: Tensor,
    ptr: Tensor,
    shell: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    vector: Tensor,
    table: Tensor,
    num_heads: int,
    degree: int,
) -> None:
    """Refuses shapes and dtypes :func:`dilated_message` cannot use.

    Raises:
        ValueError: names the argument, its shape and the expected one.
    """
    num_edges, num_atoms = edge_vector.size(0), value.size(0)
    if edge_vector.dim() != 2 or edge_vector.size(1) != 3:
        raise ValueError(f"dilated_message: edge_vector has shape {list(edge_vector.shape)}, expected (E, 3)")
    if edge_index.dim() != 2 or edge_index.size(0) != 2 or edge_index.size(1) != num_edges:
        raise ValueError(
            f"dilated_message: edge_index has shape {list(edge_index.shape)}, expected (2, {num_edges})"
        )
    if edge_index.dtype != torch.int64 or ptr.dtype != torch.int64:
        raise ValueError("dilated_message: edge_index and ptr must be int64")
    if ptr.dim() != 1 or shell < 0 or shell + 1 >= ptr.size(0):
        raise ValueError(f"dilated_message: shell {shell} is not one of the {ptr.numel() - 1} shells of ptr")
    if value.dim() != 2 or value.size(1) % 3 != 0 or value.size(1) == 0:
        raise ValueError(f"dilated_message: value has shape {list(value.shape)}, expected (N, 3 d)")
    width = value.size(1) // 3
    if num_heads < 1 or width % num_heads != 0:
        raise ValueError(f"dilated_message: width {width} is not a multiple of num_heads = {num_heads}")
    if degree != 3 and degree != 5:
        raise ValueError(f"dilated_message: degree is {degree}, expected 3 or 5")
    if table.dim() != 2 or table.size(1) != 4 * width or table.size(0) <= degree:
        raise ValueError(
            f"dilated_message: table has shape {list(table.shape)}, expected (n >= {degree + 1}, {4 * width})"
        )
    for given in [query, key]:
        if given.numel() > 0 and list(given.shape) != [num_atoms, width]:
            raise ValueError(
                f"dilated_message: query or key has shape {list(given.shape)}, expected "
                f"({num_atoms}, {width}) or an empty tensor for no attention"
            )
    if (query.numel() == 0) != (key.numel() == 0):
        raise ValueError("dilated_message: give both query and key, or leave both empty")
    if vector.numel() > 0 and list(vector.shape) != [num_atoms, 8, width]:
        raise ValueError(
            f"dilated_message: vector has shape {list(vector.shape)}, expected "
            f"({num_atoms}, 8, {width}) or an empty tensor"
        )
    if value.dtype != torch.float32 and value.dtype != torch.float64:
        raise ValueError("dilated_message: tensors must be float32 or float64")
    for given in [edge_vector, query, key, vector, table]:
        if given.dtype != value.dtype:
            raise ValueError("dilated_message: all floating tensors must have the same dtype as value")


def dilated_message(
    edge_vector: Tensor,
    edge_index: Tensor,
    ptr: Tensor,
    shell: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    vector: Tensor,
    table: Tensor,
    num_heads: int,
    lower: float,
    upper: float,
    overlap: float,
    cutoff: float,
    degree: int = 3,
) -> Tuple[Tensor, Tensor]:
    """Reference of :func:`dkmp_plugin.ops.dilated_message`: gathers every edge, then sums per receiver."""
    check_dilated_message_input(
        edge_vector, edge_index, ptr, shell, query, key, value, vector, table, num_heads, degree
    )
    begin, end = int(ptr[shell]), int(ptr[shell + 1])
    num_atoms, width = value.size(0), value.size(1) // 3
    receiver, sender = edge_index[0, begin:end], edge_index[1, begin:end]
    step = edge_vector[begin:end]
    squared = (step * step).sum(1)
    # Coincident atoms have no direction: distance and unit vector are zero with zero gradient.
    apart = squared != 0.0  # NaN is no coincidence: it must not become a distance of zero
    length = torch.sqrt(torch.where(apart, squared, torch.ones_like(squared)))
    distance = torch.where(apart, length, torch.zeros_like(length))
    unit = torch.where(apart.unsqueeze(1), step / length.unsqueeze(1), torch.zeros_like(step))

    weight = shell_window(distance, lower, upper, overlap, cutoff).unsqueeze(1)
    start, stop = max(0.0, lower - 0.5 * overlap), min(cutoff, upper + 0.5 * overlap)
    filters = _spline(distance, table, start, stop, degree)
    f0, f1 = filters[:, :width], filters[:, width : 2 * width]
    f2, f3 = filters[:, 2 * width : 3 * width], filters[:, 3 * width :]
    if query.numel() > 0:
        scores = (query[receiver] * key[sender] * f0).view(-1, num_heads, width // num_heads).sum(2)
        attention = torch.nn.functional.silu(scores).unsqueeze(2).expand(-1, -1, width // num_heads)
        scalar_weight = weight * attention.reshape(-1, width)
    else:
        scalar_weight = weight
    sent = value[sender]
    scalar_message = scalar_weight * sent[:, :width] * f1
    direction = spherical_harmonics(unit).unsqueeze(2)
    vector_message = direction * (weight * sent[:, 2 * width :] * f3).unsqueeze(1)
    if vector.numel() > 0:
        carried = weight * sent[:, width : 2 * width] * f2
        vector_message = vector_message + vector[sender] * carried.unsqueeze(1)
    scalar = torch.zeros((num_atoms, width), dtype=value.dtype, device=value.device)
    output = torch.zeros((num_atoms, 8, width), dtype=value.dtype, device=value.device)
    return scalar.index_add(0, receiver, scalar_message), output.index_add(0, receiver, vector_message)
