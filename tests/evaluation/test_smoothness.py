"""Scans along a line: exact derivatives, and jumps where there are some, only there."""

import numpy as np
import pytest
import torch

from dkmp_plugin.evaluation.smoothness import LineScan, Scan, count_minima, largest_jumps, smoothness
from tests.conftest import hyper_parameters
from tests.strong_potential import strong_potential

GRID = np.linspace(0.0, 2.0, 41)


@pytest.mark.parametrize("place", [0.123456, 0.5, 1.987])
@pytest.mark.parametrize("height", [-3.0, 1e-3, 0.0])
def test_a_jump_is_measured(place, height):
    """In the energy, the force and its slope in turn."""
    # A small jump of the slope would hide among its ordinary changes.
    for column in range(2 if height == 1e-3 else 3):

        def function(x, column=column):
            smooth = [np.sin(3 * x) + 5 * x, -3 * np.cos(3 * x) - 5, 9 * np.sin(3 * x)]
            smooth[column] += height if x >= place else 0.0
            return np.array(smooth)

        scan = Scan(GRID, *np.array([function(x) for x in GRID]).T)
        expected = np.zeros(3)
        expected[column] = abs(height)
        np.testing.assert_allclose(largest_jumps(function, scan), expected, atol=2e-5 * abs(height) + 1e-8)


def test_a_kink_is_a_jump_of_the_slope_only():
    def energy(positions):
        x = positions[1, 0] - positions[0, 0]
        return 3 * (x - 1.2).abs() + x**3

    line = LineScan(energy, np.zeros((2, 3)), [1], np.array([2.0, 0.0, 0.0]))
    scan = line.run(GRID)
    np.testing.assert_allclose(scan.force[:20], 3 - 3 * GRID[:20] ** 2)
    np.testing.assert_allclose(scan.force_slope[:20], -6 * GRID[:20])
    found = smoothness(line, scan, prominence=0.1)
    assert found.energy_jump < 1e-6
    assert found.force_jump == pytest.approx(6.0, abs=1e-5)
    assert found.minima == 1  # at x = 1


def test_inconsistent_forces_are_seen():
    """Energy x^4 with a detached part: its force lacks what was detached."""
    line = LineScan(lambda p: p[1, 0] ** 4 + p[1, 0].detach(), np.zeros((2, 3)), [1], np.array([1.0, 0, 0]))
    assert smoothness(line, line.run(GRID), 0.1).inconsistency == pytest.approx(0.05)
    line = LineScan(lambda p: p[1, 0] ** 4, np.zeros((2, 3)), [1], np.array([1.0, 0, 0]))
    assert smoothness(line, line.run(GRID), 0.1).inconsistency < 1e-12


def test_minima_are_counted():
    x = np.linspace(0, 4 * np.pi, 200)
    assert count_minima(np.cos(x), prominence=0.1) == 2
    assert count_minima(0.01 * np.cos(x) + 0.001 * x, prominence=0.1) == 0
    assert count_minima(x**2, prominence=0.1) == 0


@pytest.mark.parametrize("unknown", [np.nan, np.inf])
def test_minima_are_not_counted_across_what_is_unknown(unknown):
    """Where a calculation does not converge: the energies on both sides are no neighbours."""
    falls_and_rises = np.concatenate([np.linspace(3, 0, 10), [unknown], np.linspace(1, 4, 10)])
    assert count_minima(falls_and_rises, prominence=0.1) == 0
    x = np.linspace(0, 4 * np.pi, 200)
    energy = np.cos(x)
    energy[95:105] = unknown  # around a maximum
    assert count_minima(energy, prominence=0.1) == 2
    assert count_minima(np.full(5, unknown), prominence=0.1) == 0


@pytest.mark.parametrize(("overlap", "smooth"), [(0.8, True), (0.0, False)])
def test_only_smooth_shells_are_smooth(overlap, smooth):
    """An atom passes every border and the cutoff (6 Å): no jump of energy, force or its slope."""
    torch.manual_seed(0)
    model = strong_potential(hyper_parameters(shell_overlap=overlap, derivative=False)).eval()
    z = torch.tensor([6, 8, 1])
    positions = np.array([[0.0, 0, 0], [0.7, 0.9, 0.2], [0.0, 0, 0]])
    line = LineScan(
        lambda p: model(z, p, torch.zeros_like(z))[0].sum(), positions, [2], np.array([1.0, 0, 0])
    )
    found = smoothness(line, line.run(np.arange(1.0, 7.5, 0.025)), prominence=1e-3)
    jumps = np.array([found.energy_jump, found.force_jump, found.force_slope_jump])
    if smooth:
        assert jumps.max() < 1e-5
        assert found.inconsistency < 1e-5
    else:
        assert jumps.min() > 1e-4
        assert found.inconsistency > 1e-4
