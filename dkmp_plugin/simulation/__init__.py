"""From a trained checkpoint to a running simulation: export, OpenMM, ASE.

The names are resolved on first use: openmm-ml imports ``dkmp_plugin.simulation.potential`` whenever it is
imported itself, and that must stay light.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "DKMPCalculator": "ase_calculator",
    "DKMPPropagator": "propagator",
    "ModelInfo": "model_file",
    "export_model": "export",
    "export_propagator": "propagator_file",
    "load_propagator": "propagator_file",
    "load_model_file": "model_file",
    "load_system": "system_file",
    "read_model_info": "model_file",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
