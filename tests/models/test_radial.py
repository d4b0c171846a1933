"""The radial filters: splines of a radial basis."""

import pytest
import torch
from torchmdnet.models.model import create_model

from dkmp_plugin.models.radial import RadialBasis, RadialFilters, bspline_basis
from tests.conftest import hyper_parameters


@pytest.mark.parametrize("degree", [3, 5])
def test_splines_sum_to_one_inside_the_interval(degree):
    r = torch.linspace(1.5, 4.5, 301, dtype=torch.float64)
    basis = bspline_basis(r, 1.5, 4.5, 20, degree)
    assert basis.shape == (301, 20)
    assert torch.allclose(basis.sum(1), torch.ones_like(r))
    assert ((basis > 0).sum(1) <= degree + 1).all()


@pytest.mark.parametrize("degree", [3, 5])
def test_all_derivatives_but_the_last_are_continuous_at_knots(degree):
    r = torch.tensor([2.0 - 1e-9, 2.0 + 1e-9], dtype=torch.float64, requires_grad=True)
    derivative = bspline_basis(r, 0.0, 6.0, 6 + degree, degree)[:, 3]
    for order in range(degree + 1):
        before, after = derivative.tolist()
        assert (abs(before - after) > 0.5) == (order == degree)
        if order < degree:
            (derivative,) = torch.autograd.grad(derivative.sum(), r, create_graph=True)


@pytest.mark.parametrize(("amplified", "degree"), [(False, 3), (True, 3), (True, 5)])
@pytest.mark.parametrize("rbf_type", ["expnorm", "gauss"])
def test_spline_reproduces_the_radial_basis(rbf_type, amplified, degree):
    filters = RadialFilters(6, rbf_type, 16, 1.5, 4.5, 12.0, False, amplified, degree, torch.float64)
    r = torch.linspace(1.5, 4.5, 997, dtype=torch.float64)
    table = filters()
    spline = bspline_basis(r, 1.5, 4.5, table.shape[0], degree) @ table
    exact = filters.gain * filters.linear(filters.basis(r))
    assert (spline - exact).abs().max() < 5e-3 * exact.abs().max()


def test_unknown_basis_is_refused():
    with pytest.raises(ValueError, match="rbf_type"):
        RadialBasis("fourier", 8, 0.0, 2.0, 12.0, False, torch.float32)


def test_trainable_basis_gets_gradients():
    filters = RadialFilters(4, "expnorm", 8, 0.0, 2.0, 12.0, True, True, 5, torch.float64)
    (filters() ** 2).sum().backward()
    assert filters.basis.centres.grad.abs().max() > 0
    assert filters.basis.widths.grad.abs().max() > 0


@pytest.mark.parametrize("rbf_type", ["expnorm", "gauss"])
@pytest.mark.parametrize(("lower", "upper"), [(0.0, 4.5), (3.5, 8.0)])
def test_amplified_filters_start_as_others_and_move_in_larger_steps(rbf_type, lower, upper):
    def build(amplified):
        torch.manual_seed(0)
        return RadialFilters(2000, rbf_type, 32, lower, upper, 8.0, False, amplified, 5, torch.float64)

    plain, amplified = build(False), build(True)
    assert torch.allclose(plain(), amplified())
    # Weights of Xavier's size, which a step of Adam is made for, would give filters of variance one.
    with torch.no_grad():
        amplified.linear.weight *= amplified.gain
    r = torch.linspace(lower, upper, 500, dtype=torch.float64)
    values = amplified.gain * amplified.linear(amplified.basis(r))
    variance = (values.square().mean(1) * r**2).sum() / (r**2).sum()
    assert variance.item() == pytest.approx(1.0, rel=0.1)


def test_fresh_layers_keep_the_filters_small():
    """A layer's own initialisation once replaced that of its filters."""
    model = create_model(hyper_parameters())
    for filters in (m for m in model.modules() if isinstance(m, RadialFilters)):
        bound = (6.0 / sum(filters.linear.weight.shape)) ** 0.5 / filters.gain
        assert 0.9 * bound < filters.linear.weight.abs().max() <= bound
