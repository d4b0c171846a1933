"""Responses to distant atoms: every network that was given is shown, as what it is."""

import json
import subprocess
import sys

import pytest
import torch

from tests.conftest import ROOT, ethanol

SETTINGS = {"embedding_dimension": 8, "num_heads": 2, "num_rbf": 4, "revision": 6, "cutoff_upper": 5.0}


@pytest.fixture
def checkpoint(monkeypatch):
    """Writes what scripts/reproduce_s2ef.py keeps of a training."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from s2ef.models import build_model

    def write(path, num_layers):
        settings = {**SETTINGS, "num_layers": num_layers}
        weights = build_model("dkmp-c", settings).state_dict()
        averaged = {f"module.model.{name}": value for name, value in weights.items()}
        torch.save({"settings": settings, "averaged": averaged}, path)
        return str(path)

    return write


def test_no_checkpoint_hides_another(checkpoint, tmp_path):
    """Of one model, but of other rows or budgets: the second took the place of the first."""
    from ase import Atoms

    z, pos = ethanol()
    Atoms(z.numpy(), pos.numpy()).write(tmp_path / "ethanol.pdb")
    paths = [checkpoint(tmp_path / f"row__dkmp-c__{budget}.pt", 1) for budget in ("epochs", "cpu")]
    paths.append(checkpoint(tmp_path / "other__dkmp-c__cpu.pt", 2))
    command = [sys.executable, str(ROOT / "scripts/reproduce_oversquashing.py"), "--receivers", "1"]
    command += ["--structure", str(tmp_path / "ethanol.pdb"), "--results", str(tmp_path), "--seeds", "0"]
    done = subprocess.run([*command, "--trained", *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    medians = json.loads((tmp_path / "results.json").read_text())["median"]
    assert {kind: list(of) for kind, of in medians.items()} == {
        "trained": [
            "row, equal epochs: dkmp-c, 5 Å, 1 layers",
            "row, equal cpu: dkmp-c, 5 Å, 1 layers",
            "other, equal cpu: dkmp-c, 5 Å, 2 layers",
        ]
    }
    nothing = subprocess.run(command, capture_output=True, text=True)
    assert nothing.returncode == 2 and "nothing to compare" in nothing.stderr
