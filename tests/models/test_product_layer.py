"""The two ways to compute an update: by native ops, and where there are none."""

import pytest
import torch

from dkmp_plugin.models.layer_settings import LayerSettings
from dkmp_plugin.models.product_layer import ProductUpdateLayer
from dkmp_plugin.models.radius_shell import RadiusShell

WIDTH = 12


@pytest.mark.parametrize("attention", [True, False])
def test_fused_update_is_the_update_in_parts(attention):
    torch.manual_seed(0)
    shell = RadiusShell(0, 1, 6.0, 1.0, 5)
    settings = LayerSettings(WIDTH, 16, "expnorm", False, "silu", 6.0, 2, torch.float64)
    layer = ProductUpdateLayer(settings, shell, norm_offset=1.0, attention=attention)
    shapes = [(3, 2 * WIDTH), (5, 2 * WIDTH), (WIDTH,), (WIDTH,), (WIDTH,), (WIDTH,), (8, WIDTH)]
    inputs = [torch.randn(7, *shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    first, second, message, normed, gate, x, vector = inputs
    arguments = (first, second, message, normed, None if attention else gate, x, vector)
    results = []
    for fused in (True, False):
        changed = layer.update(*arguments, fused)
        total = changed[0].square().sum() + changed[1].square().sum()
        results.append([*changed, *torch.autograd.grad(total, [y for y in arguments if y is not None])])
    for ours, other in zip(*results, strict=True):
        torch.testing.assert_close(ours, other)
