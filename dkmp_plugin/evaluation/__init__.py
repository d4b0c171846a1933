"""How good is a model: errors, dynamics, pictures, reports.

The names of the public functions are resolved on first use: a metric needs neither OpenMM nor matplotlib.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "average_mse": "trajectory_metrics",
    "final_mse": "trajectory_metrics",
    "js_tic": "trajectory_metrics",
    "next_mse": "trajectory_metrics",
    "nve_drift": "energy_drift",
    "shadow_energy": "energy_drift",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
