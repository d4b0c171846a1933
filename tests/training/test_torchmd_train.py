"""The stock ``torchmd-train`` trains, validates, tests, resumes and distributes a DKMP model."""

import csv
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import ase
import ase.io
import numpy as np
import pytest
import torch
import yaml
from ase.calculators.singlepoint import SinglePointCalculator
from torchmdnet.data import DataModule
from torchmdnet.module import LNNP
from torchmdnet.scripts import train

from dkmp_plugin.config import REVISIONS

TORCHMD_TRAIN = str(Path(sys.executable).parent / "torchmd-train")


def torchmd_train(*arguments, processes=1):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [TORCHMD_TRAIN, *map(str, arguments)]
    if processes > 1:
        command += ["--ngpus", str(processes)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)


def checkpoints(configuration_path):
    folder = Path(yaml.safe_load(configuration_path.read_text())["log_dir"])
    return sorted(folder.glob("epoch=*.ckpt"))


def epochs_logged(configuration_path, loss="mse_loss"):
    folder = Path(yaml.safe_load(configuration_path.read_text())["log_dir"])
    with open(folder / "metrics.csv") as file:
        return {float(row["epoch"]) for row in csv.DictReader(file) if row[f"val_total_{loss}"]}


def test_trains_two_epochs_then_resumes(configuration):
    path = configuration()
    done = torchmd_train("--conf", path)
    assert done.returncode == 0, done.stderr[-3000:]
    written = checkpoints(path)
    assert len(written) == 2
    assert epochs_logged(path) == {0.0, 1.0}
    contents = torch.load(written[-1], weights_only=True)
    assert contents["dkmp_plugin"]["dataset"]["energy_unit"] == "kcal/mol"
    assert contents["dkmp_plugin"]["dataset"]["level_of_theory"].startswith("GFN2-xTB")
    elements = contents["state_dict"]["model.representation_model.trained_elements"]
    assert elements.nonzero().flatten().tolist() == [1, 6, 8]

    resumed = torchmd_train("--load-model", written[-1], "--conf", configuration(num_epochs=3))
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    last = checkpoints(path)[-1]
    assert torch.load(last, weights_only=True)["epoch"] == 2
    assert torch.load(last, weights_only=True)["global_step"] == 9  # 24 conformations in batches of 8


@pytest.mark.parametrize("schedule", ["plateau", "cosine", "linear"])
def test_trains_with_muon_and_resumes(configuration, schedule):
    path = configuration(optimizer="muon", lr_schedule=schedule, num_epochs=1)
    done = torchmd_train("--conf", path)
    assert done.returncode == 0, done.stderr[-3000:]
    last = checkpoints(path)[-1]
    groups = torch.load(last, weights_only=True)["optimizer_states"][0]["param_groups"]
    assert ["momentum" in group for group in groups] == [True, False]
    path = configuration(optimizer="muon", lr_schedule=schedule, num_epochs=2)
    resumed = torchmd_train("--load-model", last, "--conf", path)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert torch.load(checkpoints(path)[-1], weights_only=True)["global_step"] == 6


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


def data_module(configuration, **changes):
    """Of torchmd-net, with the defaults of its command line that it reads."""
    values = {"seed": 1, "standardize": False, "dataset_arg": None, "inference_batch_size": 8}
    values.update(train_size=None, val_size=0.05, test_size=0.1)
    values.update(yaml.safe_load(configuration(**changes).read_text()))
    Path(values["log_dir"]).mkdir(exist_ok=True)
    return DataModule(values)


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


def test_a_size_of_the_training_part_does_not_go_with_parts_of_the_dataset(configuration):
    """The label file's runs are its parts; with ``splits`` torchmd-net takes those."""
    with pytest.raises(ValueError, match="train_size: 2 was given, but the dataset DKMPHDF5 brings its own"):
        data_module(configuration, splits=None, train_size=2, val_size=30, test_size=8).setup("fit")
    data = data_module(configuration, splits=None)
    data.setup("fit")
    assert len(data.train_dataset) == 24


# torchmd-net's save_argparse leaves the file open.
@pytest.mark.filterwarnings("ignore:unclosed file.*input.yaml:ResourceWarning")
@pytest.mark.parametrize(
    "text", ['{"files": "a.xyz", "energy_unit": "eV"}', "{files: a.xyz, energy_unit: eV}"]
)
def test_arguments_of_a_dataset_on_the_command_line(configuration, monkeypatch, text):
    expected = {"files": "a.xyz", "energy_unit": "eV"}
    flag = ["--log-dir", str(configuration().parent), "--dataset-arg", text]
    for arguments in (flag, ["--conf", str(configuration(dataset_arg=text, log_dir=flag[1]))]):
        monkeypatch.setattr(sys, "argv", ["torchmd-train", *arguments])
        assert train.get_args().dataset_arg == expected
        assert yaml.safe_load((Path(flag[1]) / "input.yaml").read_text())["dataset_arg"] == expected


@pytest.mark.parametrize("text", ["a.xyz", "[a.xyz]", "{1: a.xyz}", "{files"])
def test_arguments_of_a_dataset_that_are_no_mapping(configuration, monkeypatch, capsys, text):
    with pytest.raises(SystemExit):
        train.get_argparse().parse_args(["--dataset-arg", text])
    assert f"dataset_arg: {text!r} was given, a mapping of names to values" in capsys.readouterr().err
    with pytest.raises(ValueError, match=re.escape(f"{text!r} was given, a mapping")):
        train.get_argparse().parse_args(["--conf", str(configuration(dataset_arg=text))])


@pytest.mark.parametrize("loss", ["norm_loss", "neighborhood_norm_loss", "elastic_norm_loss", "l1_loss"])
def test_other_losses_are_what_checkpoints_are_chosen_by(configuration, loss):
    path = configuration(train_loss=loss)
    done = torchmd_train("--conf", path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert epochs_logged(path, loss) == {0.0, 1.0}
    folder = Path(yaml.safe_load(path.read_text())["log_dir"])
    with open(folder / "metrics.csv") as file:
        losses = [row[f"val_total_{loss}"] for row in csv.DictReader(file)]
    named = {path.name.split("val_loss=")[1].split("-")[0] for path in checkpoints(path)}
    assert named == {f"{float(value):.4f}" for value in losses if value}


# torchmd-net's save_argparse leaves the file open.
@pytest.mark.filterwarnings("ignore:unclosed file.*input.yaml:ResourceWarning")
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"neighbor_embedding": True, "aggr": "mean"}, "dkmp-c .* neighbor_embedding, aggr: ignored"),
        ({"canonical_frame": "mean", "memory": True}, "dkmp-c .* canonical_frame, memory: ignored"),
        (
            {"model": "dkmp-r", "shell_overlap": 0.5, "displacement_scale": 0.1, "revision": 1},
            "dkmp-r has no use for num_shells, shell_overlap: ignored",
        ),
        (
            {"model": "tensornet", "optimizer": "muon", "lr_schedule": "cosine", "energy_unit": "kcal/mol"},
            "tensornet has no use for num_shells, lr_schedule, optimizer: ignored",
        ),
        ({"model": "tensornet", "num_shells": None, "aggr": "mean"}, None),
    ],
)
def test_keys_without_a_meaning_are_named(configuration, monkeypatch, changes, expected):
    monkeypatch.setattr(sys, "argv", ["torchmd-train", "--conf", str(configuration(**changes))])
    with nullcontext() if expected is None else pytest.warns(UserWarning, match=expected):
        train.get_args()


def test_another_loss_goes_on_from_a_checkpoint(configuration):
    """hparams.yaml beside it names a monitor that the new training does not compute."""
    path = configuration(train_loss="norm_loss", num_epochs=1)
    assert torchmd_train("--conf", path).returncode == 0
    path = configuration(train_loss="elastic_norm_loss", num_epochs=1, reset_trainer=True)
    done = torchmd_train("--load-model", checkpoints(path)[-1], "--conf", path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert epochs_logged(path, "elastic_norm_loss") == {0.0}


def test_torchmd_nets_own_models_train_with_our_losses(configuration):
    changes = {"model": "tensornet", "max_num_neighbors": 32, "equivariance_invariance_group": "O(3)"}
    path = configuration(train_loss="norm_loss", num_epochs=1, **changes)
    done = torchmd_train("--conf", path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert epochs_logged(path, "norm_loss") == {0.0}
    assert len(checkpoints(path)) == 1


@pytest.mark.parametrize(
    ("recorded", "arguments", "revision"),
    [
        ({}, [], 1),
        ({"revision": 3}, [], 3),
        ({}, ["--revision", "4"], 4),
        ({"model": "tensornet"}, [], REVISIONS[-1]),
        (None, [], REVISIONS[-1]),
    ],
)
def test_checkpoints_without_the_key_hold_revision_1(tmp_path, recorded, arguments, revision):
    from torchmdnet.scripts.train import get_argparse

    if recorded is not None:
        (tmp_path / "hparams.yaml").write_text(yaml.safe_dump({"model": "dkmp-c", **recorded}))
    args = get_argparse().parse_args(["--load-model", str(tmp_path / "epoch=0.ckpt"), *arguments])
    assert args.revision == revision


def test_two_processes_with_gloo(configuration):
    path = configuration(num_epochs=1)
    done = torchmd_train("--conf", path, processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "MEMBER: 2/2" in done.stderr
    # Two processes share the epoch: half the steps.
    assert torch.load(checkpoints(path)[-1], weights_only=True)["global_step"] == 2


def diatomics(path):
    """X-H of eight elements X, each in one structure alone."""
    heavy = [3, 4, 5, 6, 7, 8, 9, 14]
    frames = []
    for number in heavy:
        atoms = ase.Atoms([number, 1], [[0.0, 0.0, 0.0], [0.0, 0.0, 1.3]])
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.zeros((2, 3)))
        frames.append(atoms)
    ase.io.write(path, frames, format="extxyz")
    return [1, *heavy]


def test_every_process_knows_the_elements_that_any_of_them_has_seen(configuration, tmp_path):
    elements = diatomics(tmp_path / "train.xyz")
    diatomics(tmp_path / "val.xyz")
    parts = {"train": "train.xyz", "val": "val.xyz", "energy_unit": "eV"}
    own = {"dataset": "DKMPExtXYZ", "dataset_root": str(tmp_path), "dataset_arg": parts, "splits": None}
    path = configuration(num_epochs=1, batch_size=2, test_interval=-1, **own)
    done = torchmd_train("--conf", path, processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    state = torch.load(checkpoints(path)[-1], weights_only=True)["state_dict"]
    assert state["model.representation_model.trained_elements"].nonzero().flatten().tolist() == elements


def test_double_precision_and_numbers_that_yaml_reads_as_text(configuration):
    path = configuration(num_epochs=1, precision=64)
    path.write_text(path.read_text().replace("lr: 0.001", "lr: 1e-3"))
    assert yaml.safe_load(path.read_text())["lr"] == "1e-3"
    done = torchmd_train("--conf", path)
    assert done.returncode == 0, done.stderr[-3000:]
    state = torch.load(checkpoints(path)[-1], weights_only=True)["state_dict"]
    assert state["model.representation_model.norm.weight"].dtype == torch.float64


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"num_layers": 0}, "num_layers: 0 was given"),
        ({"energy_unit": "eV"}, "energy_unit: 'eV' was given"),
        ({"lr": "fast"}, "lr: 'fast' was given"),
        ({"num_shels": 3}, "Unknown argument in config file: num_shels"),
        ({"derivative": False}, "give derivative: true, or neg_dy_weight: 0"),
        ({"max_z": 8}, "max_z: 8 was given, but the dataset has atoms of atomic number 8"),
    ],
)
def test_impossible_configurations_stop_before_training(configuration, changes, expected):
    path = configuration(**changes)
    done = torchmd_train("--conf", path)
    assert done.returncode != 0
    assert expected in done.stderr
    assert not checkpoints(path)
