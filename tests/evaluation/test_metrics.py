import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from dkmp_plugin.evaluation.dynamics import internal_rmsd, temperature
from dkmp_plugin.evaluation.metrics import energy_force_errors, trivial_baseline


def test_errors_by_hand():
    energies, forces = np.array([1.0, 2.0]), np.zeros((2, 1, 3))
    predicted_forces = np.array([[[3.0, 0.0, 0.0]], [[0.0, 0.0, -3.0]]])
    errors = energy_force_errors(np.array([2.0, 5.0]), predicted_forces, energies, forces)
    assert errors.energy_mae == pytest.approx(2.0)
    assert errors.energy_rmse == pytest.approx(np.sqrt(5.0))
    assert errors.force_mae == pytest.approx(1.0)
    assert errors.force_rmse == pytest.approx(np.sqrt(3.0))
    assert errors.conformations == 2


def test_baseline_predicts_the_mean_training_energy_and_no_force():
    forces = np.full((2, 2, 3), -4.0)
    baseline = trivial_baseline(np.array([0.0, 10.0]), np.array([5.0, 7.0]), forces)
    assert baseline.energy_mae == pytest.approx(1.0)
    assert baseline.force_mae == pytest.approx(4.0)
    # The mean of whole numbers is none.
    whole = trivial_baseline(np.array([1, 2]), np.array([1, 2]), forces)
    assert (whole.energy_mae, whole.energy_rmse) == (0.5, 0.5)
    with pytest.raises(ValueError, match="no training energies"):
        trivial_baseline(np.zeros(0), np.array([5.0, 7.0]), forces)


def test_shapes_that_differ_and_broken_predictions_are_refused():
    energies, forces = np.zeros(2), np.zeros((2, 3, 3))
    with pytest.raises(ValueError, match=r"shape \(1,\)"):
        energy_force_errors(np.zeros(1), forces, energies, forces)
    with pytest.raises(ValueError, match="NaN or infinity"):
        energy_force_errors(np.array([0.0, np.nan]), forces, energies, forces)
    with pytest.raises(ValueError, match="at least one"):
        energy_force_errors(energies[:0], forces[:0], energies[:0], forces[:0])


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**31))
def test_rmsd_ignores_rotation_and_translation(seed):
    generator = np.random.default_rng(seed)
    positions = generator.standard_normal((10, 3))
    noise = 0.1 * generator.standard_normal((10, 3))
    moved = Rotation.random(rng=generator).apply(positions + noise) + generator.standard_normal(3)
    assert internal_rmsd(moved, positions) == pytest.approx(internal_rmsd(positions + noise, positions))
    assert internal_rmsd(moved, positions) <= np.sqrt(np.square(noise).sum(axis=1).mean()) + 1e-12


def test_temperature_of_maxwell_boltzmann_velocities():
    """Against OpenMM's own velocities for 300 K."""
    import openmm
    from openmm import unit

    masses = np.tile([1.008, 12.011, 15.999], 2000)
    system = openmm.System()
    for mass in masses:
        system.addParticle(mass)
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(np.zeros((len(masses), 3)))
    context.setVelocitiesToTemperature(300 * unit.kelvin, 1)
    velocities = context.getState(getVelocities=True).getVelocities(asNumpy=True)
    assert temperature(velocities.value_in_unit(unit.nanometer / unit.picosecond), masses) == pytest.approx(
        300, rel=0.03
    )
