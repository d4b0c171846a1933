"""Speed and memory of the native ops, beside their pure-ATen reference and beside other libraries.

Tables (choose with --tables):
  shells    radius_shells at a 12 Å cutoff, 6 shells, 2,489 to 30,327 atoms and periodic water: time, peak
            memory, growth; beside vesin and matscipy where importable (both return one unsorted list, with
            distances; radius_shells returns shells sorted by receiver, sender and image)
  message   dilated_message summed over 6 shells of chignolin (166 atoms, 12 Å, overlap 1 Å, d = 128, 8 heads,
            float32): forward, forward + backward, and a training step's double backward; 18 atoms as well;
            and the models of scripts/s2ef/protocol.yaml (two shells to 8 Å, d = 48, 8 heads), both precisions
  degrees   the update of one dkmp-c layer: degree_invariants and degree_gates of revision 2; degree_norm,
            degree_features and degree_update of revision 4: forward, forward + backward, and a
            training step's double backward
  ranks     distance_ranks, M = 192, 41,693 atoms (protein in water, Amber restart) beside scipy's cKDTree

All timings: rounds of all contestants in turn, median [minimum, maximum]. The structures are torchmd-net's
benchmark files and water in DKMP_DATA (../shared/data).
"""

import argparse
import importlib.util
import statistics
import subprocess
import sys
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np
import torch
from benchmark_main import DATA, GRAPH_STRUCTURES, load_structure
from measuring import interleaved, peak_rise, row

from dkmp_plugin import ops
from dkmp_plugin.config import REVISIONS, spline_degree
from dkmp_plugin.ops import reference

CUTOFF, NUM_SHELLS, OVERLAP = 12.0, 6, 1.0
SPLINE_DEGREE = spline_degree(REVISIONS[-1])
# Methods of MessageProblem and UpdateProblem: what the tables call them.
PASSES = {
    "forward": "forward",
    "backward": "forward + backward",
    "training": "step with double backward",
}


def positions_of(name: str) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(load_structure(name).xyz[0] * 10.0))


def water() -> Tuple[torch.Tensor, torch.Tensor]:
    """First frame of periodic water: positions (192, 3) and box (3, 3), float32 Å."""
    folder = DATA / "water192" / "data_0" / "set.000"
    pos = torch.from_numpy(np.load(folder / "coord.npy")[0].reshape(-1, 3)).float()
    return pos, torch.from_numpy(np.load(folder / "box.npy")[0].reshape(3, 3)).float()


# --- radius_shells ---------------------------------------------------------------------------------------


def shell_search(pos: torch.Tensor, box: Optional[torch.Tensor], overlap: float) -> Callable[[], Any]:
    batch = torch.zeros(len(pos), dtype=torch.int64)
    return lambda: ops.radius_shells(pos, batch, box, CUTOFF, NUM_SHELLS, overlap, 0)


def peers(pos: torch.Tensor, box: Optional[torch.Tensor]) -> Dict[str, Callable[[], Any]]:
    """Neighbour lists of other libraries with the same contents: both directions, shifts, distances."""
    found: Dict[str, Callable[[], Any]] = {}
    points = pos.double().numpy()
    cell = np.eye(3) * 1e4 if box is None else box.double().numpy()
    if importlib.util.find_spec("vesin"):
        from vesin import NeighborList

        search = NeighborList(cutoff=CUTOFF, full_list=True)
        found["vesin"] = lambda: search.compute(points, cell, box is not None, "ijSd")
    if importlib.util.find_spec("matscipy"):
        from matscipy.neighbours import neighbour_list

        lowest = points.min(0)
        wide = np.diag(np.ptp(points, axis=0) + 1.0) if box is None else cell
        periodic = [box is not None] * 3
        found["matscipy"] = lambda: neighbour_list(
            "ijSd", cutoff=CUTOFF, positions=points - lowest, cell=wide, pbc=periodic
        )
    return found


def peak_memory(name: str) -> Tuple[int, int]:
    """Edges of a structure and megabytes the search adds to the peak of a fresh process."""
    command = [sys.executable, __file__, "--peak-memory", name]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return int(answer[-2]), int(answer[-1])


def print_peak_memory(name: str) -> None:
    pos = positions_of(name)
    shell_search(pos[:100], None, 0.0)()
    edges: List[int] = []
    rise = peak_rise(lambda: edges.append(shell_search(pos, None, 0.0)()[0].shape[1]))
    print(edges[0], round(rise))


def benchmark_shells(rounds: int) -> None:
    print(
        f"\nradius_shells, cutoff {CUTOFF} Å, {NUM_SHELLS} shells, float32, {torch.get_num_threads()} threads"
    )
    per_edge: List[Tuple[int, float]] = []
    systems: Dict[str, Tuple[torch.Tensor, Optional[torch.Tensor]]] = {
        name: (positions_of(name), None) for name in GRAPH_STRUCTURES
    }
    systems["water192 (periodic)"] = water()
    for name, (pos, box) in systems.items():
        contestants = {
            "radius_shells, overlap 0": shell_search(pos, box, 0.0),
            "radius_shells, overlap 1 Å": shell_search(pos, box, OVERLAP),
            **peers(pos, box),
        }
        times = interleaved(contestants, rounds)
        edges = shell_search(pos, box, 0.0)()[0].shape[1]
        print(f"{name}: {len(pos)} atoms, {edges} edges within the cutoff")
        for label, values in times.items():
            print("  " + row(label, values))
        others = [statistics.median(v) for label, v in times.items() if not label.startswith("radius_shells")]
        ours = statistics.median(times["radius_shells, overlap 0"])
        if others:
            print(f"  radius_shells / faster peer: {ours / min(others):.2f}")
        if box is None:
            per_edge.append((edges, ours))
            counted, megabytes = peak_memory(name)
            print(f"  peak memory {megabytes} MB for a result of {counted * 16 / 2**20:.0f} MB")
    (small_edges, small), (large_edges, large) = per_edge[0], per_edge[-1]
    growth = (large / small) / (large_edges / small_edges)
    atoms = len(systems[GRAPH_STRUCTURES[-1]][0]) / len(systems[GRAPH_STRUCTURES[0]][0])
    print(f"growth of time from the smallest to the largest open structure: {growth:.2f} x linear in edges,")
    print(f"  {large / small / atoms:.2f} x linear in atoms")


def print_native_beside_reference(problem: Any, native: Any, formulas: Any, rounds: int) -> None:
    """Times of a problem's passes with the native op, or module of ops, and with its reference."""
    for method, what in PASSES.items():
        make = getattr(problem, method)
        times = interleaved({f"native {what}": make(native), f"reference {what}": make(formulas)}, rounds)
        for contestant, values in times.items():
            print("  " + row(contestant, values))
        ours, other = (statistics.median(v) for v in times.values())
        print(f"  reference / native: {other / ours:.1f}")


# --- dilated_message -------------------------------------------------------------------------------------


class MessageProblem:
    """Random features on the real shells of a structure; every pass runs all shells."""

    def __init__(
        self,
        pos: torch.Tensor,
        cutoff: float,
        num_shells: int,
        width: int,
        heads: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        pos = pos.to(dtype)
        num_atoms, batch = len(pos), torch.zeros(len(pos), dtype=torch.int64)
        self.cutoff, self.num_shells, self.heads = cutoff, num_shells, heads
        self.edge_index, offsets, self.ptr = ops.radius_shells(
            pos, batch, None, cutoff, num_shells, OVERLAP, 0
        )
        vectors = ops.edge_vectors(pos, self.edge_index, offsets, None, batch)
        shapes = [(num_atoms, width), (num_atoms, width), (num_atoms, 3 * width), (num_atoms, 8, width)]
        self.features = [vectors, *(torch.randn(s, dtype=dtype) for s in shapes)]
        self.table = torch.randn(32, 4 * width, dtype=dtype) * 0.1

    def run(
        self, op: Callable[..., Any], features: List[torch.Tensor], table: torch.Tensor
    ) -> List[torch.Tensor]:
        vectors, query, key, value, vector = features
        results: List[torch.Tensor] = []
        for shell in range(self.num_shells):
            lower, upper = (self.cutoff * k / self.num_shells for k in (shell, shell + 1))
            results += op(
                vectors, self.edge_index, self.ptr, shell, query, key, value, vector, table,
                self.heads, lower, upper, OVERLAP, self.cutoff, SPLINE_DEGREE,
            )  # fmt: skip
        return results

    def forward(self, op: Callable[..., Any]) -> Callable[[], Any]:
        return lambda: self.run(op, self.features, self.table)

    def backward(self, op: Callable[..., Any]) -> Callable[[], Any]:
        features = [x.clone().requires_grad_() for x in self.features]

        def run() -> Any:
            results = self.run(op, features, self.table)
            return torch.autograd.grad(results, features, [torch.ones_like(x) for x in results])

        return run

    def training(self, op: Callable[..., Any]) -> Callable[[], Any]:
        features = [x.clone().requires_grad_() for x in (*self.features, self.table)]

        def run() -> Any:
            results = self.run(op, features[:5], features[5])
            ones = [torch.ones_like(x) for x in results]
            (force,) = torch.autograd.grad(results, features[0], ones, create_graph=True)
            return torch.autograd.grad((force**2).sum(), features)

        return run


def benchmark_message(rounds: int) -> None:
    chignolin = positions_of("chignolin.pdb")
    cases = {
        "chignolin, 166 atoms, 6 shells to 12 Å, d = 128": MessageProblem(
            chignolin, CUTOFF, NUM_SHELLS, 128, 8
        ),
        "18 atoms, 3 shells to 9 Å, d = 64": MessageProblem(torch.rand(18, 3) * 6.0, 9.0, 3, 64, 8),
        "chignolin, 2 shells to 8 Å, d = 48": MessageProblem(chignolin, 8.0, 2, 48, 8),
        "chignolin, 2 shells to 8 Å, d = 48, double": MessageProblem(chignolin, 8.0, 2, 48, 8, torch.float64),
    }
    for name, problem in cases.items():
        edges = problem.edge_index.shape[1]
        print(f"\ndilated_message, {name}: {edges} edges, {torch.get_num_threads()} threads")
        print_native_beside_reference(problem, ops.dilated_message, reference.dilated_message, rounds)


# --- degree maps -----------------------------------------------------------------------------------------


class UpdateProblem:
    """Random features and gates of one layer; ``op`` is a module that has the degree ops."""

    def __init__(self, num_atoms: int, width: int, revision: int) -> None:
        per_channel = 9 if revision == 4 else 5
        shapes = [(num_atoms, per_channel * width), (num_atoms, 3, 2 * width), (num_atoms, 5, 2 * width)]
        if revision == 4:
            shapes += [(num_atoms, width)] * 3 + [(num_atoms, 8, width), (2, width)]
        self.revision = revision
        self.inputs = [torch.randn(shape) for shape in shapes]

    def run(self, op: Any, inputs: List[torch.Tensor]) -> Any:
        gates, first, second, *others = inputs
        if self.revision != 4:
            return op.degree_gates(gates, op.degree_invariants(first, second), first, second)
        scalars, message, gate, vector, weight = others
        features, first, second = op.degree_features(first, second, message, scalars, gate)
        # A layer's norms: of the features it sends, and of those it multiplies.
        sent, vector = op.degree_norm_through(vector, weight, 1.0)
        *received, vector = op.degree_norm_apart_through(vector, weight, 1.0)
        return features, sent, *received, *op.degree_update(gates, first, second, scalars, vector)

    def forward(self, op: Any) -> Callable[[], Any]:
        return lambda: self.run(op, self.inputs)

    def backward(self, op: Any) -> Callable[[], Any]:
        inputs = [x.clone().requires_grad_() for x in self.inputs]

        def run() -> Any:
            results = self.run(op, inputs)
            return torch.autograd.grad(results, inputs, [torch.ones_like(x) for x in results])

        return run

    def training(self, op: Any) -> Callable[[], Any]:
        inputs = [x.clone().requires_grad_() for x in self.inputs]

        def run() -> Any:
            results = self.run(op, inputs)
            ones = [torch.ones_like(x) for x in results]
            gradients = torch.autograd.grad(results, inputs, ones, create_graph=True)
            return torch.autograd.grad([(x**2).sum() for x in gradients], inputs)

        return run


def benchmark_degrees(rounds: int) -> None:
    for num_atoms, width in ((75, 48), (332, 48), (166, 128)):
        for revision in (2, 4):
            problem = UpdateProblem(num_atoms, width, revision)
            print(f"\nupdate of one layer, revision {revision}: {num_atoms} atoms, d = {width}")
            print_native_beside_reference(problem, ops, reference, rounds)


# --- distance_ranks --------------------------------------------------------------------------------------


def benchmark_ranks(rounds: int) -> None:
    from scipy.io import netcdf_file
    from scipy.spatial import cKDTree

    path = DATA / "misato-sample" / "11gs_production.rst"
    with netcdf_file(str(path), mmap=False) as restart:
        points = np.array(restart.variables["coordinates"][:], dtype=np.float64).reshape(-1, 3)
    pos, threads = torch.from_numpy(points).float(), torch.get_num_threads()
    print(f"\ndistance_ranks, M = 192, {len(pos)} atoms, float32, open boundaries, {threads} threads")
    contestants: Dict[str, Callable[[], Any]] = {
        "distance_ranks": lambda: ops.distance_ranks(pos, 192),
        "scipy cKDTree.query": lambda: cKDTree(points).query(points, 193, workers=threads),
    }
    times = interleaved(contestants, max(3, rounds // 4))
    for label, values in times.items():
        print("  " + row(label, values))
    ours, scipys = (statistics.median(v) for v in times.values())
    print(f"  distance_ranks / scipy: {ours / scipys:.2f}")


TABLES = {
    "shells": benchmark_shells,
    "message": benchmark_message,
    "degrees": benchmark_degrees,
    "ranks": benchmark_ranks,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--peak-memory", metavar="STRUCTURE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    if options.peak_memory:
        print_peak_memory(options.peak_memory)
        return
    state = ops.status()
    print(f"torch {torch.__version__}; native ops: {state.library or state.why_not}")
    for table in options.tables:
        TABLES[table](options.rounds)


if __name__ == "__main__":
    main()
