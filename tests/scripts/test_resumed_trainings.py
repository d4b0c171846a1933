"""Scripts that train go on from whole checkpoints only; torchmd-train itself is a stand-in."""

import argparse
import importlib
import sys

import numpy as np
import pytest
import torch
import yaml

from tests.conftest import ROOT
from tests.simulation.conftest import write_checkpoint


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module


@pytest.fixture
def starts(tmp_path, monkeypatch):
    """The file with the arguments of each start of torchmd-train."""
    program, path = tmp_path / "bin" / "torchmd-train", tmp_path / "starts"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {path}\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program.with_name("python")))
    return path


def test_half_of_the_last_checkpoint_is_no_finished_tensornet(script, starts, tmp_path):
    log_dir = tmp_path / "stage_0"
    log_dir.mkdir()
    whole, half = (log_dir / f"epoch={epoch}-val_loss=0.1.ckpt" for epoch in (0, 1))
    torch.save({"weight": torch.zeros(10_000)}, whole)
    half.write_bytes(whole.read_bytes()[:5000])
    arguments = argparse.Namespace(demo=tmp_path / "demo", output=tmp_path, epochs=[2, 2])
    script("train_tensornet").train(arguments, 0)
    assert f"--load-model {whole}" in starts.read_text()


def test_half_of_the_last_checkpoint_does_not_stop_chignolin(script, starts, tmp_path):
    log_dir = tmp_path / "smooth"
    log_dir.mkdir()
    whole, half = (log_dir / f"epoch={epoch}-val_loss=0.1.ckpt" for epoch in (0, 1))
    write_checkpoint(whole)
    half.write_bytes(whole.read_bytes()[:5000])
    for name in ("chignolin.h5", "start.pdb"):
        (tmp_path / name).touch()
    np.savez(tmp_path / "splits.npz")
    script("reproduce_nve").prepare_chignolin(tmp_path, ["smooth"])
    assert f"--load-model {whole}" in starts.read_text()
    assert (tmp_path / "smooth.pt").is_file()
    settings = yaml.safe_load((tmp_path / "smooth.yaml").read_text())
    assert settings["shell_overlap"] == 1.0 and settings["log_dir"] == str(log_dir)
