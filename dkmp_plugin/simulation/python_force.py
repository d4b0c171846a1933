"""The computation behind OpenMM's PythonForce, for stacks on which TorchForce cannot run."""

import io
from typing import Any, Dict, Tuple

import numpy as np
import torch

import dkmp_plugin.ops  # noqa: F401  (registers the operators, also when OpenMM unpickles this in a fresh process)
from dkmp_plugin.simulation import torchscript


class PythonForceComputation:
    """Energy and forces of a scripted ``OpenMMEnergy``, called by OpenMM with a State at every step.

    OpenMM pickles this object when the System is serialised: the module travels as TorchScript.

    Args:
        module: Scripted ``OpenMMEnergy`` of all particles that the State carries.
        periodic: Whether the State carries box vectors.
    """

    def __init__(self, module: torch.jit.ScriptModule, periodic: bool) -> None:
        # Freezing computes once what depends on the weights alone: the radial filters of every layer.
        self.module = torchscript.freeze(module)
        self.periodic = periodic

    def __call__(self, state: Any) -> Tuple[float, np.ndarray]:
        """Energy in kJ/mol and forces (N, 3) in kJ/mol/nm of an ``openmm.State``."""
        from openmm import unit

        positions = torch.from_numpy(state.getPositions(asNumpy=True).value_in_unit(unit.nanometer))
        positions = positions.clone().requires_grad_(True)
        box = None
        if self.periodic:
            box = torch.from_numpy(state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer))
        energy = self.module(positions, box)
        (gradient,) = torch.autograd.grad(energy, positions)
        return energy.item(), -gradient.numpy()

    def __getstate__(self) -> Dict[str, Any]:
        buffer = io.BytesIO()
        torchscript.save(self.module, buffer)
        return {"module": buffer.getvalue(), "periodic": self.periodic}

    def __setstate__(self, state: Dict[str, Any]) -> None:
        self.module = torchscript.load(io.BytesIO(state["module"]))
        self.periodic = state["periodic"]
