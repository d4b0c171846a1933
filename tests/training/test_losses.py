"""The losses that torchmd-train gets from us."""

import math

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch_geometric.data import Batch, Data

from dkmp_plugin.training.elastic_network import elastic_lengths
from dkmp_plugin.training.losses import (
    LOSSES_OF_STRUCTURES,
    elastic_norm_loss,
    loss_of_structures,
    neighborhood_norm_loss,
    neighborhood_sums,
    norm_loss,
    relative_norm_loss,
)
from tests.conftest import hyper_parameters


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


def two_systems(seed=0):
    random = torch.Generator().manual_seed(seed)
    pos = torch.rand(60, 3, dtype=torch.float64, generator=random) * 8.0
    values = torch.randn(60, 3, dtype=torch.float64, generator=random)
    return pos, values, torch.tensor([0] * 25 + [1] * 35)


def test_neighborhoods_are_gaussian_and_end_at_the_system():
    pos, values, batch = two_systems()
    distances = torch.cdist(pos, pos)
    weights = torch.exp(-(distances**2) / (2 * 1.5**2)) * (distances < 4.5) * (batch[:, None] == batch)
    expected = weights @ values / weights.square().sum(1, keepdim=True).sqrt()
    torch.testing.assert_close(neighborhood_sums(values, pos, batch), expected)


def test_neighborhoods_reach_through_a_periodic_boundary():
    box = 20.0 * torch.eye(3, dtype=torch.float64)
    pos = torch.tensor([[0.1, 0.0, 0.0], [19.0, 0.0, 0.0]], dtype=torch.float64)
    values = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]], dtype=torch.float64)
    weight = math.exp(-(1.1**2) / (2 * 1.5**2))
    sums = neighborhood_sums(values, pos, torch.zeros(2, dtype=torch.long), box)
    expected = (1.0 - weight) / math.sqrt(1.0 + weight**2)
    assert sums[:, 0].tolist() == pytest.approx([expected, -expected])


def test_opposite_errors_of_a_bond_count_once_and_common_ones_twice():
    pos = torch.tensor([[0.0, 0.0, 0.0], [1e-3, 0.0, 0.0]])
    batch, target = torch.zeros(2, dtype=torch.long), torch.zeros(2, 3)
    error = torch.tensor([[2.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    common = neighborhood_norm_loss(error, target, pos, batch)
    stretch = neighborhood_norm_loss(error * torch.tensor([[1.0], [-1.0]]), target, pos, batch)
    assert stretch.item() == pytest.approx(2.0, abs=1e-5)
    assert common.item() == pytest.approx(2.0 + 4.0 / math.sqrt(2.0), abs=1e-5)


@pytest.mark.parametrize("loss", LOSSES_OF_STRUCTURES.values())
def test_losses_of_structures_turn_and_differentiate(loss):
    pos, prediction, batch = two_systems()
    target = two_systems(1)[1]
    rotation = torch.tensor(Rotation.from_rotvec([0.3, -1.0, 2.0]).as_matrix())
    turned = loss(prediction @ rotation, target @ rotation, pos @ rotation, batch)
    torch.testing.assert_close(turned, loss(prediction, target, pos, batch))
    prediction.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda p: loss(p, target, pos, batch), prediction)


@pytest.mark.parametrize("precisions", [(torch.float32, torch.float32), (torch.float32, torch.float64)])
@pytest.mark.parametrize("name", LOSSES_OF_STRUCTURES)
def test_losses_of_periodic_structures_take_any_precision(name, precisions):
    pos, forces, batch = two_systems()
    box = torch.diag_embed(torch.tensor([[9.0, 9.0, 9.0], [8.0, 9.0, 10.0]], dtype=torch.float64))
    expected = loss_of_structures(name, pos, batch, box)(forces, 0 * forces)
    assert expected != loss_of_structures(name, pos, batch)(forces, 0 * forces)
    single = forces.to(precisions[0])
    loss = loss_of_structures(name, pos.to(precisions[0]), batch, box.to(precisions[1]))(single, 0 * single)
    torch.testing.assert_close(loss, expected.to(precisions[0]), rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("name", LOSSES_OF_STRUCTURES)
def test_losses_of_structures_know_the_constant_box(name):
    from torchmdnet.module import LNNP

    pos, forces, _ = two_systems()
    box, settings = 9.0 * torch.eye(3), {"train_loss": name, "y_weight": 0.0, "neg_dy_weight": 1.0}
    settings.update(load_model=None, remove_ref_energy=False, ema_alpha_neg_dy=1.0)
    item = Data(z=torch.full((25,), 6), pos=pos[:25], neg_dy=forces[:25])

    def loss(item, **changes):
        values = hyper_parameters(**settings, **changes)
        torch.manual_seed(0)
        module = LNNP(values)
        losses = [(name, module.train_loss_fn)]
        return module.step(Batch.from_data_list([item]), losses, "train").item()

    periodic = item.clone()
    periodic.box = box[None]
    assert loss(item, box_vecs=box.tolist()) == pytest.approx(loss(periodic))
    assert loss(item) != pytest.approx(loss(periodic))


@pytest.mark.parametrize("loss", LOSSES_OF_STRUCTURES.values())
def test_a_perfect_prediction_has_no_gradient(loss):
    pos, target, batch = two_systems()
    prediction = target.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(prediction, target, pos, batch), prediction)
    assert not gradient.any()


def test_energies_count_relative_to_each_other_and_their_mean_error_a_tenth():
    energies = torch.tensor([[5.0], [1.0]], requires_grad=True)
    loss = relative_norm_loss(energies, torch.zeros(2, 1))
    assert loss.item() == pytest.approx(2.0 + 0.1 * 3.0)
    (gradient,) = torch.autograd.grad(loss, energies)
    assert gradient.sum().item() == pytest.approx(0.1)
    assert relative_norm_loss(energies[:1], torch.zeros(1, 1)).item() == pytest.approx(5.0)


@pytest.mark.parametrize("name", LOSSES_OF_STRUCTURES)
def test_energies_have_no_structure(name):
    pos, forces, batch = two_systems()
    loss, energies = loss_of_structures(name, pos, batch), torch.tensor([[-2.0], [1.0]])
    assert loss(energies, torch.zeros(2, 1)) == relative_norm_loss(energies, torch.zeros(2, 1))
    zero = torch.zeros_like(forces)
    torch.testing.assert_close(loss(forces, zero), LOSSES_OF_STRUCTURES[name](forces, zero, pos, batch))


def test_elastic_loss_weighs_lengths_of_systems_against_those_of_atoms():
    pos, error, batch = two_systems()
    lengths = elastic_lengths(error, pos, batch)
    loss = elastic_norm_loss(error, torch.zeros_like(error), pos, batch)
    torch.testing.assert_close(loss, error.norm(dim=1).mean() + 3.0 * lengths.mean())
