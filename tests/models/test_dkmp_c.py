"""DKMP^C: the contract of every potential, and what is its own."""

from inspect import signature

import pytest
import torch
from torchmdnet.models.model import create_model

from dkmp_plugin.config import HYPERPARAMETERS, REVISIONS
from dkmp_plugin.models import DKMPC
from dkmp_plugin.models.dilated_layer import SharedUpdateLayer
from dkmp_plugin.models.energy_block import EnergyBlock
from tests.conftest import hyper_parameters
from tests.models.contract import PotentialContract, hessian_vector_product, three_atoms
from tests.strong_potential import strong_potential


class TestSmoothShells(PotentialContract):
    borders = (2.0 - 0.4, 2.0, 2.0 + 0.4, 4.0 - 0.4, 4.0, 4.0 + 0.4, 6.0)

    def hyper_parameters(self, **changes):
        return hyper_parameters(shell_overlap=0.8, **changes)

    def create_model(self, dtype=torch.float64):
        return strong_potential(self.hyper_parameters(precision=64 if dtype == torch.float64 else 32))


class TestSeveralPasses(PotentialContract):
    borders = (3.0 - 0.5, 3.0, 3.0 + 0.5, 6.0)

    def hyper_parameters(self, **changes):
        return hyper_parameters(num_shells=2, rbf_type="gauss", trainable_rbf=True, **changes)

    def create_model(self, dtype=torch.float64):
        return strong_potential(self.hyper_parameters(precision=64 if dtype == torch.float64 else 32))


class TestRevisionOne(PotentialContract):
    """The layers of checkpoints that were written before the key ``revision``."""

    borders = (2.0 - 0.4, 2.0, 2.0 + 0.4, 4.0 - 0.4, 4.0, 4.0 + 0.4, 6.0)

    def hyper_parameters(self, **changes):
        return hyper_parameters(shell_overlap=0.8, revision=1, **changes)

    def create_model(self, dtype=torch.float64):
        return strong_potential(self.hyper_parameters(precision=64 if dtype == torch.float64 else 32))


class TestRevisionTwo(PotentialContract):
    """Features whose lengths have no bound, and no products of them."""

    borders = (2.0 - 0.4, 2.0, 2.0 + 0.4, 4.0 - 0.4, 4.0, 4.0 + 0.4, 6.0)

    def hyper_parameters(self, **changes):
        return hyper_parameters(shell_overlap=0.8, revision=2, **changes)

    def create_model(self, dtype=torch.float64):
        return strong_potential(self.hyper_parameters(precision=64 if dtype == torch.float64 else 32))


class TestRevisionFour(PotentialContract):
    """Attention in the scalar messages."""

    borders = (2.0 - 0.4, 2.0, 2.0 + 0.4, 4.0 - 0.4, 4.0, 4.0 + 0.4, 6.0)

    def hyper_parameters(self, **changes):
        return hyper_parameters(shell_overlap=0.8, revision=4, **changes)

    def create_model(self, dtype=torch.float64):
        return strong_potential(self.hyper_parameters(precision=64 if dtype == torch.float64 else 32))


def test_revisions_three_and_four_differ_in_the_norm_of_features():
    parts = [create_model(hyper_parameters(revision=revision)).representation_model for revision in (3, 4)]
    offsets = [[layer.received_norm.offset for layer in part.layers] for part in parts]
    assert offsets == [[0.01] * 3, [1.0] * 3]
    assert parts[0].state_dict().keys() == parts[1].state_dict().keys()


def test_revision_five_has_a_gate_in_place_of_the_attention():
    four, five = (
        create_model(hyper_parameters(revision=revision)).representation_model.layers[0].state_dict()
        for revision in (4, 5)
    )
    assert {name.split(".")[0] for name in four.keys() - five.keys()} == {"query_key"}
    assert {name.split(".")[0] for name in five.keys() - four.keys()} == {"receiver_gate"}
    assert len(five["filters.linear.weight"]) == 3 * len(five["receiver_gate.weight"])


def test_revision_six_has_one_hidden_layer_in_its_energy_head():
    five, six = (
        create_model(hyper_parameters(revision=revision)).output_model.output_network for revision in (5, 6)
    )
    assert len(five) == 2 and len(six) == 1
    assert isinstance(six[0], EnergyBlock)


def test_trainings_and_the_class_itself_have_the_newest_revision():
    (parameter,) = [parameter for parameter in HYPERPARAMETERS if parameter.name == "revision"]
    assert parameter.default == signature(DKMPC).parameters["revision"].default == REVISIONS[-1]


def test_checkpoints_without_the_key_hold_revision_one():
    arguments = hyper_parameters()
    del arguments["revision"]
    model = create_model(arguments)
    assert all(isinstance(layer, SharedUpdateLayer) for layer in model.representation_model.layers)


def test_unknown_revision_is_refused():
    with pytest.raises(ValueError, match="revision: 7"):
        create_model(hyper_parameters(revision=7))
    with pytest.raises(ValueError, match="revision: 7"):
        DKMPC(16, num_layers=1, num_heads=4, revision=7)


class TestHardShells(PotentialContract):
    """The paper's partition: everything but continuity at the inner borders."""

    borders = (6.0,)

    def hyper_parameters(self, **changes):
        return hyper_parameters(shell_overlap=0.0, **changes)

    def create_model(self, dtype=torch.float64):
        return strong_potential(self.hyper_parameters(precision=64 if dtype == torch.float64 else 32))


def energy_of(model, distance):
    z = torch.tensor([6, 8, 1])
    pos = torch.tensor([[0.0, 0, 0], [0.7, 0.9, 0.2], [distance, 0, 0]], dtype=torch.float64)
    return model(z, pos, torch.zeros_like(z))[0].item()


@pytest.mark.parametrize(("overlap", "jumps"), [(0.0, True), (0.8, False)])
def test_only_hard_borders_make_the_energy_jump(overlap, jumps):
    torch.manual_seed(0)
    model = strong_potential(hyper_parameters(shell_overlap=overlap)).eval()
    change = abs(energy_of(model, 2.0 + 1e-9) - energy_of(model, 2.0 - 1e-9))
    assert (change > 1e-6) == jumps


def test_hard_borders_make_forces_and_hessian_jump():
    """The paper's partition breaks at its inner borders what the contract asks of smooth shells."""
    torch.manual_seed(7)
    model = strong_potential(hyper_parameters(shell_overlap=0.0)).eval()
    for border in (2.0, 4.0):
        (_, forces_in), (_, forces_out) = (
            model(*three_atoms(border + step), torch.zeros(3, dtype=torch.long)) for step in (-1e-9, 1e-9)
        )
        assert (forces_in - forces_out).abs().max() > 1e-4
        inside, outside = (hessian_vector_product(model, border + step) for step in (-1e-9, 1e-9))
        assert (inside - outside).abs().max() > 1e-4


def bond_force(seed, revision):
    """Force along a C-H bond of 0.8 to 1.6 Å, every 0.004 Å."""
    torch.manual_seed(seed)
    model = strong_potential(hyper_parameters(shell_overlap=0.8, revision=revision))
    distances = torch.arange(0.8, 1.6, 0.004, dtype=torch.float64)
    pos = torch.zeros(len(distances), 2, 3, dtype=torch.float64)
    pos[:, 1, 2] = distances
    batch = torch.arange(len(distances)).repeat_interleave(2)
    _, forces = model(torch.tensor([6, 1]).repeat(len(distances)), pos.view(-1, 3), batch)
    return forces.detach()[1::2, 2]


def largest_over_usual(values, order):
    difference = values.diff(n=order).abs()
    return float(difference.max() / difference.median())


@pytest.mark.parametrize("seed", range(4))
def test_the_force_of_a_stretched_bond_has_no_corners(seed):
    """In a diatomic molecule all spherical features lie along the bond, and some vanish on the way.

    The norm in the head of revision 4 turns the force within a step there: its second difference is a hundred
    to a thousand times the usual one.
    """
    assert largest_over_usual(bond_force(seed, revision=6), 2) < 15.0
    assert largest_over_usual(bond_force(seed, revision=5), 2) < 15.0
    assert largest_over_usual(bond_force(seed, revision=4), 2) > 30.0


@pytest.mark.parametrize("seed", range(4))
def test_the_force_of_a_stretched_bond_bends_smoothly(seed):
    """Splines of degree 3, those of revision 5, make the force's second derivative jump at every knot."""
    assert largest_over_usual(bond_force(seed, revision=6), 4) < 15.0
    assert largest_over_usual(bond_force(seed, revision=5), 4) > 60.0


def test_second_derivative_is_continuous_at_borders():
    torch.manual_seed(0)
    model = strong_potential(hyper_parameters(shell_overlap=0.8)).eval()

    def curvature(distance, step=1e-4):
        return (
            energy_of(model, distance + step)
            - 2 * energy_of(model, distance)
            + energy_of(model, distance - step)
        ) / step**2

    for border in (1.6, 2.4, 3.6, 4.4, 6.0):
        inside, outside = curvature(border - 3e-4), curvature(border + 3e-4)
        typical = max(abs(curvature(r)) for r in (1.7, 2.0, 2.3, 3.9))
        assert abs(outside - inside) < 0.1 * typical


def test_layer_sees_its_shell_only():
    """Beyond the first shell the first layer's messages vanish: the features of a far pair stay apart."""
    torch.manual_seed(0)
    model = DKMPC(
        16, num_layers=1, num_shells=1, cutoff_upper=4.0, num_heads=4, max_z=10, dtype=torch.float64
    )
    z = torch.tensor([6, 6])
    near, _, _, _, _ = model(
        z, torch.tensor([[0.0, 0, 0], [3.0, 0, 0]], dtype=torch.float64), torch.zeros_like(z)
    )
    far, _, _, _, _ = model(
        z, torch.tensor([[0.0, 0, 0], [5.0, 0, 0]], dtype=torch.float64), torch.zeros_like(z)
    )
    alone, _, _, _, _ = model(z[:1], torch.zeros(1, 3, dtype=torch.float64), torch.zeros_like(z[:1]))
    assert torch.allclose(far[0], alone[0])
    assert not torch.allclose(near[0], alone[0])


def test_periodic_images_act_like_a_supercell():
    """One cell with periodic boundaries has the energy per cell of a 2x2x2 supercell."""
    torch.manual_seed(0)
    model = create_model(hyper_parameters()).eval()
    z = torch.tensor([8, 1, 1, 6])
    box = torch.tensor([[5.0, 0, 0], [0.7, 5.5, 0], [0.3, -0.4, 6.0]], dtype=torch.float64)
    pos = torch.rand(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) @ box
    energy, forces = model(z, pos.clone(), torch.zeros_like(z), box)
    cells = torch.cartesian_prod(*[torch.arange(2.0, dtype=torch.float64)] * 3)
    images = (pos.unsqueeze(0) + (cells @ box).unsqueeze(1)).reshape(-1, 3)
    super_z = z.repeat(8)
    super_energy, super_forces = model(super_z, images, torch.zeros_like(super_z), 2 * box)
    assert super_energy.item() == pytest.approx(8 * energy.item(), rel=1e-10)
    assert torch.allclose(super_forces[:4], forces, atol=1e-10)


def test_remembers_the_elements_it_was_trained_on(molecule):
    z, pos = molecule
    model = create_model(hyper_parameters())
    model.eval()
    model(z, pos.clone(), torch.zeros_like(z))
    assert not model.representation_model.trained_elements.any()
    model.train()
    model(z, pos.clone(), torch.zeros_like(z))
    assert model.representation_model.trained_elements.nonzero().flatten().tolist() == [1, 6, 8]


def test_too_many_neighbours_is_an_error(molecule):
    z, pos = molecule
    model = create_model(hyper_parameters(max_num_neighbors=4)).eval()
    with pytest.raises((ValueError, RuntimeError), match="neighbo"):
        model(z, pos.clone(), torch.zeros_like(z))


def test_forces_stay_moderate_where_atoms_nearly_coincide():
    """Simulations may leave the training data: features, and so forces, must not grow from layer to layer."""
    grid = torch.cartesian_prod(*[torch.arange(3.0, dtype=torch.float64)] * 3)
    z = torch.tensor([6, 1, 8] * 9)
    torch.manual_seed(0)
    model = strong_potential(hyper_parameters(num_layers=6)).eval()
    noise = 0.05 * torch.randn(27, 3, dtype=torch.float64)

    def largest_force(spacing):
        return model(z, spacing * grid + noise, torch.zeros_like(z))[1].abs().max().item()

    usual = largest_force(1.5)
    # Without a bound (revision 2) 1e17 times as large.
    assert all(largest_force(spacing) < 1e4 * usual for spacing in (0.7, 0.5, 0.3))
