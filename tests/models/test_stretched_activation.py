"""Activation functions that bend over a longer range."""

import pytest
import torch
from torch.nn.functional import linear, silu

from dkmp_plugin.models.stretched_activation import StretchedActivation

ONE, NONE = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)


@pytest.mark.parametrize("stretch", [1.0, 6.0])
def test_same_slope_at_zero_and_less_curvature(stretch):
    x = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    bent = StretchedActivation("silu", stretch).between(x, ONE, NONE, ONE, NONE)
    (slope,) = torch.autograd.grad(bent, x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, x)
    assert slope.item() == pytest.approx(0.5)
    assert curvature.item() == pytest.approx(0.5 / stretch)


def test_between_two_linear_maps():
    generator = torch.Generator().manual_seed(0)
    x, before, before_bias, after, after_bias = (
        torch.randn(*shape, dtype=torch.float64, generator=generator)
        for shape in ((5, 3), (4, 3), (4,), (2, 4), (2,))
    )
    expected = linear(6.0 * silu(linear(x, before, before_bias) / 6.0), after, after_bias)
    result = StretchedActivation("silu", 6.0).between(x, before, before_bias, after, after_bias)
    torch.testing.assert_close(result, expected)


def test_factor_one_is_the_function_itself():
    x = torch.linspace(-5, 5, 101, dtype=torch.float64).unsqueeze(1)
    assert torch.equal(StretchedActivation("silu", 1.0).between(x, ONE, NONE, ONE, NONE), silu(x))


class HiddenLayer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.activation = StretchedActivation("tanh", 6.0)

    def forward(self, x, before, before_bias, after, after_bias):
        return self.activation.between(x, before, before_bias, after, after_bias)


def test_scripted_equals_eager():
    x = torch.linspace(-5, 5, 101, dtype=torch.float64).unsqueeze(1)
    layer = HiddenLayer()
    assert torch.equal(torch.jit.script(layer)(x, ONE, NONE, ONE, NONE), layer(x, ONE, NONE, ONE, NONE))
