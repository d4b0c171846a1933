"""The complexes of the examples: from the ligand's files to steps of dynamics, and on from a checkpoint."""

import importlib.util
import json
import os
import subprocess
import sys
from typing import ClassVar

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.simulation.conftest import write_checkpoint

SCRIPT = ROOT / "examples" / "05_simulate_complex.py"


def start(*arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def run(*arguments):
    done = start(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def host_guest(tmp_path_factory):
    output = tmp_path_factory.mktemp("complex") / "host-guest"
    return output, run("host-guest", "--quick", "--output", output)


def test_the_whole_chain(host_guest):
    output, text = host_guest
    assert "156 atoms, 30 of them by" in text and "--residue B2" in text
    assert (output / "ligand" / "report.html").is_file()
    state = np.genfromtxt(output / "state.csv", delimiter=",", names=True)
    assert state.dtype.names[0] == "Step" and len(state) == 2
    assert np.isfinite(state["Potential_Energy_kJmole"]).all()


def test_goes_on_from_the_checkpoint(host_guest):
    output, _ = host_guest
    model = output / "ligand" / "model.pt"
    text = run(
        *("host-guest", "--model", model, "--output", output, "--steps", 30, "--report-interval", 10),
    )
    assert "going on at step 20" in text and "30 steps of 1 fs" in text
    assert json.loads((output / "summary.json").read_text())["time_ps"] == pytest.approx(0.03)


def test_a_checkpoint_is_a_model_as_well(tmp_path):
    write_checkpoint(tmp_path / "model.ckpt")
    text = run("host-guest", "--quick", "--model", tmp_path / "model.ckpt", "--output", tmp_path / "out")
    assert "20 steps of 1 fs" in text
    assert "random weights" in json.loads((tmp_path / "out/summary.json").read_text())["labels_of_the_model"]


def test_does_not_go_on_with_other_settings(host_guest):
    output, _ = host_guest
    before = (output / "checkpoint.chk").read_bytes()
    done = start(
        *("host-guest", "--model", output / "ligand" / "model.pt", "--output", output, "--steps", 40),
        *("--report-interval", 10, "--heavy-hydrogens"),
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert (
        "time step in fs 1.0, now 2.0" in done.stderr and "hydrogen mass in Da None, now 3.0" in done.stderr
    )
    assert "give another --output, or remove it" in done.stderr
    assert (output / "checkpoint.chk").read_bytes() == before


@pytest.mark.parametrize(("steps", "interval"), [(99, 100), (10, 0), (-5, 1)])
def test_steps_without_a_frame_are_refused_before_the_work(script, monkeypatch, capsys, steps, interval):
    given = ["host-guest", "--steps", str(steps), "--report-interval", str(interval)]
    monkeypatch.setattr(sys, "argv", [SCRIPT.name, *given])
    monkeypatch.setattr(script, "make_potential", lambda *_: pytest.fail("the work has begun"))
    assert script.main() == 2
    assert f"--steps {steps} and --report-interval {interval} were given" in capsys.readouterr().err


@pytest.fixture(scope="module")
def script():
    """The example as a module."""
    sys.path.insert(0, str(SCRIPT.parent))
    specification = importlib.util.spec_from_file_location("simulate_complex", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    yield module
    sys.path.remove(str(SCRIPT.parent))


class TestClaim:
    SETTINGS: ClassVar = {"SHA-256 of the model": "abc", "cutoff in nm": None, "report interval": 100}

    def test_settings_may_change_until_there_is_a_checkpoint(self, script, tmp_path):
        assert not script.claim(tmp_path / "new", self.SETTINGS)
        other = {**self.SETTINGS, "cutoff in nm": 1.0}
        assert not script.claim(tmp_path / "new", other)
        (tmp_path / "new" / "checkpoint.chk").touch()
        assert script.claim(tmp_path / "new", other)

    @pytest.mark.parametrize("name", SETTINGS)
    def test_each_setting_counts(self, script, tmp_path, name):
        script.claim(tmp_path, self.SETTINGS)
        (tmp_path / "checkpoint.chk").touch()
        with pytest.raises(ValueError, match=rf"other settings \({name} .*, now 7\); give another --output"):
            script.claim(tmp_path, {**self.SETTINGS, name: 7})

    def test_a_checkpoint_of_unknown_settings(self, script, tmp_path):
        (tmp_path / "checkpoint.chk").touch()
        with pytest.raises(ValueError, match=r"no settings.json that tells what of; give another --output"):
            script.claim(tmp_path, self.SETTINGS)


@pytest.mark.parametrize("name", ["thrombin", "t4-lysozyme-water"])
def test_ligands_of_the_other_complexes(name, monkeypatch):
    """Their files are read, elements included; 52 atoms and 18 atoms."""
    from dkmp_plugin.labeling.amber import read_amber

    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    from complexes import COMPLEXES

    try:
        files = COMPLEXES[name][0]()
    except SystemExit as absent:
        pytest.skip(str(absent))
    molecule = read_amber(files.prmtop, files.coordinates, files.residue)
    assert len(molecule.atomic_numbers) == {"thrombin": 52, "t4-lysozyme-water": 18}[name]
    if name == "thrombin":
        assert set(molecule.atomic_numbers.tolist()) == {1, 6, 7, 8, 17}
