"""Activation functions that bend over a longer range."""

import pytest
import torch
from torch.nn.functional import silu

from dkmp_plugin.models.stretched_activation import StretchedActivation


@pytest.mark.parametrize("stretch", [1.0, 6.0])
def test_same_slope_at_zero_and_less_curvature(stretch):
    x = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(StretchedActivation("silu", stretch)(x), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, x)
    assert slope.item() == pytest.approx(0.5)
    assert curvature.item() == pytest.approx(0.5 / stretch)


def test_factor_one_is_the_function_itself():
    x = torch.linspace(-5, 5, 101)
    assert torch.equal(StretchedActivation("silu", 1.0)(x), silu(x))


def test_scripted_equals_eager():
    x = torch.linspace(-5, 5, 101)
    activation = StretchedActivation("tanh", 6.0)
    assert torch.equal(torch.jit.script(activation)(x), activation(x))
