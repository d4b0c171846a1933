"""Checks the CUDA kernels on the machine at hand; on one without a GPU, as far as that goes.

Without a GPU: NVRTC compiles every kernel for several architectures; what was skipped is listed.
With one: every op (forward, backward, double backward) against the pure-ATen reference on the CPU; its time
beside the time that copying its compulsory bytes takes; an energy and forces captured in a CUDA graph and
replayed at other positions; whole models against float64 on the CPU; a training; ASE; T4 lysozyme with
p-xylene on OpenMM's CUDA platform, eager and by CUDA graphs.

Exit status 0: nothing failed (the last lines say what was skipped); 1: something failed.
"""

import argparse
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Callable, Dict, List, Sequence, Tuple

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from gpu import models, simulation, training  # noqa: E402
from gpu.measure import gpu_seconds, worst_error  # noqa: E402
from gpu.report import Report  # noqa: E402

from dkmp_plugin import ops  # noqa: E402
from dkmp_plugin.config import REVISIONS, spline_degree  # noqa: E402
from dkmp_plugin.ops import reference  # noqa: E402
from dkmp_plugin.simulation.cuda_graph import capture  # noqa: E402

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
CUTOFF, NUM_SHELLS, OVERLAP, WIDTH, HEADS = 6.0, 3, 1.0, 32, 4
SPLINE_DEGREE = spline_degree(REVISIONS[-1])


def compile_everything(architectures: Sequence[int], files: Sequence[str]) -> str:
    """Compiles the instances that the tests compile; needs NVRTC, no GPU."""
    from tests.kernels.instances import instances

    count, size = 0, 0
    for file, macros in instances():
        if files and file not in files:
            continue
        options = [f"-D{name}={value}" for name, value in macros.items()]
        for architecture in architectures:
            size += torch.ops.dkmp_plugin.compile_kernels(file, options, architecture)
            count += 1
    if count == 0:
        raise ValueError(f"no kernel file is named {', '.join(files)}")
    return f"{count} programs for sm_{', sm_'.join(map(str, architectures))}, {size / 1e6:.1f} MB"


def system(num_atoms: int, dtype: torch.dtype) -> Tuple[Tensor, Tensor, Tensor]:
    """Positions at the density of proteins in a triclinic box, one system, the box."""
    generator = torch.Generator().manual_seed(num_atoms)
    edge = (num_atoms / 0.1) ** (1 / 3)
    box = torch.tensor([[1.0, 0, 0], [0.2, 1.0, 0], [-0.1, 0.3, 1.0]], dtype=torch.float64) * edge
    pos = torch.rand(num_atoms, 3, generator=generator, dtype=torch.float64) @ box
    return pos.to(dtype), torch.zeros(num_atoms, dtype=torch.int64), box.to(dtype)


def derivatives(function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor]) -> List[Tensor]:
    """Values, first derivatives, and derivatives of the squares of the first derivatives, on the CPU."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    values = list(function(*leaves))
    scalar = sum((y * torch.linspace(-1, 1, y.numel()).to(y).view_as(y)).sum() for y in values)
    first = torch.autograd.grad(scalar, leaves, create_graph=True, allow_unused=True)
    used = [g for g in first if g is not None]
    squares = sum((g * g).sum() for g in used)
    second = torch.autograd.grad(squares, leaves, allow_unused=True) if squares.requires_grad else []
    return [x.detach().cpu() for x in (*values, *used, *(g for g in second if g is not None))]


def check_search(device: str, num_atoms: int, dtype: torch.dtype) -> str:
    pos, batch, box = system(num_atoms, dtype)
    for cell in (None, box):
        there = None if cell is None else cell.to(device)
        settings = (CUTOFF, NUM_SHELLS, OVERLAP, 0)
        expected = reference.radius_shells(pos, batch, cell, *settings)
        capacity = expected[0].size(1) + 7
        for limit in (None, capacity):
            found = ops.radius_shells(pos.to(device), batch.to(device), there, *settings, limit)
            wanted = reference.radius_shells(pos, batch, cell, *settings, limit)
            if not all(torch.equal(a.cpu(), b) for a, b in zip(found, wanted, strict=True)):
                raise AssertionError("the edges differ from the reference")
    ranks = ops.distance_ranks(pos.to(device), 32, batch.to(device))
    if not torch.equal(ranks.cpu(), reference.distance_ranks(pos, 32, batch)):
        raise AssertionError("the ranks differ from the reference")
    return f"{expected[0].size(1)} edges and {ranks.size(1)} ranks of {num_atoms} atoms are identical"


def check_edge_vectors(device: str, num_atoms: int, dtype: torch.dtype) -> str:
    pos, batch, box = system(num_atoms, dtype)
    edge_index, offsets, _ = reference.radius_shells(pos, batch, box, CUTOFF, NUM_SHELLS, OVERLAP, 0)

    def run(op, place):
        graph = [x.to(place) for x in (edge_index, offsets)]

        def function(pos, box):
            return [op(pos, *graph, box, batch.to(place)) ** 2]

        return derivatives(function, [pos.to(place), box.to(place)])

    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    error = worst_error(run(ops.edge_vectors, device), run(reference.edge_vectors, "cpu"), tolerance)
    return f"relative error {error:.1e}"


def message_inputs(num_atoms: int, dtype: torch.dtype) -> Tuple[List[Tensor], Tensor, Tensor]:
    """Differentiable inputs of dilated_message, edge_index, ptr."""
    pos, batch, box = system(num_atoms, dtype)
    edge_index, offsets, ptr = ops.radius_shells(pos, batch, box, CUTOFF, NUM_SHELLS, OVERLAP, 0)
    generator = torch.Generator().manual_seed(1)
    shapes = [(num_atoms, WIDTH)] * 2 + [(num_atoms, 3 * WIDTH), (num_atoms, 8, WIDTH), (9, 4 * WIDTH)]
    features = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    return [ops.edge_vectors(pos, edge_index, offsets, box, batch), *features], edge_index, ptr


def message(op, edge_index: Tensor, ptr: Tensor, inputs: Sequence[Tensor]) -> List[Tensor]:
    vector, query, key, value, features, table = inputs
    width = CUTOFF / NUM_SHELLS
    shell = (width, 2 * width, OVERLAP, CUTOFF, SPLINE_DEGREE)
    return list(op(vector, edge_index, ptr, 1, query, key, value, features, table, HEADS, *shell))


def check_message(device: str, num_atoms: int, dtype: torch.dtype) -> str:
    inputs, edge_index, ptr = message_inputs(num_atoms, dtype)

    def run(op, place, kind):
        graph = (edge_index.to(place), ptr.to(place))
        return derivatives(lambda *x: message(op, *graph, x), [x.to(place, kind) for x in inputs])

    tolerance = 1e-3 if dtype == torch.float32 else 1e-9
    exact = run(reference.dilated_message, "cpu", torch.float64)
    return f"relative error {worst_error(run(ops.dilated_message, device, dtype), exact, tolerance):.1e}"


def attention_inputs(num_atoms: int, dtype: torch.dtype, count: int = 32) -> Tuple[List[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(2)
    shapes = [(num_atoms, HEADS, WIDTH)] * 3 + [(num_atoms, count)]
    features = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    return features, ops.distance_ranks(system(num_atoms, dtype)[0], count)


def check_attention(device: str, num_atoms: int, dtype: torch.dtype) -> str:
    inputs, neighbors = attention_inputs(num_atoms, dtype)

    def run(op, place, kind):
        def function(query, key, value, bias):
            return [op(query, key, value, neighbors.to(place), bias, None)]

        return derivatives(function, [x.to(place, kind) for x in inputs])

    tolerance = 1e-3 if dtype == torch.float32 else 1e-9
    exact = run(reference.dilated_attention, "cpu", torch.float64)
    return f"relative error {worst_error(run(ops.dilated_attention, device, dtype), exact, tolerance):.1e}"


def check_degrees(device: str, num_atoms: int, dtype: torch.dtype) -> str:
    """What the layers compute for every atom on its own."""
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    pairs = [random(num_atoms, size, 2 * WIDTH) for size in (3, 5)]
    scalars = [random(num_atoms, WIDTH) for _ in range(3)]
    vector = random(num_atoms, 8, WIDTH)
    calls: Dict[str, List[Tensor]] = {
        "degree_features": [*pairs, *scalars],
        "degree_update": [random(num_atoms, 9 * WIDTH), *pairs, scalars[0], vector],
        "degree_norm_apart": [vector, random(2, WIDTH)],
    }
    tolerance = 1e-3 if dtype == torch.float32 else 1e-9
    worst = 0.0
    for name, inputs in calls.items():
        more = [0.1] if name == "degree_norm_apart" else []

        def run(module, place, kind, name=name, inputs=inputs, more=more):
            function = getattr(module, name)
            # Arguments that are handed on have no second derivative of their own.
            return derivatives(
                lambda *x: [y * y for y in function(*x, *more)], [x.to(place, kind) for x in inputs]
            )

        exact = run(reference, "cpu", torch.float64)
        worst = max(worst, worst_error(run(ops, device, dtype), exact, tolerance))
    return f"relative error {worst:.1e}"


def check_bad_input(device: str) -> str:
    """What must be refused before a kernel reads it."""
    pos, batch, box = system(20, torch.float32)
    there, broken = pos.to(device), pos.to(device).clone()
    broken[3, 1] = float("nan")
    cases: Dict[str, Callable[[], object]] = {
        "tensors on two devices": lambda: ops.radius_shells(there, batch, None, 3.0, 2, 0.0, 0),
        "NaN positions": lambda: ops.distance_ranks(broken, 4),
        "a singular box": lambda: ops.radius_shells(
            there, batch.to(device), (0 * box).to(device), 3.0, 2, 0.0, 0
        ),
    }
    for name, call in cases.items():
        try:
            call()
        except ValueError:
            continue
        raise AssertionError(f"{name} must be refused")
    return ", ".join(cases)


CHECKS: Dict[str, Callable[[str, int, torch.dtype], str]] = {
    "radius_shells, distance_ranks": check_search,
    "edge_vectors": check_edge_vectors,
    "dilated_message": check_message,
    "dilated_attention": check_attention,
    "degree_map, degree_norm": check_degrees,
}


def time_ops(num_atoms: int) -> str:
    """Forward times beside the time of copying the compulsory bytes, measured in the same run."""
    block = torch.empty(1 << 28, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(block)
    bandwidth = 2 * block.numel() / gpu_seconds(lambda: target.copy_(block))
    pos, batch, box = (x.cuda() for x in system(num_atoms, torch.float32))
    edges = ops.radius_shells(pos, batch, box, CUTOFF, NUM_SHELLS, OVERLAP, 0)
    count = edges[0].size(1)
    inputs, edge_index, ptr = message_inputs(num_atoms, torch.float32)
    shell = int(ptr[2] - ptr[1])
    moved, graph = [x.cuda() for x in inputs], (edge_index.cuda(), ptr.cuda())
    features, neighbors = attention_inputs(num_atoms, torch.float32)
    attended, listed = [x.cuda() for x in features], neighbors.cuda()
    cases: Dict[str, Tuple[int, Callable[[], object]]] = {
        "radius_shells": (
            12 * num_atoms + 28 * count,
            lambda: ops.radius_shells(pos, batch, box, CUTOFF, NUM_SHELLS, OVERLAP, 0, count),
        ),
        "distance_ranks": (12 * num_atoms + 8 * 192 * num_atoms, lambda: ops.distance_ranks(pos, 192)),
        "edge_vectors": (
            40 * count + 12 * num_atoms,
            lambda: ops.edge_vectors(pos, edges[0], edges[1], box, batch),
        ),
        "dilated_message": (
            28 * shell + 4 * num_atoms * WIDTH * (2 + 3 + 8 + 1 + 8),
            lambda: message(ops.dilated_message, *graph, moved),
        ),
        "dilated_attention": (
            4 * (4 * attended[0].numel() + attended[3].numel()) + 8 * listed.numel(),
            lambda: ops.dilated_attention(*attended[:3], listed, attended[3]),
        ),
    }
    lines = [f"{num_atoms} atoms, float32; memcpy {bandwidth / 1e9:.0f} GB/s"]
    for name, (moved_bytes, call) in cases.items():
        seconds, floor = gpu_seconds(call), moved_bytes / bandwidth
        lines.append(
            f"           {name:18s} {1e6 * seconds:9.1f} us, {seconds / floor:6.1f} x its bytes floor"
        )
    return "\n".join(lines)


def check_graph_capture(num_atoms: int) -> str:
    """Energy and forces of a graph of fixed size, captured once and replayed at other positions."""
    start, batch, box = (x.cuda() for x in system(num_atoms, torch.float32))
    inputs = [x.cuda() for x in message_inputs(num_atoms, torch.float32)[0][1:]]
    found = ops.radius_shells(start, batch, box, CUTOFF, NUM_SHELLS, OVERLAP, 0)[0].size(1)

    def energy_and_forces(pos: Tensor) -> Tuple[Tensor, Tensor]:
        pos = pos.detach().requires_grad_()
        edge_index, offsets, ptr = ops.radius_shells(
            pos.detach(), batch, box, CUTOFF, NUM_SHELLS, OVERLAP, 0, 2 * found
        )
        vector = ops.edge_vectors(pos, edge_index, offsets, box, batch)
        energy = sum(
            x.square().sum() for x in message(ops.dilated_message, edge_index, ptr, [vector, *inputs])
        )
        return energy.detach(), torch.autograd.grad(energy, pos)[0]

    static = start.clone()
    graph, captured = capture(lambda: energy_and_forces(static), static.device)
    for seed in range(3):
        torch.manual_seed(seed)
        static.copy_(start + 0.3 * torch.randn_like(start))
        graph.replay()
        eager = energy_and_forces(static.clone())
        if not all(torch.equal(a, b) for a, b in zip(captured, eager, strict=True)):
            raise AssertionError("a replayed graph differs from the eager result")
    return f"3 replays of {num_atoms} atoms at other positions equal the eager results bit for bit"


def simulate(platform: str) -> str:
    """T4 lysozyme with p-xylene and the bundled model; 200 ML/MM steps."""
    import tempfile

    model = ROOT / "dkmp_plugin" / "simulation" / "bundled" / "p_xylene.pt"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "examples" / "03_simulate_t4l.py"), "--model", str(model)]
        command += [
            "--output",
            folder,
            "--steps",
            "200",
            "--equilibration-steps",
            "100",
            "--platform",
            platform,
        ]
        start = time.perf_counter()
        answer = subprocess.run(command, capture_output=True, text=True)
        if answer.returncode != 0:
            raise AssertionError(answer.stderr[-2000:])
        return f"300 steps on {platform} in {time.perf_counter() - start:.0f} s; GFN2-xTB labels"


def gpu_steps(arguments: argparse.Namespace) -> Dict[str, Callable[[], str]]:
    """Everything that needs a GPU, by name."""
    device, num_atoms = arguments.device, arguments.atoms
    steps: Dict[str, Callable[[], str]] = {
        f"{name}, {str(dtype)[6:]}": partial(check, device, num_atoms, dtype)
        for name, check in CHECKS.items()
        for dtype in (torch.float32, torch.float64)
    }
    return {
        **steps,
        "bad input": lambda: check_bad_input(device),
        "times": lambda: time_ops(arguments.timed_atoms),
        "CUDA graph": lambda: check_graph_capture(num_atoms),
        "models": lambda: models.check_models(device),
        "graph out of range": lambda: simulation.check_out_of_range(device),
        "training": lambda: training.check_training(device),
        "ASE": lambda: simulation.check_ase(device),
        "PythonForce": lambda: simulation.check_python_force(device, "CUDA"),
        "OpenMM, CUDA platform": lambda: simulate("CUDA"),
    }


def run(arguments: argparse.Namespace) -> int:
    report = Report()
    status = ops.status()
    if not status.native:
        print(f"FAILED   the native library is not loaded: {status.why_not}")
        return 1
    if not arguments.only:
        report.step("NVRTC", lambda: compile_everything(arguments.architectures, arguments.kernels))
    reason = ops.why_no_cuda()
    if reason is None and arguments.device == "cuda" and not torch.cuda.is_available():
        reason = "torch sees no GPU"
    for name, function in gpu_steps(arguments).items():
        if arguments.only and not name.startswith(tuple(arguments.only)):
            continue
        # The mock driver of the tests takes tensors on the CPU; nothing but the ops runs there.
        if reason is None and (arguments.device == "cuda" or name.endswith(("float32", "float64"))):
            report.step(name, function)
        else:
            report.skip(name, reason or "the tensors are on the CPU")
    if report.skipped:
        print(f"Not checked here ({len(report.skipped)}): {'; '.join(report.skipped)}")
    print(f"Failed ({len(report.failed)}): {'; '.join(report.failed) or 'nothing'}")
    return 1 if report.failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--device", default="cuda", help="where the ops run; cpu on the mock driver of the tests"
    )
    parser.add_argument("--atoms", type=int, default=500, help="atoms of the systems that are checked")
    parser.add_argument("--timed-atoms", type=int, default=40000, help="atoms of the systems that are timed")
    parser.add_argument("--architectures", type=int, nargs="+", default=list(ARCHITECTURES))
    parser.add_argument("--kernels", nargs="*", default=[], help="kernel files to compile; default all")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        help="only the steps on the GPU whose names begin so, e.g. models ASE",
    )
    arguments = parser.parse_args()
    for wanted in arguments.only:
        # Nothing checked would read as nothing failed.
        if not any(name.startswith(wanted) for name in gpu_steps(arguments)):
            known = "; ".join(gpu_steps(arguments))
            parser.error(f"--only: {wanted!r} begins no step's name; the steps are {known}")
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
