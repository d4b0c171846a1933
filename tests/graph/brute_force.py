"""Neighbours by trying every pair and every periodic image, in NumPy and float64."""

import itertools
from typing import Dict, List, Optional, Set, Tuple

import numpy as np

Edge = Tuple[int, int, int, int, int]  # receiver, sender, cell offset


def all_edges(
    pos: np.ndarray, cutoff: float, batch: np.ndarray, boxes: Optional[np.ndarray]
) -> Dict[Edge, float]:
    """Distance of every edge shorter than the cutoff; ``boxes`` is (B, 3, 3) or None."""
    edges: Dict[Edge, float] = {}
    for i, j in itertools.product(range(len(pos)), repeat=2):
        if batch[i] != batch[j]:
            continue
        delta = pos[j] - pos[i]
        for image in _images(delta, cutoff, None if boxes is None else boxes[batch[i]]):
            if i == j and image == (0, 0, 0):
                continue
            shift = np.zeros(3) if boxes is None else np.array(image) @ boxes[batch[i]]
            distance = float(np.linalg.norm(delta + shift))
            if distance < cutoff:
                edges[(i, j, *image)] = distance
    return edges


def _images(delta: np.ndarray, cutoff: float, box: Optional[np.ndarray]) -> List[Tuple[int, int, int]]:
    if box is None:
        return [(0, 0, 0)]
    fraction = np.linalg.solve(box.T, delta)
    # |r| >= |fraction_k| * (distance of opposite faces k)
    reach = cutoff * np.linalg.norm(np.linalg.inv(box), axis=0) + 1
    ranges = [
        range(int(np.floor(-f - m)), int(np.ceil(-f + m)) + 1) for f, m in zip(fraction, reach, strict=True)
    ]
    return list(itertools.product(*ranges))


def edges_of_shell(shells, shell: int, offsets: np.ndarray) -> Set[Edge]:
    """Edges of one shell of ``(edge_index, ptr)`` as a set; checks that none is listed twice."""
    edge_index, ptr = shells
    part = slice(int(ptr[shell]), int(ptr[shell + 1]))
    rows = np.concatenate([edge_index[:, part].T, offsets[part]], axis=1)
    found = {tuple(int(v) for v in row) for row in rows}
    assert len(found) == len(rows)
    return found
