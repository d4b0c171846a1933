"""Drift of the total energy: known slopes, noise, and the error estimate."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkmp_plugin.evaluation import nve_drift

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
