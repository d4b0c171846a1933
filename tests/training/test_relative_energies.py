"""The loss of energies in batches of one structure."""

import pytest
import torch

from dkmp_plugin.training.relative_energies import RelativeEnergyLoss


def test_relative_energies_of_single_structures_have_no_common_gradient():
    """Energies that are a common function of the weights plus small ones of their own."""
    generator = torch.Generator().manual_seed(1)
    model = torch.nn.Linear(6, 1, bias=False).double()
    weights = model.weight
    common = 100.0 * torch.randn(1, 6, generator=generator).double()
    own = torch.randn(50, 1, 6, generator=generator).double()
    own -= own.mean(0)

    def gradients(offset, steps, rate):
        """The last 50 gradients, of one structure after the other, while the weights wander."""
        torch.nn.init.ones_(weights)
        loss, kept = RelativeEnergyLoss(model), []
        walk = torch.Generator().manual_seed(2)
        for step in range(steps):
            weights.grad = None
            error = ((common + own[step % 50]) * weights).sum().reshape(1) + offset
            loss(error).backward()
            kept.append((step % 50, weights.grad.clone(), error.detach().item()))
            with torch.no_grad():
                weights.add_(rate * torch.randn(1, 6, generator=walk).double())
        return kept[-50:]

    errors = []
    for offset in (0.0, 1e4):
        for i, gradient, error in gradients(offset, 300, 0.01):
            # The weights' steps move all errors by one, their own parts differ by as much.
            assert min((gradient - own[i]).norm(), (gradient + own[i]).norm()) < 0.2 * own[i].norm()
            assert gradient.norm() < 0.05 * common.norm()
            errors.append(error)
    assert max(errors) - min(errors) > 9000
    # The sign is that of the difference to the usual error, whatever the offset.
    signs = [
        [float((gradient * own[i]).sum().sign()) for i, gradient, _ in gradients(offset, 300, 0.0)]
        for offset in (0.0, 1e4)
    ]
    assert signs[0] == signs[1]
    expected = [float((own[i] * weights.detach()).sum().sign()) for i in range(50)]
    assert sum(a == b for a, b in zip(signs[0], expected, strict=True)) > 40
    with pytest.raises(ValueError, match=r"shape \(2,\) was given"):
        RelativeEnergyLoss(model)(torch.zeros(2))


def test_the_mean_error_is_pulled_to_zero_and_then_left_alone():
    """All structures are off by one number, the bias, on which differences do not pull."""
    model = torch.nn.Linear(1, 1).double()
    model.weight.requires_grad_(False)
    torch.nn.init.constant_(model.bias, 50.0)
    differences = torch.randn(400, generator=torch.Generator().manual_seed(1)).double()
    differences -= differences.mean()
    loss = RelativeEnergyLoss(model, mean_error=0.1)
    rates = torch.linspace(5.0, 0.0, 400)
    for difference, rate in zip(differences, rates, strict=True):
        model.bias.grad = None
        # The difference does not pull: its gradient is that of the error less the usual one.
        loss(model.bias + difference).backward()
        assert abs(model.bias.grad.item()) <= 0.1 + 1e-9
        with torch.no_grad():
            model.bias -= rate * model.bias.grad
    assert abs(model.bias.item()) < 0.3


def test_it_goes_on_from_its_state():
    generator = torch.Generator().manual_seed(1)
    model = torch.nn.Linear(4, 1).double()
    inputs = torch.randn(30, 4, generator=generator).double()

    def continued(restarts):
        loss, found = RelativeEnergyLoss(model, 0.1), []
        for step, row in enumerate(inputs):
            if restarts:
                state = loss.state_dict()
                loss = RelativeEnergyLoss(model, 0.1)
                if step > 0:
                    loss.load_state_dict(state)
            found.append(loss(model(row)).item())
        return found

    assert continued(True) == continued(False)


def test_its_state_follows_the_model_to_another_device():
    """Lightning reads checkpoints onto the CPU, and may move the model to its GPU later: here to ``meta``."""
    here = torch.nn.Linear(4, 1)
    loss = RelativeEnergyLoss(here, 0.1)
    loss(here(torch.ones(4)))
    elsewhere = torch.nn.Linear(4, 1, device="meta")
    resumed = RelativeEnergyLoss(elsewhere, 0.1)
    resumed.load_state_dict(loss.state_dict())
    for _ in range(2):
        value = resumed(elsewhere(torch.ones(4, device="meta")))
        assert value.shape == () and value.device.type == "meta"
