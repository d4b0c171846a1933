"""Lengths of spherical features."""

import torch

from dkmp_plugin.models.spherical import DegreeNorm


def test_normalised_features_have_length_one_and_zero_stays_zero():
    norm = DegreeNorm(16, torch.float64)
    vector = 100.0 * torch.randn(5, 8, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for part in norm(vector).split([3, 5], dim=1):
        assert torch.allclose(part.square().sum(dim=1).mean(dim=1), torch.ones(5, dtype=torch.float64))
    zero = torch.zeros(5, 8, 16, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(norm(zero).sum(), zero)
    assert torch.allclose(slope, torch.full_like(slope, 10.0))
