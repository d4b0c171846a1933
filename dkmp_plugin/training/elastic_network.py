"""An elastic network for any structure: which displacements are stiff and which soft, told by distances.

All atoms within a cutoff are joined by springs whose constants fall with the sixth power of the distance
(Hinsen et al. 2000, doi:10.1016/S0301-0104(00)00222-6): bonds are thousands of times stiffer than contacts,
angles tens of times. Nothing has to be known of bonds, elements or force constants.
"""

from typing import List, Optional

import torch
from torch import Tensor

from dkmp_plugin.graph import radius_shells

# In Å: springs beyond are softer than the softest that counts.
_CUTOFF = 8.0
_EXPONENT = 6
# Atoms closer than this, in Å, are as far apart for a spring; none are in any molecule.
_CLOSEST = 0.5
# Every atom is held at its place by a spring of this constant, that of a contact of 4.6 Å; the unit is the
# constant of a spring of 1 Å.
_HOLD = 1e-4


def elastic_lengths(values: Tensor, pos: Tensor, batch: Tensor, box: Optional[Tensor] = None) -> Tensor:
    """Lengths of vectors v in the metric of a structure's compliance C: sqrt(v C v / trace C).

    C is the inverse of the elastic network's Hessian. When the structure vibrates, its displacements have
    the covariance kT C. So if v are the errors of forces, sqrt(kT v C v) is how much the error of the
    energy varies meanwhile: errors along soft displacements, which are large, count more than those along
    bonds. Along rigid displacements, which change no energy, they count as little as along bonds. Random
    vectors whose components have unit variance have length one on average.

    Takes O(N^3) time and O(N^2) memory for a system of N atoms: 5 ms and 4 MB for 166.

    Args:
        values: One row per atom, shape (N, 3).
        pos: Positions in Å, shape (N, 3).
        batch: System of each atom, shape (N,), non-decreasing.
        box: Box vectors as rows in Å, shape (3, 3) or (B, 3, 3), or None.

    Returns:
        Shape (B,), in the unit of ``values``; differentiable with respect to ``values``.
    """
    lengths = []
    counts: List[int] = torch.bincount(batch).tolist()
    hessians = _hessians(pos.detach().double(), batch, box, counts)
    for vectors, hessian in zip(values.split(counts), hessians, strict=True):
        factor = torch.linalg.cholesky(hessian)
        compliance_trace = torch.cholesky_inverse(factor).diagonal().sum()
        column = vectors.double().reshape(-1, 1)
        # |L^-1 v| is the root of v C v, and unlike it differentiable where v is zero.
        length = torch.linalg.vector_norm(torch.linalg.solve_triangular(factor, column, upper=False))
        lengths.append(length / compliance_trace.sqrt())
    return torch.stack(lengths).to(values.dtype)


def _hessians(pos: Tensor, batch: Tensor, box: Optional[Tensor], counts: List[int]) -> List[Tensor]:
    """(3N, 3N) of each system, rigid displacements as stiff as bonds."""
    graph = radius_shells(pos, _CUTOFF, 1, batch, box)
    receivers, senders = graph.edge_index
    # Atoms in one place have no direction, and must not make the matrix singular.
    distance = graph.distance.clamp(min=_CLOSEST)
    directions = (pos[senders] + graph.shift - pos[receivers]) / distance.unsqueeze(1)
    springs = distance.pow(-_EXPONENT).view(-1, 1, 1) * directions.unsqueeze(2) * directions.unsqueeze(1)
    # With one shell edges are in the order of their receivers, so those of a system follow each other.
    edges: List[int] = torch.bincount(batch[receivers], minlength=len(counts)).tolist()
    parts = zip(
        pos.split(counts), receivers.split(edges), senders.split(edges), springs.split(edges), strict=True
    )
    hessians, first_atom = [], 0
    for atoms, i, j, blocks in parts:
        count = len(atoms)
        i, j = i - first_atom, j - first_atom
        hessian = pos.new_zeros(count, count, 3, 3)
        hessian.index_put_((i, i), blocks, accumulate=True)
        hessian.index_put_((i, j), -blocks, accumulate=True)
        rigid = _rigid_displacements(atoms, periodic=box is not None)
        matrix = hessian.transpose(1, 2).reshape(3 * count, 3 * count) + rigid @ rigid.T
        matrix.diagonal().add_(_HOLD)
        hessians.append(matrix)
        first_atom += count
    return hessians


def _rigid_displacements(pos: Tensor, periodic: bool) -> Tensor:
    """Translations and, without a box, rotations: (3N, 3 or 6), orthogonal columns of length one or zero."""
    unit = torch.eye(3, dtype=pos.dtype, device=pos.device)
    translations = unit.repeat(len(pos), 1) / len(pos) ** 0.5
    if periodic:
        return translations
    centred = pos - pos.mean(0)
    axes = torch.linalg.eigh(centred.T @ centred).eigenvectors
    rotations = torch.stack([torch.linalg.cross(axis.expand_as(centred), centred) for axis in axes.T], 2)
    lengths = torch.linalg.vector_norm(rotations, dim=(0, 1))
    rotations = rotations / torch.where(lengths > 1e-6, lengths, torch.inf)
    return torch.cat([translations, rotations.reshape(-1, 3)], 1)
