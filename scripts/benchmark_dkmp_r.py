"""Seconds and memory per predicted snapshot against the number of atoms (paper, Tables 1 and 2).

    python scripts/benchmark_dkmp_r.py

An exported (scripted) DKMP^R with random weights, d = 128, L = 6, M = 192, float32, ranks already known
(from scipy's k-d tree). Structures: the Amber restart of complex 11GS in water (41,693 atoms), cut to smaller
systems by distance from its centre and repeated side by side for larger ones; adenylate kinase for 3,341
atoms. Each size runs in a process of its own, so that its peak memory is its own.

Beside it, of the same width and depth, with random weights, in PyTorch: EGNN (egnn-pytorch, 16 nearest
neighbours; see scripts/install_benchmark_peers.sh), and the transformer of torchmd-net (5 Å). A peer that
needs more than ``--peer-seconds`` or ``--peer-gib`` for a size is left out from there on.

The last table has all sizes of DKMP^R in one process and in turns, for how the time per atom grows: a machine
that is shared changes its speed between one process and the next.
"""

import argparse
import resource
import subprocess
import sys
import time
from typing import Any, Callable, Dict, List, Sequence, Tuple

import numpy as np
import torch
from shared_data import data_folder

SIZES = (3341, 4880, 11122, 41693, 108000)
DATA = data_folder()
ADENYLATE_KINASE_ATOMS = 3341


def structure(num_atoms: int) -> np.ndarray:
    """Positions (N, 3) in Å with the density of a real solvated system."""
    if num_atoms == ADENYLATE_KINASE_ATOMS:
        import mdtraj

        return 10 * mdtraj.load(str(DATA / "adk" / "dims_002.dcd"), top=str(DATA / "adk" / "top.psf")).xyz[0]
    from scipy.io import netcdf_file

    with netcdf_file(str(DATA / "misato-sample" / "11gs_production.rst"), mmap=False) as file:
        positions = np.array(file.variables["coordinates"][:], dtype=np.float64).reshape(-1, 3)
        lengths = np.array(file.variables["cell_lengths"][:], dtype=np.float64)
    copies = -(-num_atoms // len(positions))
    shift = np.array([float(lengths[0]), 0.0, 0.0])
    positions = np.concatenate([positions + copy * shift for copy in range(copies)])
    if num_atoms < len(positions):
        distance = np.linalg.norm(positions - positions.mean(axis=0), axis=1)
        positions = positions[np.sort(np.argsort(distance)[:num_atoms])]
    return positions


def dkmp_r(num_atoms: int, threads: int) -> Tuple[Callable[[], Any], float]:
    """One evaluation of the exported DKMP^R, and the seconds that ranking took."""
    from scipy.spatial import cKDTree

    from dkmp_plugin.models import DKMPR
    from dkmp_plugin.simulation.propagator_file import DisplacementPredictor
    from dkmp_plugin.training.displacement import Displacement

    z, pos = inputs(num_atoms)
    begin = time.perf_counter()
    ranks = torch.from_numpy(cKDTree(pos).query(pos, k=193, workers=threads)[1][:, 1:].copy())
    ranking = time.perf_counter() - begin
    # TorchScript's profiling runs hold on to intermediate results: half a gigabyte for 40,000 atoms.
    torch.jit.set_fusion_strategy([("STATIC", 0)])
    predictor = DisplacementPredictor(DKMPR(128, 6, 8, 192), Displacement(128)).eval()
    for parameter in predictor.parameters():
        parameter.requires_grad_(False)
    scripted = torch.jit.freeze(torch.jit.script(predictor), preserved_attrs=["ranks"])
    return lambda: scripted(z, pos, ranks), ranking


def egnn(num_atoms: int, threads: int) -> Tuple[Callable[[], Any], float]:
    """One evaluation of EGNN with known neighbours."""
    from dkmp_plugin.evaluation.egnn_baseline import EGNNBaseline
    from dkmp_plugin.ops import distance_ranks

    z, pos = inputs(num_atoms)
    begin = time.perf_counter()
    neighbors = distance_ranks(pos, 16)
    ranking = time.perf_counter() - begin
    model = EGNNBaseline(hidden_channels=128, num_layers=6).eval()
    return lambda: model(z, pos, neighbors), ranking


def transformer(num_atoms: int, threads: int) -> Tuple[Callable[[], Any], float]:
    """One evaluation of torchmd-net's transformer, its own neighbour search included."""
    from torchmdnet.models.torchmd_t import TorchMD_T

    z, pos = inputs(num_atoms)
    model = TorchMD_T(hidden_channels=128, num_layers=6, cutoff_upper=5.0, max_num_neighbors=128).eval()
    return lambda: model(z, pos, torch.zeros_like(z)), 0.0


MODELS = {"dkmp-r": dkmp_r, "EGNN": egnn, "transformer": transformer}


def inputs(num_atoms: int) -> Tuple[torch.Tensor, torch.Tensor]:
    """Random elements of organic matter (N,), and positions (N, 3) in Å."""
    return torch.tensor([1, 6, 7, 8])[torch.randint(0, 4, (num_atoms,))], torch.from_numpy(
        structure(num_atoms)
    ).float()


def measure(model: str, num_atoms: int, repeats: int, threads: int) -> None:
    """Prints the median seconds, their spread, the peak memory in GiB, and the seconds of ranking."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    run, ranking = MODELS[model](num_atoms, threads)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    with torch.inference_mode():
        for _ in range(repeats + 2):
            begin = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - begin)
    seconds = seconds[2:]  # the first calls compile
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{model:12s} {num_atoms:8d} {np.median(seconds):10.3f} {min(seconds):8.3f} {max(seconds):8.3f} "
        f"{1e6 * np.median(seconds) / num_atoms:10.2f} {peak / 2**20:10.2f} {(peak - before) / 2**20:10.2f} "
        f"{ranking:10.2f}",
        flush=True,
    )


def measure_growth(sizes: Sequence[int], repeats: int, threads: int) -> None:
    """Prints the median microseconds per atom of all sizes in turns, and the largest over the smallest."""
    torch.set_num_threads(threads)
    runs = {}
    for size in sizes:
        torch.manual_seed(0)
        runs[size] = dkmp_r(size, threads)[0]
    per_atom: Dict[int, List[float]] = {size: [] for size in sizes}
    with torch.inference_mode():
        for turn in range(repeats + 2):
            for size, run in runs.items():
                begin = time.perf_counter()
                run()
                if turn >= 2:  # the first calls compile
                    per_atom[size].append(1e6 * (time.perf_counter() - begin) / size)
    medians = {size: float(np.median(values)) for size, values in per_atom.items()}
    for size, values in per_atom.items():
        print(f"dkmp-r {size:8d} atoms: {medians[size]:6.2f} [{min(values):.2f}, {max(values):.2f}] us/atom")
    ratio = max(medians.values()) / min(medians.values())
    print(f"time per atom, largest over smallest: {ratio:.2f}", flush=True)


def run_alone(model: str, size: int, arguments: argparse.Namespace) -> bool:
    """One size in a process of its own; whether it finished within the limits of peers."""
    command = [sys.executable, __file__, "--one", model, str(size), "--repeats", str(arguments.repeats)]
    command += ["--threads", str(arguments.threads)]
    if model == "dkmp-r":
        subprocess.run(command, check=True)
        return True
    limit = int(arguments.peer_gib * 2**30)
    try:
        answer = subprocess.run(
            command,
            timeout=arguments.peer_seconds,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
        )
        reason = answer.stderr.strip().splitlines()[-1:] if answer.returncode else None
    except subprocess.TimeoutExpired:
        reason = [f"more than {arguments.peer_seconds} s"]
    if reason is not None:
        print(f"{model:12s} {size:8d} stopped: {''.join(reason)[:90]}", flush=True)
    return reason is None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer-seconds", type=float, default=120.0)
    parser.add_argument("--peer-gib", type=float, default=16.0)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--growth-repeats", type=int, default=9, help="0 leaves the last table out")
    parser.add_argument("--growth", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.growth:
        measure_growth(arguments.sizes, arguments.growth_repeats, arguments.threads)
        return
    if arguments.one is not None:
        measure(arguments.one[0], int(arguments.one[1]), arguments.repeats, arguments.threads)
        return
    from dkmp_plugin import ops

    print(f"threads {arguments.threads}; native ops: {ops.status().native}; median of {arguments.repeats}")
    print(
        f"{'model':12s} {'atoms':>8s} {'s/snapshot':>10s} {'min':>8s} {'max':>8s} {'us/atom':>10s} "
        f"{'peak GiB':>10s} {'model GiB':>10s} {'ranking s':>10s}",
        flush=True,
    )
    running = list(arguments.models)
    for size in arguments.sizes:
        # Sizes outside, models inside: whatever else the machine does meets all of them.
        running = [model for model in running if run_alone(model, size, arguments)]
    if "dkmp-r" in arguments.models and arguments.growth_repeats > 0:
        subprocess.run([sys.executable, *sys.argv, "--growth"], check=True)


if __name__ == "__main__":
    main()
