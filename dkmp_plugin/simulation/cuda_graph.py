"""Energy and gradient of a module, directly or as a CUDA graph that is captured once and replayed."""

from typing import Any, Callable, Optional, Tuple

import torch
from torch import Tensor

# TorchScript's profiling executor compiles anew in the first calls; openmm-torch takes as many.
_WARM_UP_CALLS = 10


def energy_and_gradient(module: Any, positions: Tensor, box: Optional[Tensor]) -> Tuple[Tensor, Tensor]:
    """Energy () and its derivative (N, 3) with respect to the positions.

    Args:
        module: ``(positions, box) -> energy``.
        positions: (N, 3), on the module's device.
        box: (3, 3), or None.
    """
    # The leaf shares its memory with positions: a captured graph reads whatever is written there later.
    leaf = positions.detach().requires_grad_(True)
    energy = module(leaf, box)
    (gradient,) = torch.autograd.grad(energy, leaf)
    return energy.detach(), gradient


def capture(function: Callable[[], Any], device: torch.device) -> Tuple[torch.cuda.CUDAGraph, Any]:
    """A CUDA graph of what a function does on a GPU, warmed up, and the result that a replay overwrites.

    Args:
        function: Keeps shapes and memory from call to call, and reads its inputs where they lie.
        device: The GPU.
    """
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP_CALLS):
                function()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # What other threads do meanwhile, such as OpenMM's, is of no concern to this capture.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            result = function()
    return graph, result


def _with(box: Optional[Tensor]) -> str:
    return "without" if box is None else "with"


class CapturedGradient:
    """:func:`energy_and_gradient` as a CUDA graph.

    Small molecules leave a GPU waiting for the host, which launches hundreds of kernels one by one; a graph
    launches all of them at once. Everything in it keeps the shapes, and the memory, of the capture. So the
    module must not decide anything by its inputs' values: ``force_module.fix_shapes`` sees to that, for the
    largest number of edges that a molecule can have. Were there more, all results would be NaN.

    Args:
        module: ``(positions, box) -> energy``, on the device, of fixed shapes. Kept: the graph reads its
            weights.
        positions: (N, 3) to capture with.
        box: (3, 3) the same, or None.
        device: A GPU.
    """

    def __init__(self, module: Any, positions: Tensor, box: Optional[Tensor], device: torch.device) -> None:
        self._module, self._device = module, device
        self._positions = positions.to(device, copy=True)
        self._box = None if box is None else box.to(device, copy=True)
        self._graph, (self._energy, self._gradient) = capture(
            lambda: energy_and_gradient(module, self._positions, self._box), device
        )

    def __call__(self, positions: Tensor, box: Optional[Tensor]) -> Tuple[Tensor, Tensor]:
        """Energy () and gradient (N, 3) on the device, overwritten by the next call.

        Args:
            positions: (N, 3), on any device.
            box: (3, 3), or None as in the capture.

        Raises:
            ValueError: Other shapes than those captured: copying would broadcast them.
        """
        if positions.shape != self._positions.shape or (box is None) != (self._box is None):
            raise ValueError(
                f"{len(positions)} atoms {_with(box)} a box were given, the CUDA graph was captured with "
                f"{len(self._positions)} {_with(self._box)} one"
            )
        with torch.cuda.device(self._device):
            self._positions.copy_(positions)
            if box is not None and self._box is not None:
                self._box.copy_(box)
            self._graph.replay()
        return self._energy, self._gradient
