"""Spherical features as Cartesian tensors."""

import torch

from dkmp_plugin.models.spherical import DegreeNorm, from_matrices, to_matrices
from dkmp_plugin.ops.reference import spherical_harmonics


def unit_vectors(count):
    pos = torch.randn(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.normalize(pos, dim=1)


def test_harmonics_of_degree_two_are_traceless_outer_products():
    unit = unit_vectors(20)
    matrices = to_matrices(spherical_harmonics(unit)[:, 3:].unsqueeze(2)).squeeze(3)
    outer = unit.unsqueeze(2) * unit.unsqueeze(1) - torch.eye(3, dtype=torch.float64) / 3
    assert torch.allclose(matrices, 1.5**0.5 * outer)


def test_matrices_and_features_are_the_same_thing():
    features = torch.randn(7, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    matrices = to_matrices(features)
    assert torch.allclose(matrices.square().sum(dim=(1, 2)), features.square().sum(dim=1))
    assert torch.allclose(from_matrices(matrices), features)
    antisymmetric = matrices.new_zeros(7, 3, 3, 4)
    antisymmetric[:, 0, 1], antisymmetric[:, 1, 0] = 1.0, -1.0
    trace = torch.eye(3, dtype=torch.float64).view(1, 3, 3, 1)
    assert torch.allclose(from_matrices(matrices + antisymmetric + 2.0 * trace), features)


def test_normalised_features_have_length_one_and_zero_stays_zero():
    norm = DegreeNorm(16, torch.float64)
    vector = 100.0 * torch.randn(5, 8, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for part in norm(vector).split([3, 5], dim=1):
        assert torch.allclose(part.square().sum(dim=1).mean(dim=1), torch.ones(5, dtype=torch.float64))
    zero = torch.zeros(5, 8, 16, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(norm(zero).sum(), zero)
    assert torch.allclose(slope, torch.full_like(slope, 10.0))
