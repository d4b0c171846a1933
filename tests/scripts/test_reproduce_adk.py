"""Evaluation of DKMP^R on held-out runs: files that hold several."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.datasets.trajectory_fixtures import GLYCINES, walk, write
from tests.displacement_checkpoint import write_checkpoint

ROOT = Path(__file__).parents[2]


def test_every_run_of_a_file_has_files_of_its_own(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "epoch=0-val_loss=1.0000.ckpt")
    write(tmp_path / "top.pdb", GLYCINES[None])
    frames = np.concatenate([walk(9, 1), walk(8, 2, shift=30.0)])
    write(tmp_path / "both.xtc", frames, np.concatenate([np.arange(9.0), np.arange(8.0)]))
    command = [sys.executable, ROOT / "scripts/reproduce_adk.py", "--checkpoint", checkpoint]
    command += [
        "--run",
        tmp_path / "both.xtc",
        "--topology",
        tmp_path / "top.pdb",
        "--output",
        tmp_path / "out",
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for number, steps in ((0, 4), (1, 3)):
        report = json.loads((tmp_path / "out" / f"both_{number}_rollout.json").read_text())
        assert report["as it is"]["num_steps"] == steps
