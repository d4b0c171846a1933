"""Centroids and canonical frames: what makes DKMP^R translation- and rotation-equivariant."""

import torch
from torch import Tensor

# Canonical frames that superpose a frame on a reference structure.
SUPERPOSED_FRAMES = ("first", "mean")


def count_systems(batch: Tensor) -> int:
    """Number of systems in a batch of at least one atom; batch is (N,) and non-decreasing."""
    return int(batch[-1]) + 1


def centroids(pos: Tensor, batch: Tensor, num_systems: int) -> Tensor:
    """Unweighted mean position of each system, (B, 3) in Å.

    Args:
        pos: (N, 3) in Å.
        batch: (N,) system of each atom.
        num_systems: B.
    """
    ones = torch.ones(pos.size(0), 1, dtype=pos.dtype, device=pos.device)
    sizes = _system_sums(ones, batch, num_systems)
    return _system_sums(pos, batch, num_systems) / sizes.clamp(min=1)


def _system_sums(values: Tensor, batch: Tensor, num_systems: int) -> Tensor:
    """Sums of the rows (N, ...) of each system, (B, ...)."""
    if num_systems == 1:
        # index_add adds in any order on GPUs: the same structure would give another trajectory every time.
        return values.sum(0, keepdim=True)
    sums = torch.zeros(
        [num_systems] + list(values.shape[1:]),  # noqa: RUF005  (TorchScript)
        dtype=values.dtype,
        device=values.device,
    )
    return sums.index_add(0, batch, values)


def principal_frames(centered: Tensor, batch: Tensor, num_systems: int) -> Tensor:
    """Principal axes of each system, oriented by the third moments along the two longest axes.

    The frame turns with the system (``frames(x R^T) = R frames(x)``), so coordinates in it are invariant to
    rotation. It is undefined where two variances coincide or a third moment vanishes: for one or two atoms,
    linear molecules and symmetric ones, such as water and methane; large flexible molecules have no such
    symmetry. Not differentiated: the frame is an input convention, not a prediction.

    Args:
        centered: (N, 3) positions relative to their system's centroid, in Å.
        batch: (N,) system of each atom.
        num_systems: B.

    Returns:
        (B, 3, 3) rotations whose columns are the axes, shortest first; right-handed.
    """
    precise = centered.detach().double()
    products = precise.unsqueeze(2) * precise.unsqueeze(1)
    axes = torch.linalg.eigh(_system_sums(products, batch, num_systems))[1]
    along = torch.bmm(precise.unsqueeze(1), axes.index_select(0, batch)).squeeze(1)
    moments = _system_sums(along * along * along, batch, num_systems)
    signs = torch.where(moments < 0, -torch.ones_like(moments), torch.ones_like(moments))
    axes = axes * signs.unsqueeze(1)
    shortest = torch.linalg.cross(axes[:, :, 1], axes[:, :, 2], dim=1)
    return torch.stack([shortest, axes[:, :, 1], axes[:, :, 2]], 2).to(centered.dtype)


def superposition_frames(centered: Tensor, reference: Tensor, batch: Tensor, num_systems: int) -> Tensor:
    """Rotations that superpose each system on its reference (Kabsch 1976, doi:10.1107/S0567739476001873).

    Undefined for one or two atoms and linear molecules. Not differentiated, like :func:`principal_frames`.

    Args:
        centered: (N, 3) positions relative to their system's centroid, in Å.
        reference: (N, 3) in Å, relative to its centroid.
        batch: (N,) system of each atom.
        num_systems: B.

    Returns:
        (B, 3, 3) proper rotations R; ``centered @ R`` lies on ``reference``.
    """
    products = centered.detach().double().unsqueeze(2) * reference.detach().double().unsqueeze(1)
    left, _, right = torch.linalg.svd(_system_sums(products, batch, num_systems))
    # A reflection would fit better where the determinant is negative: turn the shortest axis around.
    sign = torch.ones(num_systems, 3, dtype=products.dtype, device=products.device)
    sign[:, 2] = torch.det(torch.bmm(left, right))
    return torch.bmm(left * sign.unsqueeze(1), right).to(centered.dtype)
