"""Lengths of spherical features."""

import torch

from dkmp_plugin.models.spherical import DegreeNorm


def features(length):
    return length * torch.randn(5, 8, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def test_long_features_become_of_length_one():
    norm = DegreeNorm(16, 1.0, torch.float64)
    first, second, _ = norm.apart(features(1e4))
    for part in (first, second):
        assert torch.allclose(part.square().sum(dim=1).mean(dim=1), torch.ones(5, dtype=torch.float64))


def test_short_features_keep_their_length_over_the_root_of_the_offset():
    vector = features(1e-6)
    normalised, handed_on = DegreeNorm(16, 0.01, torch.float64)(vector)
    assert torch.allclose(normalised, 10.0 * vector, atol=0.0)
    assert torch.equal(handed_on, vector)
    first, second, handed_on = DegreeNorm(16, 1.0, torch.float64).apart(vector)
    assert torch.allclose(torch.cat([first, second], dim=1), vector, atol=0.0)
    assert torch.equal(handed_on, vector)
