"""What OpenMM's PythonForce calls: DKMP^C on stacks on which TorchForce cannot run."""

import math
import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Dict, Optional, Tuple, Union

import numpy as np
import torch
from torch import Tensor

import dkmp_plugin.ops  # noqa: F401  (registers the operators, also when OpenMM unpickles this in a fresh process)
from dkmp_plugin.device import available_device, resolve_device
from dkmp_plugin.simulation import torchscript
from dkmp_plugin.simulation.cuda_graph import CapturedGradient, energy_and_gradient


class PythonForceComputation:
    """Energy and forces of a scripted ``OpenMMEnergy``, called by OpenMM with a State at every step.

    OpenMM pickles this object when the System is serialised or copied. The module travels as TorchScript with
    its weights on the CPU, together with the device that was asked for: a System that was saved on a machine
    with a GPU runs on one without, and the other way round.

    Args:
        module: Scripted ``OpenMMEnergy`` of all particles that the State carries.
        periodic: Whether the State carries box vectors.
        device: As of :func:`dkmp_plugin.device.resolve_device`.
        cuda_graphs: Whether, on a GPU, the computation becomes a CUDA graph; only for modules whose shapes
            are fixed (``force_module.fix_shapes``).

    Attributes:
        module: The frozen module, on its device.
        device: The device in use.

    Raises:
        ValueError: The device is unknown or not there, or is the CPU and CUDA graphs are asked for.
    """

    def __init__(
        self,
        module: torch.jit.ScriptModule,
        periodic: bool,
        device: Union[str, torch.device, None] = None,
        cuda_graphs: bool = False,
    ) -> None:
        chosen = resolve_device(device)
        if cuda_graphs and chosen.type != "cuda":
            asked = "there is no GPU for it" if device is None else f"with device='{device}'"
            raise ValueError(
                f"useCUDAGraphs: True was given, but the model runs on the CPU ({asked}); leave it out, or "
                "give device='cuda'"
            )
        asked_for = None if device is None else str(device)
        self._start(torchscript.to_bytes(module), periodic, asked_for, cuda_graphs, chosen)

    def _start(
        self, saved: bytes, periodic: bool, asked: Optional[str], cuda_graphs: bool, device: torch.device
    ) -> None:
        self._saved, self._asked = saved, asked
        self.periodic, self.cuda_graphs, self.device = periodic, cuda_graphs, device
        # Freezing computes once what depends on the weights alone, the radial filters of every layer, and
        # binds all to the device: the module must be there before.
        module = torchscript.from_bytes(saved, device)
        # Contexts of one System share this object, and may run in threads: a neighbour list and the memory of
        # a CUDA graph are for one of them at a time.
        reuses = any(getattr(part, "original_name", "") == "NeighborList" for part in module.modules())
        self._turn: AbstractContextManager = threading.Lock() if reuses or cuda_graphs else nullcontext()
        # What an earlier version pickled is frozen already, which takes this attribute away.
        self.module = torchscript.freeze(module) if hasattr(module, "training") else module
        self._captured: Optional[CapturedGradient] = None

    def __call__(self, state: Any) -> Tuple[float, np.ndarray]:
        """Energy in kJ/mol and forces (N, 3) in kJ/mol/nm of an ``openmm.State``.

        Raises:
            RuntimeError: The energy is NaN. On a GPU nothing else tells that positions are, or that the
                periodic box has shrunk below what the fixed shapes of a molecule allow.
        """
        from openmm import unit

        positions = torch.from_numpy(state.getPositions(asNumpy=True).value_in_unit(unit.nanometer))
        box = None
        if self.periodic:
            box = torch.from_numpy(state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer))
        with self._turn:
            energy, gradient = self._evaluate(positions, box)
            value, forces = energy.item(), -gradient.cpu().numpy()
        if math.isnan(value):
            raise RuntimeError(
                "the model's energy is NaN: positions are NaN or infinite, or the periodic box has become "
                "narrower than twice the model's cutoff; use a shorter time step, or a larger box"
            )
        return value, forces

    def _evaluate(self, positions: Tensor, box: Optional[Tensor]) -> Tuple[Tensor, Tensor]:
        if not (self.cuda_graphs and self.device.type == "cuda"):
            there = None if box is None else box.to(self.device)
            return energy_and_gradient(self.module, positions.to(self.device), there)
        if self._captured is None:
            self._captured = CapturedGradient(self.module, positions, box, self.device)
        return self._captured(positions, box)

    def __getstate__(self) -> Dict[str, Any]:
        return {
            "saved": self._saved,
            "periodic": self.periodic,
            "device": self._asked,
            "cuda_graphs": self.cuda_graphs,
        }

    def __setstate__(self, state: Dict[str, Any]) -> None:
        if "saved" in state:
            device = available_device(state["device"])
            self._start(state["saved"], state["periodic"], state["device"], state["cuda_graphs"], device)
            return
        # Written before models ran on GPUs: frozen, and so bound to the CPU.
        self._start(state["module"], state["periodic"], "cpu", False, torch.device("cpu"))
