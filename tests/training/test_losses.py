"""The losses that torchmd-train gets from us."""

import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from dkmp_plugin.training.losses import norm_loss


def test_is_the_mean_length_of_the_rows():
    forces = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 1.0]])
    assert norm_loss(forces, torch.zeros(2, 3)).item() == pytest.approx(3.0)
    assert norm_loss(torch.tensor([[-2.0], [1.0]]), torch.zeros(2, 1)).item() == pytest.approx(1.5)


def test_does_not_depend_on_the_orientation():
    prediction, target = torch.randn(
        2, 50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    rotation = torch.tensor(Rotation.from_rotvec([0.3, -1.0, 2.0]).as_matrix())
    turned = norm_loss(prediction @ rotation, target @ rotation)
    torch.testing.assert_close(turned, norm_loss(prediction, target))


def test_every_atom_pulls_alike_and_a_perfect_one_not_at_all():
    prediction = torch.tensor([[1e-3, 0.0, 0.0], [0.0, 5.0, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(norm_loss(prediction, torch.zeros(3, 3)), prediction)
    assert gradient.norm(dim=1).tolist() == pytest.approx([1 / 3, 1 / 3, 0.0])
    assert not math.isnan(gradient.sum().item())
