"""The complexes of the examples: from the ligand's files to steps of dynamics, and on from a checkpoint."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT

SCRIPT = ROOT / "examples" / "05_simulate_complex.py"


def run(*arguments):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
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
    text = run("host-guest", "--model", output / "ligand" / "model.pt", "--output", output, "--steps", 30)
    assert "going on at step 20" in text and "30 steps of 1 fs" in text


@pytest.mark.parametrize("name", ["thrombin", "t4-lysozyme-water"])
def test_ligands_of_the_other_complexes(name, monkeypatch):
    """Their files are read, elements included; 52 atoms and 18 atoms."""
    from dkmp_plugin.labeling.molecule import read_amber

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
