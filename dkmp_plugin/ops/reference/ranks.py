"""Nearest neighbours in order of distance, in pure ATen: what native searches are tested against."""

from typing import Optional

import torch
from torch import Tensor

from dkmp_plugin.ops.reference.graph import check_box


# TorchScript cannot read module constants, so limits are functions.
def _block_pairs() -> int:
    """Pairs of atoms held at once while searching: bounds the memory of the search."""
    return 4194304


def reduced_lattice(box: Tensor) -> Tensor:
    """Short vectors of the same lattice (Minkowski-reduced).

    Whatever lattice vectors a box is given by, these make :func:`minimum_image` exact.

    Args:
        box: (3, 3) lattice vectors as rows, in Å.

    Returns:
        (3, 3) in Å.
    """
    signs = torch.tensor([[1, 1, 1], [1, 1, -1], [1, -1, 1], [1, -1, -1]], dtype=box.dtype, device=box.device)
    lattice = box
    for _ in range(100):  # lengths fall with every round: a few are enough
        before = lattice
        rows = [lattice[0], lattice[1], lattice[2]]
        for a in range(3):
            for b in range(3):
                if a != b:
                    along = (rows[a] * rows[b]).sum() / (rows[b] * rows[b]).sum()
                    # At exactly a half it does not get shorter: rounding must not turn it to and fro.
                    rows[a] = rows[a] - torch.round(along * (1.0 - 1e-5)) * rows[b]
        lattice = torch.stack(rows)
        squared = (lattice * lattice).sum(1)
        sums = signs @ lattice
        shortest, which = (sums * sums).sum(1).min(0)
        longest = (torch.arange(3, device=box.device) == squared.argmax()) & (
            shortest < squared * (1.0 - 1e-5)
        )
        lattice = torch.where(longest.unsqueeze(1), sums.index_select(0, which.view(1)), lattice)
        if bool((lattice == before).all()):
            break
    return lattice


def minimum_image(vector: Tensor, box: Tensor) -> Tensor:
    """The shortest periodic image of each vector.

    Args:
        vector: (..., 3) in Å.
        box: (3, 3) lattice vectors as rows, in Å: short ones (:func:`reduced_lattice`), or those of OpenMM's
            reduced form (any rectangular box included).

    Returns:
        (..., 3) in Å.
    """
    # Whole lattice vectors are taken off: on a crystal's sites, where distances are equal, that is exact.
    wrapped = vector - torch.round(vector @ torch.linalg.inv(box)) @ box
    best = wrapped
    best_squared = (wrapped * wrapped).sum(-1, keepdim=True)
    for a in range(-1, 2):
        for b in range(-1, 2):
            for c in range(-1, 2):
                image = wrapped + (a * box[0] + b * box[1] + c * box[2])
                squared = (image * image).sum(-1, keepdim=True)
                closer = squared < best_squared
                best = torch.where(closer, image, best)
                best_squared = torch.where(closer, squared, best_squared)
    return best


def _ranks_of_rows(pos: Tensor, start: int, stop: int, count: int, box: Optional[Tensor]) -> Tensor:
    """Ranks of the atoms start:stop of one system of more than ``count`` atoms: (stop - start, count)."""
    if box is not None:
        vector = minimum_image(pos[start:stop].unsqueeze(1) - pos.unsqueeze(0), box)
        squared = (vector * vector).sum(2)
    else:
        squared = torch.zeros(stop - start, pos.size(0), dtype=pos.dtype, device=pos.device)
        for axis in range(3):
            difference = pos[start:stop, axis].unsqueeze(1) - pos[:, axis].unsqueeze(0)
            squared = squared + difference * difference
    rows = torch.arange(stop - start, device=pos.device)
    squared[rows, rows + start] = float("inf")
    nearest, chosen = squared.topk(count, dim=1, largest=False, sorted=True)
    limit = nearest[:, -1:]
    # topk does not say which of several atoms at the same distance it keeps: choose those again.
    if bool(((squared <= limit).sum(1) > count).any()):
        index = torch.arange(pos.size(0), device=pos.device).unsqueeze(0)
        preference = torch.where(squared == limit, index, torch.full_like(index, 2 * pos.size(0)))
        preference = torch.where(squared < limit, index - pos.size(0), preference)
        chosen = preference.topk(count, dim=1, largest=False)[1]
    chosen = torch.sort(chosen, dim=1)[0]
    order = torch.sort(squared.gather(1, chosen), dim=1, stable=True)[1]
    return chosen.gather(1, order)


def distance_ranks(
    pos: Tensor, num_neighbors: int, batch: Optional[Tensor] = None, box: Optional[Tensor] = None
) -> Tensor:
    """The nearest neighbours of each atom in ascending distance (paper eq. 4).

    Ties go to the lower index; an atom is not its own neighbour. Layer l (0-based) of L uses the columns
    ``[l K, (l + 1) K)`` with ``K = num_neighbors // L``. Quadratic time, bounded memory.

    Args:
        pos: (N, 3) positions in Å, float32 or float64.
        num_neighbors: number of columns M.
        batch: (N,) int64 system of each atom, non-decreasing; None for one system.
        box: (3, 3) or (B, 3, 3) lattice vectors as rows in Å; distances are then those of the nearest
            periodic image. None for open boundaries.

    Returns:
        (N, M) int64 atom indices, -1 where the system has fewer atoms.

    Raises:
        ValueError: bad shapes or dtypes, unsorted batch, a singular box, or positions that are not finite.
    """
    if pos.dim() != 2 or pos.size(1) != 3:
        raise ValueError(f"distance_ranks: pos has shape {list(pos.shape)}, expected (N, 3)")
    if pos.dtype != torch.float32 and pos.dtype != torch.float64:
        raise ValueError("distance_ranks: pos must be float32 or float64; convert it with pos.float()")
    if num_neighbors < 1:
        raise ValueError(f"distance_ranks: num_neighbors is {num_neighbors}, expected at least 1")
    if not bool((pos.abs() <= 1e16).all()):
        raise ValueError(
            "distance_ranks: pos holds NaN or infinite values, or values beyond 1e16 angstrom; check the "
            "structure or the time step"
        )
    num_atoms = pos.size(0)
    ranks = torch.full((num_atoms, num_neighbors), -1, dtype=torch.int64, device=pos.device)
    if num_atoms == 0:
        return ranks
    if batch is None:
        batch = torch.zeros(num_atoms, dtype=torch.int64, device=pos.device)
    if batch.dim() != 1 or batch.size(0) != num_atoms or bool((batch[1:] < batch[:-1]).any()):
        raise ValueError("distance_ranks: batch must hold one non-decreasing system index per atom")
    if batch.dtype != torch.int64 or int(batch[0]) < 0:
        raise ValueError("distance_ranks: batch must be int64 and non-negative; convert it with batch.long()")
    if box is not None:
        check_box("distance_ranks", pos, batch, box.to(pos.dtype))
    systems, sizes = torch.unique_consecutive(batch, return_counts=True)
    first = 0
    for k in range(systems.size(0)):
        size = int(sizes[k])
        system_box: Optional[Tensor] = None
        if box is not None:
            system_box = box.to(pos.dtype)
            if box.dim() == 3:
                system_box = system_box[int(systems[k]) if box.size(0) > 1 else 0]
            system_box = reduced_lattice(system_box)
        count = min(num_neighbors, size - 1)
        block = max(1, _block_pairs() // size)
        system_pos = pos[first : first + size]
        if count > 0:
            for start in range(0, size, block):
                stop = min(start + block, size)
                found = _ranks_of_rows(system_pos, start, stop, count, system_box)
                ranks[first + start : first + stop, :count] = found + first
        first += size
    return ranks
