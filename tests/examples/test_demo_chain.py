"""The demo's steps, run as a user runs them, on a small scale: few labels, one epoch, ten steps."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import mdtraj
import numpy as np
import pytest
import yaml

from dkmp_plugin.training.log_dir import best_checkpoint
from tests.conftest import ROOT

SCRIPTS = sorted(path.name for path in (ROOT / "examples").glob("0*.py"))


def run(*command, cwd: Path = ROOT) -> str:
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    """Folder with everything the demo makes."""
    folder = tmp_path_factory.mktemp("demo")
    python, scripts = sys.executable, Path(sys.executable).parent
    examples = ROOT / "examples"
    run(
        *(python, examples / "01_label_p_xylene.py", "--output", folder / "p_xylene.h5"),
        *("--train-runs", 1, "--train-frames", 12, "--val-frames", 4, "--test-frames", 4),
    )
    configuration = yaml.safe_load((examples / "dkmp.yaml").read_text())
    configuration.update(
        dataset_root=str(folder / "p_xylene.h5"),
        splits=str(folder / "splits.npz"),
        log_dir=str(folder / "training"),
        num_epochs=1,
        embedding_dimension=16,
    )
    (folder / "dkmp.yaml").write_text(yaml.safe_dump(configuration))
    run(scripts / "torchmd-train", "--conf", folder / "dkmp.yaml", cwd=folder)
    run(
        *(python, examples / "02_evaluate.py", "--checkpoint", folder / "training"),
        *("--labels", folder / "p_xylene.h5", "--output", folder / "evaluation.json"),
        *("--keep-best", folder / "best.ckpt"),
    )
    run(scripts / "dkmp", "export", folder / "best.ckpt", folder / "model.pt")
    run(
        *(python, examples / "03_simulate_t4l.py", "--model", folder / "model.pt"),
        *("--output", folder / "simulation", "--minimization-iterations", 5, "--equilibration-steps", 5),
        *("--steps", 10, "--block", 5, "--mm-block", 2, "--report-interval", 5),
    )
    run(
        *(python, examples / "04_report.py", "--evaluation", folder / "evaluation.json"),
        *("--simulation", folder / "simulation", "--training", folder / "training"),
        *("--output", folder / "report.html"),
    )
    return folder


def test_evaluation_is_of_the_held_out_runs_and_beside_the_baseline(demo):
    evaluation = json.loads((demo / "evaluation.json").read_text())
    assert evaluation["labels"] == {"train": 48, "val": 16, "test": 16}
    assert evaluation["energy_unit"] == "kcal/mol" and "GFN2-xTB" in evaluation["level_of_theory"]
    groups = evaluation["errors"]
    assert len(groups) == 5
    conformations = [group["model"]["conformations"] for group in groups.values()]
    assert conformations == [16, 4, 4, 4, 4]
    # Zero forces are wrong by the mean size of a force component: about 20 kcal/mol/Å at these temperatures.
    assert 10 < groups["all held-out runs"]["baseline"]["force_mae"] < 40
    assert evaluation["checkpoint"] == str(best_checkpoint(demo / "training"))


def test_simulation_reproduces_both_ends_of_the_interpolation(demo):
    energies = json.loads((demo / "simulation/simulation.json").read_text())["end_point_energies_kj_per_mol"]
    assert energies["lambda_0"] == pytest.approx(energies["mm"], abs=0.05)
    assert energies["lambda_1"] == pytest.approx(energies["ml_mm"], abs=0.05)
    assert abs(energies["mm"] - energies["ml_mm"]) > 1.0


def test_trajectory_and_state_agree(demo):
    trajectory = mdtraj.load(demo / "simulation/trajectory.dcd", top=demo / "simulation/start.pdb")
    assert trajectory.n_frames == 2 and trajectory.n_atoms == 2621
    state = np.genfromtxt(demo / "simulation/state.csv", delimiter=",", names=True)
    start = mdtraj.load(demo / "simulation/start.pdb")
    ligand = trajectory.topology.select("resname TMP")
    assert len(ligand) == 18
    # 10 x: nm to Å; the PDB file keeps three decimals.
    heavy = trajectory.topology.select("resname TMP and not element H")
    np.testing.assert_allclose(
        10 * mdtraj.rmsd(trajectory, start, atom_indices=heavy), state["ligand_rmsd_angstrom"], atol=2e-3
    )
    np.testing.assert_allclose(state["step"], [5, 10])


def test_page_shows_the_numbers(demo):
    page = (demo / "report.html").read_text()
    evaluation = json.loads((demo / "evaluation.json").read_text())
    simulation = json.loads((demo / "simulation/simulation.json").read_text())
    errors = evaluation["errors"]["all held-out runs"]
    for number in (
        f"{errors['model']['energy_mae']:.3f}",
        f"{errors['model']['force_mae']:.3f}",
        f"{errors['baseline']['force_mae']:.3f}",
        f"{simulation['ns_per_day']['ml_mm']:.3f}",
        f"{simulation['end_point_energies_kj_per_mol']['lambda_0']:.4f}",
    ):
        assert number in page
    assert page.count("data:image/png;base64,") == 2
    assert (demo / "energy_and_temperature.png").stat().st_size > 10_000


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_explain_themselves(script):
    """With defaults that lie where scripts/demo.sh puts them."""
    text = run(sys.executable, ROOT / "examples" / script, "--help")
    assert "usage:" in text and re.search(r"runs/demo", text)
