"""Muon and AdamW as one optimiser: which parameters each moves, and checkpoints."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torchmdnet.models.model import create_model

from dkmp_plugin.training.muon import (
    BlockMuon,
    MuonWithAdamW,
    orthogonalize,
    split_parameters,
    square_blocks,
)
from tests.conftest import ethanol, hyper_parameters


def fresh_model():
    torch.manual_seed(0)
    return create_model(hyper_parameters())


def train(model, optimizer, steps):
    z, pos = ethanol()
    for _ in range(steps):
        energy, forces = model(z, pos)
        optimizer.zero_grad()
        (energy.square().sum() + forces.square().mean()).backward()
        optimizer.step()


def test_matrices_of_hidden_layers_are_muons():
    model = fresh_model()
    matrices, others = split_parameters(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    of_muon = {names[id(parameter)] for parameter in matrices}
    of_adamw = {names[id(parameter)] for parameter in others}
    assert "representation_model.layers.0.value.weight" in of_muon
    assert "representation_model.layers.0.filters.linear.weight" in of_muon
    assert "representation_model.embedding.embedding.weight" in of_adamw
    assert "representation_model.layers.0.received_norm.weight" in of_adamw  # (2, d), but no matrix
    assert "output_model.output_network.0.energy.weight" in of_adamw
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert of_muon | of_adamw == trainable and not of_muon & of_adamw


def test_steps_of_matrices_are_orthogonal_and_have_the_size_of_adamws():
    model = fresh_model()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    train(model, MuonWithAdamW(model, lr=1e-3, balanced=False), 1)
    step = {name: parameter.detach() - before[name] for name, parameter in model.named_parameters()}
    weight = model.representation_model.layers[0].value.weight
    blocks = square_blocks(step["representation_model.layers.0.value.weight"])
    assert len(blocks) == 3
    for block, gradient in zip(blocks, square_blocks(weight.grad), strict=True):
        # One small molecule: a few directions have gradients at all.
        lengths, gradients = torch.linalg.svdvals(block)[:5], torch.linalg.svdvals(gradient)[:5]
        assert gradients[0] > 3.0 * gradients[-1]
        assert lengths[0] < 1.8 * lengths[-1]
    # Muon's are scaled to what AdamW's usually are, 0.2 lr; the first step of AdamW is lr.
    assert 0.1e-3 < step["representation_model.layers.0.value.weight"].square().mean().sqrt() < 0.3e-3
    assert step["representation_model.layers.0.value.bias"].abs().max() == pytest.approx(1e-3, rel=1e-3)


def test_matrices_are_cut_into_square_blocks():
    tall = torch.arange(12.0).view(6, 2)
    assert [block.tolist() for block in square_blocks(tall)] == [tall[k : k + 2].tolist() for k in (0, 2, 4)]
    assert [block.shape for block in square_blocks(tall.T)] == [(2, 2)] * 3
    assert [block.shape for block in square_blocks(torch.zeros(3, 2))] == [(3, 2)]
    square_blocks(tall)[1].zero_()
    assert tall[2:4].abs().max() == 0  # views: what is done to a block is done to the matrix


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_square_matrices_move_as_with_torchs_muon(weight_decay):
    torch.manual_seed(0)
    mine = nn.Parameter(torch.randn(12, 12))
    theirs = nn.Parameter(mine.detach().clone())
    start = mine.detach().clone()
    ours = BlockMuon([mine], lr=1e-2, weight_decay=weight_decay, momentum=0.95, balanced=False)
    reference = torch.optim.Muon([theirs], lr=1e-2, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        gradient = torch.randn(12, 12)
        for parameter, optimizer in ((mine, ours), (theirs, reference)):
            parameter.grad = gradient.clone()
            optimizer.step()
    # Both iterate in bfloat16.
    assert (mine - theirs).norm() < 0.03 * (mine - start).norm()


def row_lengths_after_steps(balanced):
    """Of a matrix (12, 24) whose gradients are of rank 3, with one row ten times as long as the others."""
    torch.manual_seed(0)
    matrix = nn.Parameter(torch.zeros(12, 24))
    optimizer = BlockMuon([matrix], lr=1e-2, momentum=0.0, balanced=balanced)
    factors = torch.randn(12, 3)
    factors[0] *= 10.0
    lengths = []
    for _ in range(60):
        before = matrix.detach().clone()
        matrix.grad = factors @ torch.randn(3, 24)
        optimizer.step()
        lengths.append((matrix.detach() - before).norm(dim=1))
    return torch.stack(lengths[30:]).square().mean(0).sqrt()


def test_rows_are_balanced():
    plain, balanced = row_lengths_after_steps(False), row_lengths_after_steps(True)
    assert plain.max() > 2.0 * plain.min()
    assert balanced.max() < 1.3 * balanced.min()
    # The whole step is as long as without.
    assert balanced.norm() == pytest.approx(float(plain.norm()), rel=0.1)


def test_rows_without_a_gradient_stay():
    matrix = nn.Parameter(torch.ones(6, 6))
    optimizer = BlockMuon([matrix], lr=1e-2)
    matrix.grad = torch.zeros(6, 6)
    optimizer.step()
    assert torch.equal(matrix.detach(), torch.ones(6, 6))
    matrix.grad = torch.ones(6, 6)
    matrix.grad[0] = 0.0
    optimizer.step()
    assert torch.equal(matrix[0].detach(), torch.ones(6)) and matrix.isfinite().all()
    assert (matrix[1:] < 1.0).all()


@pytest.mark.parametrize("shape", [(3, 10, 10), (3, 20, 7), (3, 7, 20)])
def test_orthogonalized_matrices_are_nearly_orthogonal(shape):
    torch.manual_seed(0)
    lengths = torch.linalg.svdvals(orthogonalize(torch.randn(shape)).float())
    assert lengths.min() > 0.6 and lengths.max() < 1.3


def test_schedules_move_both_rates():
    optimizer = MuonWithAdamW(fresh_model(), lr=1e-2)
    LambdaLR(optimizer, lambda step: 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.005, 0.005]
    model = fresh_model()
    optimizer = MuonWithAdamW(model, lr=1e-2)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    train(model, optimizer, 1)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_goes_on_from_a_checkpoint():
    model = fresh_model()
    optimizer = MuonWithAdamW(model, lr=1e-3)
    train(model, optimizer, 3)
    file = io.BytesIO()
    torch.save((model.state_dict(), optimizer.state_dict()), file)
    file.seek(0)
    restarted = create_model(hyper_parameters())
    second = MuonWithAdamW(restarted, lr=1e-3)
    weights, state = torch.load(file, weights_only=True)
    restarted.load_state_dict(weights)
    second.load_state_dict(state)
    train(model, optimizer, 3)
    train(restarted, second, 3)
    for mine, other in zip(model.parameters(), restarted.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_checkpoints_from_before_rows_were_balanced_go_on_without():
    model = fresh_model()
    optimizer = MuonWithAdamW(model, lr=1e-3, momentum=0.95, balanced=False)
    train(model, optimizer, 2)
    old = copy.deepcopy(optimizer.state_dict())
    del old["param_groups"][0]["balanced"]
    again = create_model(hyper_parameters())
    again.load_state_dict(model.state_dict())
    resumed = MuonWithAdamW(again, lr=1e-3)
    resumed.load_state_dict(old)
    train(model, optimizer, 2)
    train(again, resumed, 2)
    for mine, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_a_model_without_matrices_is_refused():
    with pytest.raises(ValueError, match="adamw"):
        MuonWithAdamW(nn.LayerNorm(3), lr=1e-3)
