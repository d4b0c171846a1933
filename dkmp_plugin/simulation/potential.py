"""``MLPotential("dkmp")``: DKMP^C models in openmm-ml (entry point ``openmmml.potentials``).

The classes are resolved on first use: openmm-ml asks for the factory while it is still being imported, and
they need it. Whichever of the two is imported first, the other one then finds what it wants.
"""

from typing import Any

from dkmp_plugin.simulation.bundled_model import BUNDLED_MODEL

_CLASSES = ("DKMPPotentialImpl", "DKMPPotentialImplFactory")
__all__ = ["BUNDLED_MODEL", *_CLASSES]


def __getattr__(name: str) -> Any:
    if name not in _CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # First openmm-ml, which comes back here for the factory; its base classes are there by then.
    import openmmml  # noqa: F401

    from dkmp_plugin.simulation import openmm_ml

    return getattr(openmm_ml, name)
