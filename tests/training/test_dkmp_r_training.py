"""The stock ``torchmd-train`` trains DKMP^R on a trajectory, with the dataset's own split."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch_geometric.data import Batch

from dkmp_plugin.datasets import DKMPTrajectory
from dkmp_plugin.evaluation.rollout import FramePredictor, evaluate_run, load_displacement_model
from dkmp_plugin.training.factory import create_dkmp_model
from tests.conftest import hyper_parameters
from tests.datasets.trajectory_fixtures import GLYCINES, write
from tests.displacement_checkpoint import write_checkpoint
from tests.training.commands import checkpoints, torchmd_train


def drift(num_frames, seed):
    """Motion with a rule to learn: every frame lies 0.3 Å further along x (plus noise)."""
    noise = 0.05 * np.random.default_rng(seed).normal(size=(num_frames, *GLYCINES.shape))
    return GLYCINES + noise + np.array([0.3, 0, 0]) * np.arange(num_frames)[:, None, None]


@pytest.fixture
def displacement_configuration(tmp_path):
    """``write_yaml(**changes)`` writes a configuration and returns its path."""
    write(tmp_path / "top.pdb", GLYCINES[None])
    write(tmp_path / "train.dcd", drift(60, 1))
    write(tmp_path / "val.dcd", drift(20, 2))

    def write_yaml(**changes) -> Path:
        values = {
            "dataset": "DKMPTrajectory",
            "dataset_root": str(tmp_path),
            "dataset_arg": {
                "topology": "top.pdb",
                "train": ["train.dcd"],
                "val": ["val.dcd"],
                "num_neighbors": 4,
            },
            "model": "dkmp-r",
            "output_model": "Displacement",
            "num_layers": 2,
            "embedding_dimension": 16,
            "num_heads": 4,
            "max_num_neighbors": 4,
            "canonical_frame": "none",
            "lr_schedule": "cosine",
            "lr": 5.0e-3,
            "lr_min": 1.0e-6,
            "y_weight": 1.0,
            "neg_dy_weight": 0.0,
            "num_epochs": 6,
            "save_interval": 1,
            "batch_size": 4,
            "num_workers": 0,
            "ngpus": 1,
            "log_dir": str(tmp_path / "log"),
            **changes,
        }
        path = tmp_path / "dkmp_r.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write_yaml


def test_learns_resumes_and_predicts(displacement_configuration, tmp_path):
    path = displacement_configuration()
    done = torchmd_train("--conf", path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "split by the dataset: train 59, val 19, test 0" in done.stdout
    last = checkpoints(path)[-1]
    contents = torch.load(last, weights_only=True)
    assert contents["epoch"] == 5 and contents["global_step"] == 6 * 15
    assert contents["dkmp_plugin"]["dataset"]["lag"] == 1
    rate = contents["optimizer_states"][0]["param_groups"][0]["lr"]
    assert rate == pytest.approx(1e-6, abs=1e-7)  # the cosine has come to its end

    model, _ = load_displacement_model(last)
    predictor = FramePredictor(model, np.array([7, 6, 6, 8] * 2))
    run = drift(20, 2).astype(np.float32)
    errors = [np.square(predictor(before) - after).mean() for before, after in pairwise(run)]
    still = np.square(run[1:] - run[:-1]).mean()
    assert np.mean(errors) < 0.6 * still

    resumed = torchmd_train("--load-model", last, "--conf", displacement_configuration(num_epochs=7))
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert torch.load(checkpoints(path)[-1], weights_only=True)["epoch"] == 6


def test_pushforward_starts_every_second_step_from_the_models_own_prediction(tmp_path):
    """The target stays the true frame; items without an earlier frame are left alone."""
    write(tmp_path / "top.pdb", GLYCINES[None])
    write(tmp_path / "train.dcd", drift(9, 1))
    arguments = {"topology": "top.pdb", "train": ["train.dcd"], "lag": 2, "num_neighbors": 4}
    data = DKMPTrajectory(str(tmp_path), pushforward=True, **arguments)
    assert torch.equal(data[5].previous, data[3].pos) and torch.equal(data[1].previous, data[1].pos)

    checkpoint = write_checkpoint(tmp_path / "epoch=0.ckpt")
    model, _ = load_displacement_model(checkpoint)
    batch = Batch.from_data_list([data[5], data[1]])

    def reached(model):
        return batch.pos + model(batch.z, batch.pos, batch.batch, extra_args=batch.to_dict())[0]

    plain = reached(model)
    ranks = {"neighbors": batch.neighbors}
    start = batch.previous + model(batch.z, batch.previous, batch.batch, extra_args=ranks)[0]
    pushed = start + model(batch.z, start, batch.batch, extra_args=ranks)[0]
    model.train()
    torch.manual_seed(0)
    seen = [reached(model) for _ in range(12)]
    for frame in seen:
        assert torch.allclose(frame[8:], plain[8:], atol=1e-5)
    were_pushed = [torch.allclose(frame[:8], pushed[:8], atol=1e-5) for frame in seen]
    were_plain = [torch.allclose(frame[:8], plain[:8], atol=1e-5) for frame in seen]
    assert any(were_pushed) and any(were_plain)
    assert all(one != other for one, other in zip(were_pushed, were_plain, strict=True))
    model.eval()
    assert torch.equal(reached(model), plain)


@pytest.mark.parametrize("frame", ["none", "mean"])
def test_two_processes_with_gloo(frame, displacement_configuration):
    path = displacement_configuration(num_epochs=1, canonical_frame=frame)
    if frame == "mean":
        values = yaml.safe_load(path.read_text())
        values["dataset_arg"]["reference"] = "mean"
        path.write_text(yaml.safe_dump(values))
    done = torchmd_train("--conf", path, processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    checkpoint = torch.load(checkpoints(path)[-1], weights_only=True)
    assert checkpoint["global_step"] == 8  # half of 15, rounded up
    if frame == "mean":
        assert checkpoint["state_dict"]["model.representation_model.reference.stored"].shape == GLYCINES.shape


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"output_model": "Scalar"}, "output_model: 'Scalar' was given, Displacement"),
        ({"derivative": True}, "derivative: True was given, false"),
        ({"standardize": True}, "standardize: True was given, false"),
        ({"displacement_scale": 0.0}, "displacement_scale: 0.0 was given, a positive length"),
        ({"displacement_scale": "x"}, "displacement_scale: 'x' was given, a positive length"),
        ({"displacement_scale": float("nan")}, "displacement_scale: nan was given, a positive length"),
        ({"max_num_neighbors": 16.5}, "max_num_neighbors: 16.5 was given, an integer"),
        ({"max_num_neighbors": "16"}, "max_num_neighbors: '16' was given, an integer"),
        ({"num_frequencies": -1}, "num_frequencies: -1 was given"),
        ({"max_num_neighbors": 1}, "at least one neighbour for each of the 3 layers"),
        ({"lr_schedule": "cosin"}, "lr_schedule: 'cosin' was given, one of plateau, cosine, linear"),
    ],
)
def test_impossible_configurations(changes, expected):
    values = hyper_parameters(
        model="dkmp-r", output_model="Displacement", derivative=False, max_num_neighbors=6
    )
    create_dkmp_model(values)
    with pytest.raises(ValueError, match=expected):
        create_dkmp_model({**values, **changes})


@pytest.mark.parametrize(
    ("model", "data", "expected"),
    [
        ({"canonical_frame": "first"}, {}, "canonical_frame: 'first' needs reference: first in dataset_arg"),
        ({"canonical_frame": "first"}, {"reference": "mean"}, "'first' needs reference: first"),
        ({"canonical_frame": "mean"}, {"reference": "first"}, "'mean' needs reference: mean"),
        ({}, {"reference": "mean"}, "reference: 'mean' was given, but .* 'none' does not look at it"),
        ({"canonical_frame": "principal"}, {"reference": "first"}, "set canonical_frame: first, or remove"),
        ({"memory": True}, {}, "memory: true needs previous: true in dataset_arg"),
        ({"memory": True}, {"pushforward": True}, "needs previous: true .*pushforward"),
        ({}, {"previous": True}, "previous: true is for models with memory: true"),
        ({"max_z": 8}, {}, "max_z: 8 was given, but the dataset has atoms of atomic number 8"),
        ({"box_vecs": [[30.0, 0, 0], [0, 30.0, 0], [0, 0, 30.0]]}, {}, "box_vecs was given, but"),
    ],
)
def test_data_must_bring_what_the_model_asks_for(displacement_configuration, model, data, expected):
    from torchmdnet.data import DataModule

    values = yaml.safe_load(displacement_configuration().read_text())
    values.update(splits=None, seed=1, standardize=False, train_size=None, val_size=9, test_size=9)
    Path(values["log_dir"]).mkdir()
    DataModule(dict(values)).setup("fit")
    with pytest.raises(ValueError, match=expected):
        values["dataset_arg"].update(data)
        DataModule({**values, **model}).setup("fit")


def test_learns_to_relax_towards_the_mean_structure(displacement_configuration, tmp_path):
    """Frames that scatter independently: the mean structure leaves half of the error."""
    for seed, name in ((3, "scatter.dcd"), (5, "more.dcd")):
        noise = 0.3 * np.random.default_rng(seed).normal(size=(60, *GLYCINES.shape))
        write(tmp_path / name, GLYCINES + noise)
    path = displacement_configuration(
        dataset_arg={
            "topology": "top.pdb",
            "train": ["scatter.dcd"],
            "val": ["more.dcd"],
            "num_neighbors": 4,
            "reference": "mean",
            "previous": True,
        },
        canonical_frame="mean",
        memory=True,
        lr=0.02,
    )
    done = torchmd_train("--conf", path)
    assert done.returncode == 0, done.stderr[-3000:]
    model, _ = load_displacement_model(checkpoints(path)[-1])
    kept = model.representation_model.reference.stored.numpy()
    assert np.abs(np.linalg.norm(kept[0] - kept[7]) - np.linalg.norm(GLYCINES[0] - GLYCINES[7])) < 0.1
    fresh = GLYCINES + 0.3 * np.random.default_rng(4).normal(size=(30, *GLYCINES.shape))
    report, _ = evaluate_run(FramePredictor(model, np.array([7, 6, 6, 8] * 2)), fresh.astype(np.float32), 1)
    assert report.errors["model"].next < 0.7 * report.errors["persistence"].next
