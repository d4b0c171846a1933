import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dkmp_plugin.labeling.sampling import sample_langevin, strain


def bond_lengths(frames: np.ndarray, numbers) -> np.ndarray:
    """Distance of each hydrogen to its nearest carbon, (M, hydrogens), in Å."""
    numbers = np.array(numbers)
    distance = np.linalg.norm(frames[:, :, None] - frames[:, None], axis=-1)
    return distance[:, numbers == 1][:, :, numbers == 6].min(axis=2)


@pytest.mark.parametrize("seed", [0, 1])
def test_runs_repeat_with_their_seed_and_differ_with_another(p_xylene, seed):
    system, _, positions = p_xylene
    options = {
        "temperature": 300.0,
        "num_frames": 3,
        "steps_between_frames": 20,
        "equilibration_steps": 20,
    }
    first = sample_langevin(system, positions, seed=seed, **options)
    again = sample_langevin(system, positions, seed=seed, **options)
    other = sample_langevin(system, positions, seed=seed + 1, **options)
    assert first.shape == (3, 18, 3)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


def test_hotter_runs_stretch_bonds_more(p_xylene):
    system, numbers, positions = p_xylene
    spread = [
        bond_lengths(
            sample_langevin(
                system, positions, temperature=temperature, num_frames=40, seed=3, steps_between_frames=50
            ),
            numbers,
        ).std()
        for temperature in (100.0, 900.0)
    ]
    # Harmonic bonds: the spread grows with the square root of the temperature, here by 3.
    assert 2.0 < spread[1] / spread[0] < 4.5


def test_constraints_are_refused(p_xylene):
    import openmm

    system = openmm.System()
    for _ in range(2):
        system.addParticle(1.0)
    system.addConstraint(0, 1, 0.1)
    with pytest.raises(ValueError, match="constraints=None"):
        sample_langevin(system, np.zeros((2, 3)), temperature=300.0, num_frames=1, seed=1)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), scaling=st.floats(0.0, 0.2))
def test_scaling_stays_within_its_bounds(seed, scaling):
    generator = np.random.default_rng(seed)
    frames = generator.standard_normal((4, 7, 3))
    strained = strain(frames, generator, max_scaling=scaling, max_displacement=0.0)
    before = np.linalg.norm(frames[:, :, None] - frames[:, None], axis=-1)
    after = np.linalg.norm(strained[:, :, None] - strained[:, None], axis=-1)
    assert (after <= before * (1 + scaling) + 1e-9).all()
    assert (after >= before * (1 - scaling) - 1e-9).all()
    np.testing.assert_allclose(strained.mean(axis=1), 0.0, atol=1e-12)


def test_displacement_is_random_per_atom():
    frames = np.zeros((200, 5, 3))
    strained = strain(frames, np.random.default_rng(0), max_scaling=0.0, max_displacement=0.1)
    width = strained.std(axis=(1, 2))
    assert width.max() < 0.2 and width.std() > 0.01
