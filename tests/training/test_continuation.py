"""What a training may go on with from a checkpoint."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torchmdnet.module import LNNP

from tests.training.commands import checkpoints, data_module, epochs_logged, torchmd_train


@pytest.mark.parametrize("changes", [{"optimizer": "adamw"}, {"lr_schedule": "plateau"}])
def test_another_optimization_does_not_go_on_from_a_checkpoint(configuration, changes):
    own = {"optimizer": "muon", "lr_schedule": "linear"}
    path = configuration(num_epochs=1, **own)
    assert torchmd_train("--conf", path).returncode == 0
    path = configuration(num_epochs=2, **{**own, **changes})
    refused = torchmd_train("--load-model", checkpoints(path)[-1], "--conf", path)
    [(key, other)] = changes.items()
    expected = f"ValueError: {key}: {other!r} was given, but the checkpoint to go on from was trained with"
    assert expected in refused.stderr


def contents(**dataset):
    return {"hyper_parameters": {"model": "dkmp-c"}, "state_dict": {}, "dkmp_plugin": {"dataset": dataset}}


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        ({"energy_unit": "eV", "total_charge": 0}, "are in kcal/mol, but .* on energies in eV; convert"),
        ({"energy_unit": "kcal/mol", "total_charge": 1}, "have the total charge 0, but .* of charge 1"),
        ({"energy_unit": "kcal/mol", "total_charge": 0}, None),
        ({}, None),
    ],
)
def test_other_energies_do_not_go_on_from_a_checkpoint(recorded, expected):
    metadata = {"energy_unit": "kcal/mol", "total_charge": 0}
    trainer = SimpleNamespace(datamodule=SimpleNamespace(dataset=SimpleNamespace(metadata=metadata)))
    given = {"model": "dkmp-c", "optimizer": "adamw", "lr_schedule": "plateau"}
    module = SimpleNamespace(hparams=given, trainer=trainer, _trainer=trainer)
    with nullcontext() if expected is None else pytest.raises(ValueError, match=expected):
        LNNP.on_load_checkpoint(module, contents(**recorded))
    # Without a trainer only the weights are taken over.
    LNNP.on_load_checkpoint(SimpleNamespace(hparams=given, _trainer=None), contents(**recorded))


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        ({"lag": 5, "stride": 2}, "lag: 10 was given in dataset_arg, but .* was trained with 5: disp"),
        ({"lag": 10, "stride": 1}, "stride: 2 was given in dataset_arg, but .* was trained with 1"),
        ({"lag": 10, "stride": 2}, None),
        ({}, None),
    ],
)
def test_displacements_over_another_time_do_not_go_on_from_a_checkpoint(recorded, expected):
    metadata = {"lag": 10, "stride": 2}
    trainer = SimpleNamespace(datamodule=SimpleNamespace(dataset=SimpleNamespace(metadata=metadata)))
    given = {"model": "dkmp-r", "optimizer": "adamw", "lr_schedule": "plateau"}
    module = SimpleNamespace(hparams=given, trainer=trainer, _trainer=trainer)
    with nullcontext() if expected is None else pytest.raises(ValueError, match=expected):
        LNNP.on_load_checkpoint(module, contents(**recorded))


@pytest.mark.parametrize("keys", [["load_weights"], ["load_model", "reset_trainer"]])
def test_weights_for_energies_in_another_unit_are_named_once(configuration, tmp_path, keys):
    path = tmp_path / "other.ckpt"
    given = {key: str(path) if key.startswith("load") else True for key in keys}
    torch.save(contents(energy_unit="eV", total_charge=1), path)
    data = data_module(configuration, **given)
    with pytest.warns(UserWarning, match="trained on energies in eV, the training data are in kcal/mol"):
        data.setup("fit")
    data.setup("fit")
    torch.save(contents(energy_unit="kcal/mol", total_charge=1), path)
    data_module(configuration, **given).setup("fit")
    path.unlink()
    data_module(configuration, **given).setup("fit")


def test_another_loss_goes_on_from_a_checkpoint(configuration):
    """hparams.yaml beside it names a monitor that the new training does not compute."""
    path = configuration(train_loss="norm_loss", num_epochs=1)
    assert torchmd_train("--conf", path).returncode == 0
    path = configuration(train_loss="elastic_norm_loss", num_epochs=1, reset_trainer=True)
    done = torchmd_train("--load-model", checkpoints(path)[-1], "--conf", path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert epochs_logged(path, "elastic_norm_loss") == {0.0}


def test_batches_of_one_go_on_with_what_they_have_learnt_of_energies(configuration):
    key = "dkmp_plugin_single_energies"
    changes = {"batch_size": 1, "train_loss": "elastic_norm_loss"}
    path = configuration(num_epochs=1, **changes)
    assert torchmd_train("--conf", path).returncode == 0
    [first] = checkpoints(path)
    learnt = torch.load(first, weights_only=False)[key]
    assert torch.isfinite(learnt["error"]).all()
    assert any(slope.any() for slope in learnt["gradient"])
    path = configuration(num_epochs=2, **changes)
    gone_on = torchmd_train("--load-model", first, "--conf", path)
    assert gone_on.returncode == 0, gone_on.stderr
    assert epochs_logged(path, "elastic_norm_loss") == {1.0}
    later = torch.load(checkpoints(path)[-1], weights_only=False)[key]
    assert not torch.equal(later["error"], learnt["error"])
