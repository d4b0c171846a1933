"""Whole models on the GPU: energies and forces, or displacements, against float64 on the CPU."""

import copy
from typing import Any, Optional, Tuple

import torch
from torch import Tensor
from torchmdnet_settings import TORCHMDNET_SETTINGS

from dkmp_plugin.models.radial import RadialFilters
from dkmp_plugin.simulation import torchscript
from dkmp_plugin.simulation.bundled_model import BUNDLED_MODEL
from dkmp_plugin.simulation.cuda_graph import CapturedGradient, energy_and_gradient
from dkmp_plugin.simulation.export import EnergyModel
from dkmp_plugin.simulation.force_module import fix_shapes
from dkmp_plugin.simulation.model_file import load_model_file
from dkmp_plugin.training.factory import create_dkmp_model
from gpu.measure import wall_seconds, worst_error

# Calls until TorchScript compiles nothing any more.
_WARM_UP_CALLS = 10


def grid_structure(num_atoms: int, spacing: float) -> Tuple[Tensor, Tensor]:
    """Atomic numbers (N,) of H, C, N, O and positions (N, 3) in Å on a jittered grid.

    It is cut off along a slanted plane: principal axes and the moments that orient them are all distinct.
    The positions are single precision numbers: both precisions see the same structure.
    """
    generator = torch.Generator().manual_seed(num_atoms)
    side = int((2.0 * num_atoms) ** (1 / 3)) + 1
    axis = torch.arange(side, dtype=torch.float64)
    points = spacing * torch.cartesian_prod(axis, axis, axis)
    slanted = points @ torch.tensor([1.0, 0.6, 0.3], dtype=torch.float64)
    chosen = points[torch.argsort(slanted, stable=True)[:num_atoms]]
    jitter = 0.1 * spacing * torch.randn(num_atoms, 3, generator=generator, dtype=torch.float64)
    numbers = torch.tensor([1, 1, 6, 7, 8])[torch.randint(5, (num_atoms,), generator=generator)]
    return numbers, (chosen + jitter).float().double()


def random_potential() -> torch.jit.ScriptModule:
    """DKMP^C as large as one for chignolin: random weights, radial filters as large as trained ones'."""
    torch.manual_seed(1)
    settings = {
        **TORCHMDNET_SETTINGS,
        "model": "dkmp-c",
        "revision": 6,
        "cutoff_upper": 12.0,
        "num_layers": 6,
        "embedding_dimension": 128,
        "max_num_neighbors": 0,
        "output_model": "Scalar",
        "derivative": False,
    }
    model = create_dkmp_model(settings).eval()
    for part in model.modules():
        if isinstance(part, RadialFilters):
            with torch.no_grad():
                part.linear.weight *= part.gain
    return torchscript.script(EnergyModel(model).requires_grad_(False).eval())


def bundled_potential() -> torch.jit.ScriptModule:
    """The trained model of p-xylene."""
    return load_model_file(BUNDLED_MODEL)[0]


class Bound(torch.nn.Module):
    """A potential of known elements: ``(positions, box) -> energy``, all in Å and the model's unit."""

    numbers: Tensor

    def __init__(self, model: torch.nn.Module, numbers: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("numbers", numbers)

    def forward(self, positions: Tensor, box: Optional[Tensor] = None) -> Tensor:
        return self.model(self.numbers, positions, box)


def bound(model: torch.jit.ScriptModule, numbers: Tensor, device: str, dtype: torch.dtype) -> Any:
    """A frozen copy on a device."""
    saved = torchscript.to_bytes(torchscript.script(Bound(model, numbers).eval()))
    return torchscript.freeze(torchscript.from_bytes(saved, device).to(dtype))


def check_potential(model: torch.jit.ScriptModule, numbers: Tensor, positions: Tensor, device: str) -> str:
    """Energy and forces, eager and by CUDA graph, against float64 on the CPU."""
    energy, gradient = energy_and_gradient(
        bound(model, numbers, "cpu", torch.float64), positions.double(), None
    )
    there = positions.float().to(device)
    module = bound(model, numbers, device, torch.float32)
    for _ in range(_WARM_UP_CALLS):
        found = energy_and_gradient(module, there, None)
    error = worst_error([found[1].cpu()], [gradient], 1e-3)
    # Of energies, whose terms cancel: what the largest force does over a hundredth of an Å.
    scale = max(abs(float(energy)), float(gradient.abs().max()))
    energy_error = abs(float(found[0]) - float(energy)) / scale
    if not energy_error < 1e-3:
        raise AssertionError(f"energy {float(found[0])}, expected {float(energy)}")
    again = energy_and_gradient(module, there, None)
    if not torch.equal(found[1], again[1]):
        raise AssertionError("forces differ from call to call")
    parts = [
        f"{len(numbers)} atoms, forces to {error:.1e}, energy to {energy_error:.1e}",
        f"forces repeat bit for bit, energy {'too' if torch.equal(found[0], again[0]) else 'does not'}",
        f"{1e3 * wall_seconds(lambda: energy_and_gradient(module, there, None), device):.2f} ms",
    ]
    if device != "cpu":
        parts.append(check_replays(model, numbers, there, device))
    return "; ".join(parts)


def check_replays(model: torch.jit.ScriptModule, numbers: Tensor, positions: Tensor, device: str) -> str:
    """The same model of fixed shapes as a CUDA graph, replayed at other positions."""
    fixed = copy.deepcopy(model)
    if not fix_shapes(fixed, len(numbers)):
        raise AssertionError("the model cannot have fixed shapes")
    module = bound(fixed, numbers, device, torch.float32)
    captured = CapturedGradient(module, positions, None, torch.device(device))
    worst = 0.0
    for scale in (1.0, 1.02, 0.97):
        replayed = [part.clone() for part in captured(scale * positions, None)]
        eager = energy_and_gradient(module, scale * positions, None)
        worst = max(worst, worst_error([replayed[1]], [eager[1]], 1e-4))
        if abs(float(replayed[0] - eager[0])) > 1e-4 * max(1.0, float(eager[0].abs())):
            raise AssertionError(f"energy of the replay {float(replayed[0])}, expected {float(eager[0])}")
    eager_time = wall_seconds(lambda: energy_and_gradient(module, positions, None), device)
    replay_time = wall_seconds(lambda: captured(positions, None), device)
    return (
        f"fixed shapes {1e3 * eager_time:.2f} ms, CUDA graph {1e3 * replay_time:.2f} ms, its forces "
        f"differ by {worst:.0e}"
    )


def random_propagator(**changes: Any) -> Any:
    """DKMP^R, float32, whose head has been given weights (a fresh one predicts zero)."""
    torch.manual_seed(2)
    settings = {
        **TORCHMDNET_SETTINGS,
        "model": "dkmp-r",
        "num_layers": 3,
        "embedding_dimension": 64,
        "max_num_neighbors": 48,
        "output_model": "Displacement",
        "cutoff_upper": 5.0,
        "derivative": False,
        **changes,
    }
    model = create_dkmp_model(settings).eval()
    for layer in (model.output_model.last, model.output_model.factors):
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.normal_(layer.weight, std=0.1)
    return model.requires_grad_(False)


def check_propagator(model: Any, numbers: Tensor, positions: Tensor, device: str) -> str:
    """Displacements against float64 on the CPU, from the same ranks (which have their own check)."""
    # Near ties may rank differently in two precisions; that is not what is compared here.
    ranks = model.representation_model.distance(positions.float(), torch.zeros_like(numbers), None)
    reference = positions + 0.3 * torch.sin(positions)

    def predict(model: Any, place: str, dtype: torch.dtype) -> Tensor:
        extra = {"neighbors": ranks.to(place), "reference": reference.to(place, dtype)}
        return model(numbers.to(place), positions.to(place, dtype), extra_args=extra)[0]

    expected = predict(copy.deepcopy(model).double(), "cpu", torch.float64)
    there = copy.deepcopy(model).to(device)
    found = predict(there, device, torch.float32)
    error = worst_error([found.cpu()], [expected], 1e-3)
    if not torch.equal(found, predict(there, device, torch.float32)):
        raise AssertionError("displacements differ from call to call")
    seconds = wall_seconds(lambda: predict(there, device, torch.float32), device)
    return (
        f"{len(numbers)} atoms, up to {float(expected.abs().max()):.2f} Å to {error:.1e}, repeated "
        f"bit for bit; {1e3 * seconds:.2f} ms"
    )


def check_models(device: str, num_atoms: int = 166, num_propagated: int = 2000) -> str:
    """The bundled potential, a large one, and propagators with and without a reference structure."""
    numbers = torch.tensor([6] * 8 + [1] * 10)
    small = grid_structure(len(numbers), 1.5)[1]
    propagated = grid_structure(num_propagated, 2.15)
    checks = {
        "p-xylene": lambda: check_potential(bundled_potential(), numbers, small, device),
        "dkmp-c": lambda: check_potential(random_potential(), *grid_structure(num_atoms, 2.15), device),
        "dkmp-r": lambda: check_propagator(random_propagator(), *propagated, device),
        "dkmp-r, first": lambda: check_propagator(
            random_propagator(canonical_frame="first"), *propagated, device
        ),
    }
    return "".join(f"\n           {name}: {check()}" for name, check in checks.items())
