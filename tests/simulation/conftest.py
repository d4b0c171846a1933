"""A model file with known weights, and molecules to run it on."""

from typing import Any, Callable, Dict, Set

import pytest
import torch

from dkmp_plugin.simulation.export import export_model
from tests.conftest import hyper_parameters
from tests.p_xylene import p_xylene_files
from tests.strong_potential import strong_potential

__all__ = ["p_xylene_files"]

DATASET = {
    "energy_unit": "kcal/mol",
    "level_of_theory": "none (random weights)",
    "total_charge": 0,
    "reference_energies": {"1": -0.5, "6": -38.0, "7": -54.0, "8": -75.0},
}


def write_checkpoint(path, trained_elements=(1, 6, 7, 8), dataset=DATASET, **changes: Any) -> Dict[str, Any]:
    """Write what torchmd-train writes, with seeded random weights; returns the hyper-parameters."""
    torch.manual_seed(11)
    settings = hyper_parameters(**{"precision": 32, **changes})
    model = strong_potential(settings)
    model.representation_model.trained_elements[list(trained_elements)] = True
    state = {"model." + name: value for name, value in model.state_dict().items()}
    contents = {"hyper_parameters": settings, "state_dict": state, "dkmp_plugin": {"dataset": dataset}}
    torch.save(contents, path)
    return settings


def executed_operators(call: Callable[[], Any]) -> Set[str]:
    """Names of the operators that a call executes once TorchScript has compiled what it watched."""
    for _ in range(3):
        call()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call()
    return {event.key for event in profile.key_averages()}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "model.ckpt"
    write_checkpoint(path)
    return path


@pytest.fixture(scope="session")
def model_path(checkpoint):
    """Exported model in float64: comparisons across platforms see rounding of the platform only."""
    path = checkpoint.with_name("model.pt")
    export_model(checkpoint, path, dtype="float64")
    return path
