"""The bundled model against labels made on the spot: it is what its page says it is."""

import numpy as np
import openmm
import pytest
from openmm import unit

from dkmp_plugin.evaluation.metrics import energy_force_errors, trivial_baseline
from dkmp_plugin.labeling.gfn2 import label_conformations
from dkmp_plugin.labeling.sampling import sample_langevin
from tests.conftest import ROOT

BUNDLED_MODEL = ROOT / "dkmp_plugin/simulation/bundled/p_xylene.pt"
KJ_PER_KCAL = 4.184


def test_file_and_page_are_small_and_free_of_paths():
    assert BUNDLED_MODEL.stat().st_size < 3e6
    assert b"/site-packages/" not in BUNDLED_MODEL.read_bytes()
    page = BUNDLED_MODEL.with_name("README.md").read_text()
    assert "GFN2-xTB" in page and "| all held-out runs |" in page


def test_compressed_molecules_have_finite_forces(p_xylene, p_xylene_topology):
    # What a minimiser's first step can make of a molecule: NaN would end the minimisation.
    from openmmml import MLPotential

    _, _, positions = p_xylene
    ml_system = MLPotential("dkmp").createSystem(p_xylene_topology, removeCMMotion=False)
    context = openmm.Context(
        ml_system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    for scale in (0.7, 0.5, 0.3, 0.1):
        context.setPositions(scale * np.asarray(positions) * unit.angstrom)
        state = context.getState(getEnergy=True, getForces=True)
        assert np.isfinite(state.getPotentialEnergy()._value)
        assert np.isfinite(state.getForces(asNumpy=True)._value).all()


def test_forces_agree_with_gfn2_at_room_temperature(p_xylene, p_xylene_topology):
    from openmmml import MLPotential

    system, numbers, positions = p_xylene
    frames = sample_langevin(system, positions, temperature=300.0, num_frames=20, seed=12345)
    energies, forces = label_conformations(numbers, frames)
    ml_system = MLPotential("dkmp").createSystem(p_xylene_topology, removeCMMotion=False)
    context = openmm.Context(
        ml_system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    predicted_energies, predicted_forces = [], []
    for frame in frames:
        context.setPositions(frame * unit.angstrom)
        state = context.getState(getEnergy=True, getForces=True)
        energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        force = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.angstrom)
        predicted_energies.append(energy / KJ_PER_KCAL)
        predicted_forces.append(force / KJ_PER_KCAL)
    # The model's zero of energy is its own: compare differences to the mean.
    errors = energy_force_errors(
        np.array(predicted_energies) - np.mean(predicted_energies),
        np.array(predicted_forces),
        energies - energies.mean(),
        forces,
    )
    baseline = trivial_baseline(np.zeros(1), energies - energies.mean(), forces)
    assert errors.force_mae < 0.3
    assert baseline.force_mae == pytest.approx(14, abs=3)
    assert errors.energy_mae < 0.3 < baseline.energy_mae
