"""The stock ``torchmd-train`` trains, validates, tests, resumes and distributes a DKMP model."""

import csv
from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest
import torch
import yaml
from ase.calculators.singlepoint import SinglePointCalculator

from dkmp_plugin.config import REVISIONS
from tests.training.commands import checkpoints, epochs_logged, torchmd_train


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
