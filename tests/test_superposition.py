"""Rigid superposition against SciPy, and what it must not do."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dkmp_plugin import superposition
from dkmp_plugin.superposition import remove_drift, superpose


@pytest.fixture
def frames():
    """Seven frames of six atoms that tumble, drift and change, the last one a mirror image."""
    generator = np.random.default_rng(3)
    start = 3.0 * generator.standard_normal((6, 3))
    moved = start + 0.3 * generator.standard_normal((7, 6, 3))
    moved[6] = -moved[6]
    turned = [turn.apply(frame) for turn, frame in zip(Rotation.random(7, rng=generator), moved, strict=True)]
    return np.array(turned) + 10.0 * generator.standard_normal((7, 1, 3))


def by_scipy(frame, reference, fitted):
    """``frame`` moved as ``fitted`` is onto the reference."""
    rotation, _ = Rotation.align_vectors(reference - reference.mean(0), fitted - fitted.mean(0))
    return rotation.apply(frame - fitted.mean(0)) + reference.mean(0)


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_as_scipy_superposes(frames, monkeypatch, chunk):
    monkeypatch.setattr(superposition, "_CHUNK_FRAMES", chunk)
    reference = frames[1]
    each = [by_scipy(frame, reference, frame) for frame in frames]
    np.testing.assert_allclose(superpose(frames, reference), each, atol=1e-12)
    together = [by_scipy(frame, reference, frames[0]) for frame in frames]
    np.testing.assert_allclose(superpose(frames, reference, each_frame=False), together, atol=1e-12)
    single = superpose(frames.astype(np.float32), reference.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, each, atol=2e-5)


def test_removing_drift_follows_the_path(frames):
    moved = remove_drift(frames)
    expected = [frames[0]]
    for frame in frames[1:]:
        expected.append(by_scipy(frame, expected[-1], frame))
    np.testing.assert_allclose(moved, expected, atol=1e-11)


@pytest.mark.parametrize("num_atoms", [1, 2, 3])
def test_few_atoms_stay_finite_and_rigid(frames, num_atoms):
    """One atom, a line and a plane leave rotations open."""
    few = frames[:, :num_atoms]
    moved = superpose(few, few[0])
    np.testing.assert_allclose(moved.mean(axis=1), np.tile(few[0].mean(axis=0), (7, 1)), atol=1e-12)
    lengths = np.linalg.norm(few[:, :1] - few, axis=2)
    np.testing.assert_allclose(np.linalg.norm(moved[:, :1] - moved, axis=2), lengths, atol=1e-12)
    np.testing.assert_allclose(moved[0], few[0], atol=1e-12)
