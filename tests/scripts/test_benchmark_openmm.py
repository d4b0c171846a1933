"""The benchmark of OpenMM runs and prints what it measured (never a timed test: no number is judged)."""

import json
import subprocess
import sys

from tests.conftest import ROOT


def test_ligand_alone(tmp_path):
    script = [sys.executable, str(ROOT / "scripts" / "benchmark_openmm.py"), "--platform", "Reference"]
    output = tmp_path / "numbers.json"
    done = subprocess.run(
        [*script, "--repeats", "5", "--complex-repeats", "0", "--output", str(output)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    numbers = json.loads(output.read_text())
    assert set(numbers) == {"bare module, energy and forces", "OpenMM, energy and forces"}
    assert all(value > 0 for values in numbers.values() for value in values)
    assert "OpenMM's overhead per evaluation, 18 atoms" in done.stdout
