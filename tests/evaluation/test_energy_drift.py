"""Drift of the total energy: known slopes, noise, and the error estimate."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkmp_plugin.evaluation import nve_drift, shadow_energy

TIME = np.arange(0.0, 20.0, 0.01)  # ps


@given(
    slope=st.floats(-1e3, 1e3),
    offset=st.floats(-1e6, 1e6),
    atoms=st.integers(1, 5000),
    blocks=st.integers(3, 40),
)
def test_a_straight_line_gives_its_slope(slope, offset, atoms, blocks):
    drift = nve_drift(TIME, offset + slope * atoms * TIME / 1000.0, atoms, blocks)
    tolerance = 1e-6 * (abs(slope) + 1) + 1e-9 * abs(offset)
    assert drift.drift == pytest.approx(slope, abs=tolerance)
    assert drift.drift_error <= tolerance
    assert drift.duration == pytest.approx(19.99)


def test_the_error_covers_correlated_noise():
    """Noise that is correlated over 0.2 ps: in most trajectories the true slope lies within two errors."""
    generator = np.random.default_rng(0)
    kernel = np.exp(-np.arange(100) / 20.0)
    covered = 0
    for _ in range(200):
        noise = np.convolve(generator.normal(size=len(TIME) + 99), kernel, mode="valid")
        drift = nve_drift(TIME, 3.0 * 10 * TIME / 1000.0 + noise, num_atoms=10)
        covered += abs(drift.drift - 3.0) < 2.3 * drift.drift_error  # Student's t, 8 degrees of freedom: 95 %
        assert drift.fluctuation == pytest.approx(noise.std() / 10, rel=0.2)
    assert 180 <= covered <= 199


def test_bad_input():
    with pytest.raises(ValueError, match="run longer"):
        nve_drift(TIME[:10], TIME[:10], 5)
    with pytest.raises(ValueError, match="two equal rows"):
        nve_drift(TIME, TIME[1:], 5)
    with pytest.raises(ValueError, match="blew up"):
        nve_drift(TIME, np.full_like(TIME, np.nan), 5)


def verlet_energies(time_step):
    """Total and shadow energy of a pendulum (unit mass and length) under velocity Verlet, at every step."""
    angle, velocity = 1.0, 0.5
    potentials, kinetics, kicks = [], [], []
    for _ in range(round(30.0 / time_step)):
        force = -np.sin(angle)
        potentials.append(-np.cos(angle))
        kinetics.append(0.5 * velocity**2)
        kicks.append(0.5 * (time_step * force) ** 2)
        half = velocity + 0.5 * time_step * force
        angle = angle + time_step * half
        velocity = half - 0.5 * time_step * np.sin(angle)
    total = np.add(potentials, kinetics)[1:-1]
    around = zip(potentials[:-2], potentials[1:-1], potentials[2:], strict=True)
    shadow = [shadow_energy(*row) for row in zip(total, around, kicks[1:-1], strict=True)]
    return total, np.array(shadow)


def test_shadow_energy_is_conserved_to_fourth_order():
    """Half the step: a quarter of the total energy's swings, a sixteenth of the shadow energy's."""
    (total, shadow), (finer_total, finer_shadow) = verlet_energies(0.2), verlet_energies(0.1)
    assert np.ptp(total) / np.ptp(finer_total) == pytest.approx(4.0, rel=0.1)
    assert np.ptp(shadow) / np.ptp(finer_shadow) == pytest.approx(16.0, rel=0.1)
    assert np.ptp(shadow) < 0.02 * np.ptp(total)
