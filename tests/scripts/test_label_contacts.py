"""Close contacts: the pair that is pulled comes closer, the labels belong to the structures."""

import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT, shared_data


def test_one_pair_is_pulled_and_labelled(tmp_path):
    folder = shared_data() / "chignolin"
    if not (folder / "gfn2_traj2.npz").is_file():
        pytest.skip(f"{folder} is absent; set DKMP_DATA to the folder of the shared data sets")
    output = tmp_path / "contacts.npz"
    command = [sys.executable, str(ROOT / "scripts/label_contacts.py"), "--data", str(folder)]
    done = subprocess.run(
        [*command, "--pairs", "1", "--output", str(output)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    with np.load(output) as contacts:
        z, positions, energies, forces = (contacts[name] for name in ("z", "R", "E", "F"))
    assert positions.shape == forces.shape == (5, 166, 3) and energies.shape == (5,)
    distances = np.linalg.norm(positions[:, :, None] - positions[:, None], axis=-1)
    near = (z[:, None] == 1) & (z > 1) & (np.abs(distances[4] - 1.7) < 0.1)
    changes = (distances - distances[:1])[:, near]
    pulled = changes[4].argmin()  # all other distances between atoms stay nearly the same
    np.testing.assert_allclose(distances[:, near][:, pulled], [2.1, 2.0, 1.9, 1.8, 1.7], atol=0.08)
    # Labels: forces along the path are the slope of the energies, and the contact pushes back.
    steps, middles = np.diff(positions, axis=0), 0.5 * (forces[1:] + forces[:-1])
    np.testing.assert_allclose(np.diff(energies), -(steps * middles).sum((1, 2)), rtol=0.1, atol=0.1)
    assert energies[4] > energies[0] + 1.0
