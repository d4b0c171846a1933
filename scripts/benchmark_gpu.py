"""What models and kernels take on a GPU, beside torchmd-net's own models in the same run.

Tables (choose with --tables):
  kernels    the ops on systems of 40,000 atoms: time of a call, and of each kernel in it
  potential  energy and forces of 166 atoms at the density of proteins: dkmp-c (6 layers, d = 128),
             torchmd-net's TensorNet, equivariant-transformer and graph-network (5 Å, same width and depth),
             eager and, where the model can be captured, as a CUDA graph; then the kernels of dkmp-c's graph
  propagator dkmp-r (6 layers, d = 128, 192 ranks): ranks and a prediction

Weights are random: they do not matter for speed. Medians, least and most; contestants take turns. `python
scripts/gpu_smoke.py` checks results, this measures. With --device cpu all runs but the kernels' own times.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import benchmark_main
import gpu_smoke
from gpu.models import bound, grid_structure, random_potential, random_propagator
from measuring import interleaved, row

from dkmp_plugin import ops
from dkmp_plugin.device import resolve_device, synchronize
from dkmp_plugin.simulation.cuda_graph import CapturedGradient, capture, energy_and_gradient
from dkmp_plugin.simulation.force_module import fix_shapes

PEERS = ("tensornet", "equivariant-transformer", "graph-network")
# TorchScript compiles in the first calls.
WARM_UP = 6


def print_times(contestants: Dict[str, Callable[[], Any]], device: torch.device, rounds: int) -> None:
    """Times of each call until its results are there."""

    def waiting(run: Callable[[], Any]) -> Callable[[], None]:
        def call() -> None:
            run()
            synchronize(device)

        return call

    calls = {name: waiting(run) for name, run in contestants.items()}
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    for name, times in interleaved(calls, rounds).items():
        print(row(name, times))


def print_kernels(run: Callable[[], Any], device: torch.device, most: int, repeats: int = 5) -> None:
    """The longest kernels of a call: microseconds and launches."""
    if device.type != "cuda":
        return
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(repeats):
            run()
        synchronize(device)
    events = [event for event in profiler.key_averages() if event.self_device_time_total > 0]
    total = sum(event.self_device_time_total for event in events) / repeats
    print(f"    {total:9.1f} us in {sum(event.count for event in events) / repeats:.0f} kernels and copies")
    for event in sorted(events, key=lambda event: -event.self_device_time_total)[:most]:
        microseconds, count = event.self_device_time_total / repeats, event.count / repeats
        print(f"    {microseconds:9.1f} us {count:5.0f} x  {event.key[:80]}")


def differentiated(function: Callable[[List[Tensor]], Sequence[Tensor]], inputs: List[Tensor]) -> None:
    leaves = [x.detach().requires_grad_() for x in inputs]
    torch.autograd.grad(sum(y.sum() for y in function(leaves)), leaves)


def table_kernels(device: torch.device, rounds: int, num_atoms: int) -> None:
    dtype = torch.float32
    pos, batch, box = (x.to(device) for x in gpu_smoke.system(num_atoms, dtype))
    settings = (gpu_smoke.CUTOFF, gpu_smoke.NUM_SHELLS, gpu_smoke.OVERLAP, 0)
    inputs, edge_index, ptr = gpu_smoke.message_inputs(num_atoms, dtype)
    edges, sent = (edge_index.to(device), ptr.to(device)), [x.to(device) for x in inputs]
    features, neighbors = gpu_smoke.attention_inputs(num_atoms, dtype, 64)
    attended, listed = [x.to(device) for x in features], neighbors.to(device)

    def message(x: List[Tensor]) -> List[Tensor]:
        return gpu_smoke.message(ops.dilated_message, *edges, x)

    def attention(x: List[Tensor]) -> List[Tensor]:
        return [ops.dilated_attention(*x[:3], listed, x[3])]

    cases: Dict[str, Callable[[], Any]] = {
        "radius_shells": lambda: ops.radius_shells(pos, batch, box, *settings),
        "distance_ranks, 192": lambda: ops.distance_ranks(pos, 192),
        "dilated_message": lambda: message(sent),
        "dilated_message with gradients": lambda: differentiated(message, sent),
        "dilated_attention, 64": lambda: attention(attended),
        "dilated_attention, 64, with gradients": lambda: differentiated(attention, attended),
    }
    print(f"\n## Ops, {num_atoms} atoms, float32")
    print_times(cases, device, rounds)
    for name, run in cases.items():
        print(f"  {name}")
        print_kernels(run, device, 6)


def torchmdnet_peer(name: str, numbers: Tensor, pos: Tensor, device: torch.device) -> Callable[[], Any]:
    """Energy and forces of one of torchmd-net's models."""
    model = benchmark_main.torchmdnet_model(
        name, static_shapes=True, equivariance_invariance_group="O(3)"
    ).to(device)
    batch = torch.zeros_like(numbers)
    return lambda: model(numbers, pos, batch)


def dkmp_c(numbers: Tensor, pos: Tensor, device: torch.device) -> Tuple[Callable[[], Any], Optional[Any]]:
    """An exported dkmp-c: eager, and as a CUDA graph of the shapes that it has, where there is a GPU."""
    place = str(device)
    module = bound(random_potential(), numbers.cpu(), place, torch.float32)
    if device.type != "cuda":
        return lambda: energy_and_gradient(module, pos, None), None
    fixed = random_potential()
    fix_shapes(fixed, len(numbers))
    graph = CapturedGradient(bound(fixed, numbers.cpu(), place, torch.float32), pos, None, device)
    return lambda: energy_and_gradient(module, pos, None), lambda: graph(pos, None)


def table_potential(device: torch.device, rounds: int, num_atoms: int) -> None:
    numbers, positions = grid_structure(num_atoms, 2.15)
    numbers, pos = numbers.to(device), positions.float().to(device)
    eager, replay = dkmp_c(numbers, pos, device)
    contestants: Dict[str, Callable[[], Any]] = {"dkmp-c (12 Å)": eager}
    if replay is not None:
        contestants["dkmp-c (12 Å), CUDA graph"] = replay
    for name in PEERS:
        try:
            peer = torchmdnet_peer(name, numbers, pos, device)
            peer()
            contestants[name] = peer
            if device.type == "cuda":
                contestants[f"{name}, CUDA graph"] = capture(peer, device)[0].replay
        except Exception as error:  # a peer that cannot run, or be captured, is told and left out
            print(f"{name}: {type(error).__name__}: {str(error).splitlines()[0][:120]}")
    print(f"\n## Energy and forces, {num_atoms} atoms, float32, d = 128, 6 layers")
    print_times(contestants, device, rounds)
    if replay is not None:
        print_kernels(replay, device, 20)


def table_propagator(device: torch.device, rounds: int, num_atoms: int) -> None:
    settings = {"num_layers": 6, "embedding_dimension": 128, "max_num_neighbors": 192}
    numbers, positions = grid_structure(num_atoms, 2.15)
    numbers, pos = numbers.to(device), positions.float().to(device)
    model = random_propagator(**settings).to(device)
    batch = torch.zeros_like(numbers)
    ranks = model.representation_model.distance(pos, batch, None)
    cases = {
        "ranks": lambda: model.representation_model.distance(pos, batch, None),
        "prediction": lambda: model(numbers, pos, extra_args={"neighbors": ranks}),
    }
    print(f"\n## dkmp-r, {num_atoms} atoms, float32, d = 128, 6 layers, 192 ranks")
    with torch.no_grad():
        print_times(cases, device, rounds)
        print_kernels(cases["prediction"], device, 12)


TABLES = {"kernels": table_kernels, "potential": table_potential, "propagator": table_propagator}
ATOMS = {"kernels": 40_000, "potential": 166, "propagator": 41_693}


def main(given: Optional[List[str]] = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES), help="[all]")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu [cuda]")
    parser.add_argument("--rounds", type=int, default=20, help="calls of every contestant [20]")
    parser.add_argument("--atoms", type=int, help="instead of each table's own number")
    arguments = parser.parse_args(given)
    device = resolve_device(arguments.device)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{where}, torch {torch.__version__}")
    for name in arguments.tables:
        TABLES[name](device, arguments.rounds, arguments.atoms or ATOMS[name])


if __name__ == "__main__":
    main()
