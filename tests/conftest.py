"""Shared fixtures: where the shared data lies, a small molecule, torchmd-net hyper-parameters."""

import os
import platform
import random
from pathlib import Path
from typing import Any, Dict, Tuple

import hypothesis
import numpy as np
import pytest
import torch
from _pytest.junitxml import xml_key

ROOT = Path(__file__).resolve().parent.parent
# Many small tensors: one thread is faster, and the two cores are shared with subprocesses.
torch.set_num_threads(1)
# The same examples in every run: what fails here fails elsewhere. To search for new ones:
# pytest --hypothesis-profile=default
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """The same random numbers whichever tests ran before; a hook, because module fixtures draw too."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_sessionstart(session: pytest.Session) -> None:
    """For scripts/version_table.py: what ``--junitxml`` results were obtained with.

    Not ``record_testsuite_property``: that writes nothing where pytest-xdist shares out the tests.
    """
    from dkmp_plugin.simulation.stack import installed_stack

    results = session.config.stash.get(xml_key, None)
    if results is None:
        return
    stack = installed_stack()
    versions = {"python": platform.python_version(), **stack.versions, "backend": stack.backend}
    for name, version in versions.items():
        results.add_global_property(name, version or "–")


def shared_data() -> Path:
    """Folder of the shared data sets: ``DKMP_DATA``, or ``../shared/data`` beside the repository."""
    return Path(os.environ.get("DKMP_DATA") or ROOT.parent / "shared" / "data")


def hyper_parameters(**changes: Any) -> Dict[str, Any]:
    """torchmd-net hyper-parameters of a small ``dkmp-c``."""
    values: Dict[str, Any] = {
        "model": "dkmp-c",
        "embedding_dimension": 16,
        "num_layers": 3,
        "revision": 6,
        "num_rbf": 8,
        "rbf_type": "expnorm",
        "trainable_rbf": False,
        "activation": "silu",
        "cutoff_lower": 0.0,
        "cutoff_upper": 6.0,
        "max_z": 20,
        "max_num_neighbors": 0,
        "num_heads": 4,
        "derivative": True,
        "atom_filter": -1,
        "prior_model": None,
        "output_model": "Scalar",
        "reduce_op": "add",
        "precision": 64,
    }
    values.update(changes)
    return values


def ethanol() -> Tuple[torch.Tensor, torch.Tensor]:
    """Atomic numbers (9,) and positions (9, 3) in Å of ethanol, distorted, in float64."""
    z = torch.tensor([6, 6, 8, 1, 1, 1, 1, 1, 1])
    pos = torch.tensor(
        [
            [-0.89, -0.35, 0.02],
            [0.47, 0.33, -0.05],
            [1.45, -0.66, 0.10],
            [-1.02, -0.85, 0.98],
            [-1.69, 0.38, -0.11],
            [-0.99, -1.10, -0.77],
            [0.61, 0.86, -1.00],
            [0.55, 1.07, 0.75],
            [2.30, -0.24, 0.05],
        ],
        dtype=torch.float64,
    )
    return z, pos


@pytest.fixture
def molecule() -> Tuple[torch.Tensor, torch.Tensor]:
    """See :func:`ethanol`."""
    return ethanol()
