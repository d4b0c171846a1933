"""Launches of the neighbour search's and edge_vectors' kernels, as ``csrc/cuda`` makes them, on CPU tensors.

``Launcher(check)`` runs every kernel file with one of :data:`tests.kernels.checks.CHECKS`.
"""

from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Tuple

import torch
from torch import Tensor

from tests.kernels.checks import Run
from tests.kernels.sources import kernel_text

RECORD_WORDS, CELLS_PER_ATOM, THREADS = 36, 8, 128
WARPS = THREADS // 32


def _blocks(items: int, per_block: int = THREADS) -> int:
    return (items + per_block - 1) // per_block


def _starts(counts: Tensor, dtype: torch.dtype) -> Tensor:
    """Where each group begins, and where the last one ends."""
    return torch.cat([torch.zeros(1, dtype=dtype), counts.cumsum(0, dtype=dtype)])


@dataclass
class Grid:
    """Arrays of a cell list; see ``kernels/neighbor_grid.cuh``."""

    arrays: List[Optional[Tensor]]
    num_atoms: int
    status: Tensor


class Launcher:
    """Runs the kernels of all files the same way.

    Args:
        check: makes the function that launches kernels of a text.
        texts: texts that replace kernel files (planted faults).
    """

    def __init__(self, check: Callable[[str], Run], texts: Optional[Dict[str, str]] = None) -> None:
        self._check = check
        self._texts = texts or {}

    def _launch(self, file: str, kernel: str, like: Tensor, blocks: int, args, shared=0, threads=THREADS):
        macros = {"DKMP_SCALAR": "float" if like.dtype == torch.float32 else "double"}
        text = self._texts.get(file, kernel_text(file))
        self._check(text)(kernel, macros, blocks, threads, args, shared)

    def grid(self, pos, batch, box=None, radius=0.0, num_neighbors=0, max_edges=2.0**31) -> Grid:
        n = len(pos)
        first, bounds = torch.full((n,), -7, dtype=torch.int32), torch.zeros(n, 8, dtype=torch.int32)
        status, wrap = torch.zeros(4, dtype=torch.int64), torch.full((n, 3), 99, dtype=torch.int32)
        records, fraction = torch.full((n, RECORD_WORDS), -1e30), torch.full((n, 3), -1e30)
        cells, sorted_atoms = torch.full((n,), -7, dtype=torch.int32), torch.full((n, 4), -1e30)
        counts = torch.zeros(CELLS_PER_ATOM * n, dtype=torch.int32)

        def launch(kernel, *args):
            self._launch("neighbor_grid.cu", kernel, pos, _blocks(n), args)

        launch("grid_bounds", pos, batch, n, first, bounds, status)
        num_boxes = 1 if box is None else box.numel() // 9
        launch(
            "grid_setup",
            *(box, num_boxes, batch, first, bounds, n, radius, num_neighbors, max_edges, records, status),
        )
        launch("grid_count", pos, box, first, records, n, fraction, wrap, cells, counts)
        start = _starts(counts, torch.int32)
        launch("grid_fill", first, records, fraction, cells, start, n, counts, sorted_atoms)
        assert not counts.any()
        arrays = [pos, box, first, records, fraction, wrap, start, sorted_atoms]
        return Grid(arrays, n, status)

    def radius_shells(
        self, pos, batch, box, cutoff, num_shells, overlap, max_neighbors=0, max_edges=None
    ) -> Tuple[Tensor, Tensor, Tensor]:
        grid = self.grid(pos, batch, box, cutoff, 0, 2.0**31 if max_edges is None else float(max_edges))
        borders = torch.full((2, num_shells), -1.0, dtype=pos.dtype)
        n, counts = grid.num_atoms, torch.zeros(num_shells, len(pos), dtype=torch.int32)
        capacity = -1 if max_edges is None else max_edges

        def launch(kernel, items, *args, shared=0):
            self._launch("radius_shells.cu", kernel, pos, _blocks(items), args, shared)

        launch("shell_borders", num_shells, cutoff, num_shells, overlap, borders)
        search = (*grid.arrays, n, cutoff, num_shells / cutoff, num_shells, borders)
        in_shared = 4 * WARPS * num_shells if num_shells <= 128 else 0
        launch("radius_shells_count", 32 * n, *search, counts, grid.status, shared=in_shared)
        ends = counts.flatten().cumsum(0)
        ptr = torch.full((num_shells + 1,), -1, dtype=torch.int64)
        launch(
            "radius_shells_ptr",
            num_shells + 1,
            ends,
            n,
            num_shells,
            capacity,
            max_neighbors,
            grid.status,
            ptr,
        )
        size = int(grid.status[1]) if max_edges is None else max_edges
        senders, packed = torch.full((size,), -9, dtype=torch.int32), torch.full((size,), -9)
        edge_index = torch.full((2, size), -9)
        offsets = torch.full((size if box is not None else 1, 3), -9, dtype=torch.int32)
        images = None if box is None else packed
        launch("radius_shells_write", 32 * n, *search, ends, counts, grid.status, size, senders, images)
        launch(
            "radius_shells_sort",
            *(32 * n * num_shells, senders, images, ends, n, num_shells, size, edge_index),
            None if box is None else offsets,
        )
        if max_edges is not None:
            launch(
                "radius_shells_pad",
                *(size, ptr, grid.status, num_shells, size, max_neighbors, len(offsets), edge_index, offsets),
            )
        elif box is None:
            offsets.zero_()
        return edge_index, offsets.expand(size, 3), ptr

    def distance_ranks(self, pos, num_neighbors, batch, box=None, capacity=64) -> Tensor:
        grid = self.grid(pos, batch, box, 0.0, num_neighbors, 0.0)
        ranks = torch.full((len(pos), num_neighbors), -9)
        shared = WARPS * (capacity * pos.element_size() + (capacity + 2) // 2 * 8)
        self._launch(
            "distance_ranks.cu",
            "distance_ranks",
            pos,
            _blocks(32 * len(pos)),
            (*grid.arrays, grid.num_atoms, num_neighbors, capacity, grid.status, ranks),
            shared,
        )
        return ranks

    def edge_vectors(self, pos, edge_index, offsets, box, batch) -> Tensor:
        size = edge_index.shape[1]
        vector = torch.full((size, 3), -9, dtype=pos.dtype)
        num_boxes = 0 if box is None else box.numel() // 9
        rows = offsets.contiguous()
        args = (pos, edge_index, rows, box, batch, len(pos), num_boxes, 3, size, vector)
        self._launch("edge_vectors.cu", "edge_vectors_forward", pos, _blocks(size), args)
        return vector

    def edge_vectors_backward(self, grad, edge_index, offsets, batch, num_boxes) -> Tuple[Tensor, Tensor]:
        """Gradients of the positions (N, 3) and of the boxes (num_boxes, 9); no boxes, no second result."""
        n, size = len(batch), edge_index.shape[1]
        counts, entries = torch.zeros(n, dtype=torch.int32), torch.full((2 * size,), -9, dtype=torch.int32)
        flat = edge_index.flatten()
        count = (flat, 2 * size, n, counts)
        self._launch("edge_groups.cu", "edge_groups_count", grad, _blocks(2 * size), count)
        start = _starts(counts, torch.int64)
        fill = (flat, 2 * size, n, start, counts, entries)
        self._launch("edge_groups.cu", "edge_groups_fill", grad, _blocks(2 * size), fill)
        assert not counts.any()
        by_pos = torch.full((n, 3), -9, dtype=grad.dtype)
        terms = torch.full((n, 9), -9, dtype=grad.dtype) if num_boxes else None
        images = offsets.contiguous() if num_boxes else None
        transposed = (grad, images, start, entries, n, size, by_pos, terms)
        self._launch("edge_vectors.cu", "edge_vectors_transposed", grad, _blocks(32 * n), transposed)
        by_box = torch.full((num_boxes, 9), -9, dtype=grad.dtype)
        if num_boxes:
            self._launch(
                "edge_vectors.cu",
                "edge_vectors_box_gradient",
                *(grad, 9 * num_boxes, (terms, batch, n, int(num_boxes == 1), by_box)),
                shared=256 * grad.element_size(),
                threads=256,
            )
        return by_pos, by_box
