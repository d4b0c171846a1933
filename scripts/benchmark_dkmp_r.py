"""Seconds and memory per predicted snapshot against the number of atoms (paper, Tables 1 and 2).

    python scripts/benchmark_dkmp_r.py

An exported (scripted) DKMP^R with random weights, d = 128, L = 6, M = 192, float32, ranks already known
(from scipy's k-d tree). Structures: the Amber restart of complex 11GS in water (41,693 atoms), cut to smaller
systems by distance from its centre and repeated side by side for larger ones; adenylate kinase for 3,341
atoms. Each size runs in a process of its own, so that its peak memory is its own.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

SIZES = (3341, 4880, 11122, 41693, 108000)
DATA = Path(os.environ.get("DKMP_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
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


def measure(num_atoms: int, repeats: int, threads: int) -> None:
    """Prints the median seconds, their spread, the peak memory in GiB, and the seconds of ranking."""
    import torch
    from scipy.spatial import cKDTree

    from dkmp_plugin.models import DKMPR
    from dkmp_plugin.simulation.propagator_file import DisplacementPredictor
    from dkmp_plugin.training.displacement import Displacement

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    positions = structure(num_atoms)
    begin = time.perf_counter()
    ranks = torch.from_numpy(cKDTree(positions).query(positions, k=193, workers=threads)[1][:, 1:])
    ranking = time.perf_counter() - begin
    pos = torch.from_numpy(positions).float()
    z = torch.randint(0, 4, (num_atoms,))
    z = torch.tensor([1, 6, 7, 8])[z]
    predictor = DisplacementPredictor(DKMPR(128, 6, 8, 192), Displacement(128)).eval()
    for parameter in predictor.parameters():
        parameter.requires_grad_(False)
    scripted = torch.jit.freeze(torch.jit.script(predictor), preserved_attrs=["ranks"])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    with torch.inference_mode():
        for _ in range(repeats + 2):
            begin = time.perf_counter()
            scripted(z, pos, ranks)
            seconds.append(time.perf_counter() - begin)
    seconds = seconds[2:]  # the first calls compile
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{num_atoms:8d} {np.median(seconds):10.3f} {min(seconds):8.3f} {max(seconds):8.3f} "
        f"{1e6 * np.median(seconds) / num_atoms:10.2f} {peak / 2**20:10.2f} {(peak - before) / 2**20:10.2f} "
        f"{ranking:10.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        measure(arguments.one, arguments.repeats, arguments.threads)
        return
    from dkmp_plugin import ops

    print(f"threads {arguments.threads}; native ops: {ops.status().native}; median of {arguments.repeats}")
    print(
        f"{'atoms':>8s} {'s/snapshot':>10s} {'min':>8s} {'max':>8s} {'us/atom':>10s} {'peak GiB':>10s} "
        f"{'model GiB':>10s} {'kd-tree s':>10s}",
        flush=True,
    )
    for size in arguments.sizes:
        command = [sys.executable, __file__, "--one", str(size), "--repeats", str(arguments.repeats)]
        subprocess.run([*command, "--threads", str(arguments.threads)], check=True)


if __name__ == "__main__":
    main()
