"""The gated block computes what torchmd-net's block computes, without its data-dependent steps."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torchmdnet.models.utils import GatedEquivariantBlock

from dkmp_plugin.models.gated_block import GatedBlock, norm_of_components


def make_blocks(scalar_activation: bool = True):
    torch.manual_seed(0)
    theirs = GatedEquivariantBlock(16, 8, scalar_activation=scalar_activation, dtype=torch.float64)
    return theirs, GatedBlock(copy.deepcopy(theirs))


@pytest.mark.parametrize("scalar_activation", [True, False])
def test_equals_torchmd_nets_block(scalar_activation):
    theirs, ours = make_blocks(scalar_activation)
    x, v = torch.randn(5, 16, dtype=torch.float64), torch.randn(5, 8, 16, dtype=torch.float64)
    for given, expected in zip(ours(x, v), theirs(x, v), strict=True):
        torch.testing.assert_close(given, expected, rtol=1e-12, atol=1e-12)
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_atoms_without_neighbours_have_finite_gradients_of_both_orders():
    _, ours = make_blocks()
    x, v = torch.randn(3, 16, dtype=torch.float64), torch.randn(3, 8, 16, dtype=torch.float64)
    v[1] = 0.0
    v.requires_grad_(True)
    (gradient,) = torch.autograd.grad(ours(x, v)[0].sum(), v, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), v)
    assert torch.isfinite(gradient).all() and torch.isfinite(second).all()
    assert (gradient[1] == 0).all()


def test_the_norm_is_twice_differentiable():
    v = torch.randn(3, 8, 2, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(norm_of_components, (v,))
    torch.autograd.gradgradcheck(norm_of_components, (v,))


@pytest.mark.parametrize("softening", [0.0, 2.0])
def test_what_is_no_number_has_no_length(softening):
    v = torch.tensor([[[float("nan")]], [[float("inf")]], [[0.0]]])
    lengths = norm_of_components(v, softening).flatten()
    assert lengths[0].isnan() and lengths[1].isinf() and lengths[2] == 0.0


def test_a_softened_norm_has_no_cusp():
    v = torch.tensor(
        [[[-1e-3], [0.0]], [[0.0], [0.0]], [[1e-3], [0.0]], [[30.0], [40.0]]], dtype=torch.float64
    )
    v.requires_grad_(True)
    lengths = norm_of_components(v, 2.0)
    assert lengths.tolist()[1] == [0.0]
    assert lengths[3].item() == pytest.approx(50.0, rel=0.05)
    (gradient,) = torch.autograd.grad(lengths.sum(), v)
    # The norm's gradient jumps from -1 to 1; this one grows with the vector.
    assert gradient[:3, 0, 0].tolist() == pytest.approx([-5e-4, 0.0, 5e-4], rel=1e-6)
    torch.autograd.gradcheck(lambda x: norm_of_components(x, 2.0), (v,))
    torch.autograd.gradgradcheck(lambda x: norm_of_components(x, 2.0), (v,))


class ForbidDataDependence(TorchDispatchMode):
    """Fails where a result's shape or a branch depends on the data."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.split(".")[0]
        assert name not in ("nonzero", "_local_scalar_dense", "is_nonzero"), name
        return function(*args, **(kwargs or {}))


def test_no_step_depends_on_the_data():
    theirs, ours = make_blocks()
    x, v = torch.randn(3, 16, dtype=torch.float64), torch.randn(3, 8, 16, dtype=torch.float64)
    with ForbidDataDependence():
        ours(x, v)
    with pytest.raises(AssertionError), ForbidDataDependence():
        theirs(x, v)
