"""Files of earlier formats still load and give the energies and forces they gave then."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dkmp_plugin.simulation.model_file import FORMAT_VERSION, load_model_file, read_model_info

FIXTURES = Path(__file__).parent / "fixtures"
FILES = sorted(FIXTURES.glob("format_*.pt"))


def test_there_is_a_fixture_of_every_format():
    assert [read_model_info(path).format_version for path in FILES] == list(range(1, FORMAT_VERSION + 1))
    assert all(path.stat().st_size < 200_000 for path in FILES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("structure", ["molecule", "crystal"])
def test_recorded_energies_and_forces(path, structure):
    model, info = load_model_file(path)
    assert info.elements == [1, 6, 8] and info.energy_unit == "kcal/mol"
    recorded = json.loads(path.with_suffix(".json").read_text())
    expected = recorded[structure]
    pos = torch.tensor(recorded["positions"], dtype=torch.float32, requires_grad=True)
    box = None if expected["box"] is None else torch.tensor(expected["box"], dtype=torch.float32)
    energy = model(torch.tensor(recorded["numbers"]), pos, box)
    (gradient,) = torch.autograd.grad(energy, pos)
    assert energy.item() == pytest.approx(expected["energy"], abs=1e-5)
    forces = np.array(expected["forces"])
    assert np.abs(forces).max() > 0.1
    np.testing.assert_allclose(-gradient.numpy(), forces, atol=1e-5)
