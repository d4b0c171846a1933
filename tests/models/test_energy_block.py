"""The energy head of revision 6."""

import torch

from dkmp_plugin.models.energy_block import EnergyBlock


def block():
    torch.manual_seed(0)
    return EnergyBlock(8, "silu", stretch=6.0, softening=3.0, dtype=torch.float64)


def features(num_atoms=5):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(num_atoms, 8, generator=generator, dtype=torch.float64)
    return x, torch.randn(num_atoms, 8, 8, generator=generator, dtype=torch.float64)


def test_depends_on_the_lengths_of_vectors_alone():
    x, v = features()
    rotation, _ = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))
    energies, _ = block()(x, v)
    turned, _ = block()(x, torch.einsum("mn,inc->imc", rotation, v))
    assert energies.shape == (5, 1)
    torch.testing.assert_close(turned, energies)
    assert (block()(x, 1.1 * v)[0] - energies).abs().max() > 1e-4


def test_is_smooth_where_vectors_vanish():
    x, v = features()

    def energy_along(t):
        return block()(x, t * v)[0].sum()

    zero = torch.zeros((), dtype=torch.float64)
    gradient = torch.autograd.functional.jacobian(energy_along, zero)
    curvature = torch.autograd.functional.hessian(energy_along, zero)
    assert gradient == 0.0
    assert torch.isfinite(curvature) and curvature != 0.0


def test_fresh_energies_are_small():
    """Sums over many atoms: they would start far above any label."""
    x, v = features(1000)
    energies, _ = block()(x, v)
    assert energies.std() < 0.2
