"""A training that was killed goes on from its newest whole checkpoint; torchmd-train itself is a stand-in."""

import os
import sys

import pytest
import torch

from dkmp_plugin.training.torchmd_train import run_training, train_to_end, write_configuration
from tests.simulation.conftest import write_checkpoint


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """``said()`` lists the arguments of each start; the status of all is that of the file ``status``."""
    program = tmp_path / "bin" / "torchmd-train"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/starts\necho training\nexit $(cat {tmp_path}/status)\n'
    )
    program.chmod(0o755)
    (tmp_path / "status").write_text("0")
    monkeypatch.setattr(sys, "executable", str(program.with_name("python")))
    starts = tmp_path / "starts"
    return lambda: starts.read_text().splitlines() if starts.exists() else []


def stock_checkpoint(path, size=None):
    """Of a model that is none of ours; the first ``size`` bytes of the file."""
    path.parent.mkdir(exist_ok=True)
    weights = {"weight": torch.zeros(10_000)}
    torch.save({"hyper_parameters": {"model": "tensornet"}, "state_dict": weights}, path)
    path.write_bytes(path.read_bytes()[:size])


def write_settings(folder, **changes):
    settings = {"model": "tensornet", "log_dir": "log", "num_epochs": 3, **changes}
    return write_configuration(folder / "training.yaml", settings)


def test_a_training_begins_goes_on_and_ends(tmp_path, stand_in):
    path = write_settings(tmp_path)
    begin = ("--load-weights", tmp_path / "other.ckpt")
    train_to_end(path, *begin, folder=tmp_path)
    stock_checkpoint(tmp_path / "log/epoch=1-val_loss=0.1.ckpt")
    # Its epochs would be enough, but this one was being written when the process was killed.
    stock_checkpoint(tmp_path / "log/epoch=2-val_loss=0.1.ckpt", size=5000)
    train_to_end(path, *begin, folder=tmp_path)
    stock_checkpoint(tmp_path / "log/epoch=2-val_loss=0.1.ckpt")
    train_to_end(path, *begin, folder=tmp_path)
    assert stand_in() == [
        f"--load-weights {tmp_path}/other.ckpt --conf {path}",
        f"--load-model log/epoch=1-val_loss=0.1.ckpt --conf {path}",
    ]


def test_whole_checkpoints_are_never_removed(tmp_path, stand_in):
    """Such as those of another version: only the user may throw them away."""
    other = tmp_path / "log/epoch=2-val_loss=0.1.ckpt"
    stock_checkpoint(other)
    with pytest.raises(ValueError, match="holds a 'tensornet' model"):
        train_to_end(write_settings(tmp_path, model="dkmp-c"), folder=tmp_path)
    assert other.exists() and stand_in() == []
    write_checkpoint(other)
    train_to_end(write_settings(tmp_path, model="dkmp-c", num_epochs=4), folder=tmp_path)
    assert len(stand_in()) == 1


def test_a_training_that_fails_says_so(tmp_path, stand_in):
    (tmp_path / "status").write_text("3")
    path = write_settings(tmp_path)
    with pytest.raises(RuntimeError, match=r"status 3 .* goes on from the last checkpoint"):
        train_to_end(path, folder=tmp_path)
    log = tmp_path / "log.txt"
    with pytest.raises(RuntimeError, match=r"status 3; see .*log\.txt"):
        run_training(path, log=log)
    assert log.read_text() == "training\n"


def test_a_missing_torchmd_train_is_told(tmp_path, stand_in):
    os.remove(tmp_path / "bin" / "torchmd-train")
    with pytest.raises(RuntimeError, match="torchmd-train is needed for the training"):
        train_to_end(write_settings(tmp_path), folder=tmp_path)
