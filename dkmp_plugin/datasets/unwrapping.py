"""Molecules of a periodic trajectory, followed across the borders of the box."""

from itertools import product
from typing import Any, Iterable, Optional, Sequence

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

# Of the largest molecule: what has fewer is solvent, which gathers around nothing.
_LEAST_ATOMS = 5
# In Å: an image is only left for one that is nearer by more than rounding.
_NEARER = 1e-2


def bonds_of(topology: Any) -> np.ndarray:
    """Bonded atoms (b, 2) int64 of an mdtraj topology."""
    pairs = [(first.index, second.index) for first, second in topology.bonds]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def molecules_of(bonds: np.ndarray, num_atoms: int) -> np.ndarray:
    """Number (N,) of the molecule of each atom: what bonds connect, or an atom alone.

    Args:
        bonds: (b, 2) indices of bonded atoms.
        num_atoms: N.
    """
    graph = coo_matrix((np.ones(len(bonds)), (bonds[:, 0], bonds[:, 1])), shape=(num_atoms, num_atoms))
    return connected_components(graph, directed=False)[1]


def molecules_and_residues(
    bonds: np.ndarray, residues: Iterable[Sequence[int]], num_atoms: int
) -> np.ndarray:
    """Number (N,) of what each atom stays together with: what bonds or residues connect.

    Formats without bonds, such as PDB of ligands and lipids, still tell the residues.

    Args:
        bonds: (b, 2) indices of bonded atoms.
        residues: Indices of every residue's atoms.
        num_atoms: N.
    """
    pairs = [(atoms[0], atom) for atoms in residues for atom in atoms[1:]]
    return molecules_of(np.concatenate([bonds, np.array(pairs, dtype=np.int64).reshape(-1, 2)]), num_atoms)


class _Centers:
    """Centroids (M, 3) of molecules, whose numbers (N,) may be any."""

    def __init__(self, molecules: np.ndarray) -> None:
        _, self.labels, counts = np.unique(molecules, return_inverse=True, return_counts=True)
        self._order = np.argsort(self.labels, kind="stable")
        self._starts = np.cumsum(counts) - counts
        self._counts = counts[:, None]

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        sums = np.add.reduceat(frame[self._order].astype(np.float64), self._starts, axis=0)
        return sums / self._counts


def _image_shifts(before: np.ndarray, after: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Lattice vectors (M, 3) that bring centroids to the image nearest where they were before."""
    box = box.astype(np.float64)
    return -np.rint((after - before) @ np.linalg.inv(box)) @ box


def step_lengths(positions: np.ndarray, boxes: np.ndarray, molecules: np.ndarray) -> np.ndarray:
    """Root mean square displacement (T - 1,) in Å from each frame to the next, across the box's borders.

    Args:
        positions: (T, n, 3) in Å, molecules whole.
        boxes: (T, 3, 3) box vectors as rows in Å.
        molecules: (n,) number of each atom's molecule.
    """
    centers_of = _Centers(molecules)
    before, lengths = centers_of(positions[0]), np.zeros(len(positions) - 1)
    for index in range(1, len(positions)):
        centers = centers_of(positions[index])
        shifts = _image_shifts(before, centers, boxes[index])
        moved = positions[index] - positions[index - 1] + shifts[centers_of.labels]
        lengths[index - 1] = np.sqrt(np.square(moved).mean())
        before = centers
    return lengths


def gather(
    frame: np.ndarray, box: np.ndarray, molecules: np.ndarray, together: Optional[np.ndarray] = None
) -> None:
    """Brings every molecule, in place, to the periodic image nearest to the largest one.

    What makes molecules whole leaves each in an image of its own: a ligand may lie a box away from its
    protein, and in the next run beside it. Without a box it would have no neighbours there.

    Args:
        frame: (n, 3) in Å, molecules whole; the largest stays.
        box: (3, 3) box vectors as rows in Å.
        molecules: (n,) number of each atom's molecule, by bonds; where none is large, nothing moves.
        together: (n,) numbers of what stays together, molecules and perhaps more; None for these alone.
    """
    if np.unique(molecules, return_counts=True)[1].max() < _LEAST_ATOMS:
        return
    centers_of = _Centers(molecules if together is None else together)
    sizes = np.bincount(centers_of.labels)
    largest = int(sizes.argmax())
    surface, centers = cKDTree(frame[centers_of.labels == largest]), centers_of(frame)
    shifts = _image_shifts(centers[largest], centers, box)
    images = shifts[:, None] + np.array(list(product((-1, 0, 1), repeat=3))) @ box.astype(np.float64)
    distances = surface.query(centers[:, None] + images)[0]
    nearest = distances.argmin(axis=1)
    shifts = images[np.arange(len(nearest)), nearest]
    shifts[distances.min(axis=1) > surface.query(centers)[0] - _NEARER] = 0
    shifts[largest] = 0
    frame += shifts[centers_of.labels].astype(frame.dtype)


def unwrap(positions: np.ndarray, boxes: np.ndarray, molecules: np.ndarray) -> None:
    """Brings every molecule, in place, to the periodic image nearest to where it was in the frame before.

    Differences of frames are then displacements, not hops to the other side of the box. In boxes of any shape
    this is exact for molecules that move by less than half of the box's smallest width between frames. All
    stay on the lattice: where the box fluctuates, a molecule n boxes from its start moves with n times that.

    Args:
        positions: (T, n, 3) in Å, molecules whole; the first frame stays.
        boxes: (T, 3, 3) box vectors as rows in Å.
        molecules: (n,) number of each atom's molecule.
    """
    centers_of = _Centers(molecules)
    before = centers_of(positions[0])
    for index in range(1, len(positions)):
        centers = centers_of(positions[index])
        shifts = _image_shifts(before, centers, boxes[index])
        if shifts.any():
            positions[index] += shifts[centers_of.labels].astype(positions.dtype)
        before = centers + shifts
