"""The benchmark of OpenMM runs and prints what it measured (never a timed test: no number is judged)."""

import json
import subprocess
import sys

from tests.conftest import ROOT


def run(*arguments):
    script = [sys.executable, str(ROOT / "scripts" / "benchmark_openmm.py"), "--platform", "Reference"]
    done = subprocess.run([*script, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_ligand_alone(tmp_path):
    output = tmp_path / "numbers.json"
    text = run("--tables", "ligand", "start", "--repeats", 5, "--output", output)
    numbers = json.loads(output.read_text())
    assert set(numbers["ligand"]) == {"bare module, energy and forces", "OpenMM, energy and forces"}
    assert set(numbers["start"]) == {"createSystem", "Context", "the first ten steps"}
    assert all(value > 0 for table in numbers.values() for values in table.values() for value in values)
    assert "OpenMM's overhead per evaluation, 18 atoms" in text


def test_without_the_latest_stack_or_the_tensornet(tmp_path):
    text = run(
        *("--tables", "tensornet", "--tensornet", tmp_path / "none.ckpt"),
        *("--latest-python", tmp_path / "none"),
    )
    assert f"{tmp_path / 'none'}" in text and "TensorNet: " in text
