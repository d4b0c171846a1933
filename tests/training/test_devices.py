"""Nothing is computed on another device than that of the inputs, checked without a GPU.

Within ``torch.device("meta")``, tensors that are made without a device are meta tensors, and an operation
that meets one beside a real tensor fails, as it would for a CPU tensor beside one on a GPU.
"""

import pytest
import torch
from torch_geometric.data import Batch, Data

from dkmp_plugin import ops
from dkmp_plugin.evaluation.rollout import FramePredictor
from dkmp_plugin.training.losses import LOSSES_OF_STRUCTURES, loss_of_structures, norm_loss
from dkmp_plugin.training.muon import MuonWithAdamW
from tests.conftest import ethanol, hyper_parameters
from tests.models.test_dkmp_r import VARIANTS, create_model
from tests.strong_potential import strong_potential

ELSEWHERE = torch.device("meta")
BOX = 15.0 * torch.eye(3, dtype=torch.float64)


def two_molecules():
    z, pos = ethanol()
    return Batch.from_data_list([Data(z=z, pos=pos), Data(z=z, pos=1.02 * pos)])


def test_the_check_sees_tensors_that_are_made_elsewhere():
    pos = ethanol()[1]
    with pytest.raises((RuntimeError, ValueError, NotImplementedError)), ELSEWHERE:
        (pos + torch.zeros(9, 3)).sum().item()


@pytest.mark.skipif(not ops.status().native, reason="the reference's search copies numbers to the device")
@pytest.mark.parametrize("revision", [1, 2, 4, 6])
@pytest.mark.parametrize("box", [None, BOX])
def test_potentials_losses_and_optimiser(revision, box):
    batch = two_molecules()
    model = strong_potential(hyper_parameters(revision=revision)).train()
    optimizer = MuonWithAdamW(model, 1e-3)
    target = torch.randn(18, 3, dtype=torch.float64)
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    with ELSEWHERE:
        for name in LOSSES_OF_STRUCTURES:
            energy, forces = model(batch.z, batch.pos, batch.batch, box)
            loss = loss_of_structures(name, batch.pos, batch.batch, box)
            total = loss(forces, target) + loss(energy, energy.detach() + 1.0) + norm_loss(forces, target)
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            assert total.item() > 0
    moved = [not torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2
    model.eval()
    with ELSEWHERE:
        assert model(batch.z, batch.pos, batch.batch, box)[1].abs().sum().item() > 0


@pytest.mark.parametrize("changes", [*VARIANTS, {"canonical_frame": "mean"}])
@pytest.mark.parametrize("box", [None, BOX])
def test_propagators(changes, box):
    batch = two_molecules()
    model = create_model(**changes)
    extra = {"reference": 1.1 * batch.pos, "previous": 0.99 * batch.pos}
    with ELSEWHERE:
        model.train()
        for _ in range(4):  # pushforward is drawn by lot
            displacement, _ = model(batch.z, batch.pos, batch.batch, box, extra_args=extra)
            displacement.square().sum().backward()
        model.eval()
        displacement, _ = model(batch.z, batch.pos, batch.batch, box, extra_args=extra)
        assert displacement.abs().sum().item() > 0


def test_propagators_of_many_atoms():
    """They sort their atoms."""
    model = create_model()
    model.representation_model.reordered_from = 4
    batch = two_molecules()
    with ELSEWHERE, torch.no_grad():
        assert model(batch.z, batch.pos, batch.batch)[0].abs().sum().item() > 0


def test_rollouts():
    z, pos = ethanol()
    model = create_model(canonical_frame="first")
    model.representation_model.trained_elements[z] = True
    predictor = FramePredictor(model, z.numpy(), rerank_interval=2)
    frame = pos.numpy()
    with ELSEWHERE:
        for _ in range(3):
            frame = predictor(frame, pos.numpy())
    assert abs(frame - pos.numpy()).max() > 1e-3
