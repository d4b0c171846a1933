"""Speed and memory of the main job, beside peers and pure MM measured in the same run.

Four tables (choose with --tables):
  simulation  ML/MM against pure-MM step time, T4 lysozyme L99A + p-xylene, OpenMM CPU platform
  potential   energy + forces on chignolin (166 atoms): exported DKMP^C (L=6, d=128; six shells to
              12 Å, two shells to 8 Å) against schnetpack's PaiNN (if importable, see
              install_benchmark_peers.sh) and torchmd-net's equivariant-transformer and
              graph-network of the same width and depth (5 Å)
  training    one step of AdamW on energies and forces of two chignolins, DKMP^C and PaiNN as above
  graph       radius_shells, cutoff 12 Å, 2,489 to 30,327 atoms: time, peak memory, growth

All timings: rounds of all contestants in turn, median [minimum, maximum]; of potential and training the
second of two runs in every turn. Weights are random: they do not matter for speed. The structures are
torchmd-net's benchmark files in DKMP_DATA (../shared/data).
"""

import argparse
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import numpy as np
import torch
from measuring import interleaved, peak_rise, row
from s2ef.models import build_model
from shared_data import data_folder
from torchmdnet_settings import TORCHMDNET_SETTINGS

from dkmp_plugin.config import REVISIONS

ROOT = Path(__file__).resolve().parent.parent
DATA = data_folder()
GRAPH_STRUCTURES = ("dhfr.pdb", "factorIX.pdb", "stmv.pdb")


def load_structure(name: str) -> Any:
    import mdtraj

    path = DATA / "torchmdnet-bench" / name
    if not path.is_file():
        raise SystemExit(f"{path} is missing; set DKMP_DATA to the folder of the shared data sets")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mdtraj.load(str(path))


# --- ML/MM against MM ------------------------------------------------------------------------------------


def benchmark_simulation(rounds: int, threads: int) -> None:
    import openmm
    from openmm import unit
    from openmmml import MLPotential

    sys.path.insert(0, str(ROOT / "examples"))
    from t4_lysozyme import load_complex

    complex_ = load_complex()
    potential = MLPotential("dkmp")
    systems = {"pure MM (Amber ff96, OBC2)": complex_.system}
    for interpolate in (False, True):
        name = "ML/MM, interpolate=" + str(interpolate)
        systems[name] = potential.createMixedSystem(
            complex_.topology, complex_.system, complex_.ligand, interpolate=interpolate
        )
    contestants = {}
    steps = 10
    for name, system in systems.items():
        integrator = openmm.LangevinMiddleIntegrator(300, 1.0, 0.001)
        platform = openmm.Platform.getPlatformByName("CPU")
        context = openmm.Context(system, integrator, platform, {"Threads": str(threads)})
        context.setPositions(complex_.positions * unit.angstrom)
        context.setVelocitiesToTemperature(300, 1)
        contestants[name] = lambda context=context: context.getIntegrator().step(steps)
    times = {
        name: [value / steps for value in values] for name, values in interleaved(contestants, rounds).items()
    }
    mm = statistics.median(times["pure MM (Amber ff96, OBC2)"])
    print(f"\n## Step time, T4 lysozyme L99A + p-xylene (2,621 atoms), OpenMM CPU, {threads} threads")
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{row(name, values)}  {86.4 / median:.3f} ns/day  {median / mm:.2f} x pure MM")


# --- Energy and forces against peers ---------------------------------------------------------------------


# Of all models of the tables of energies and forces.
SIZE: Dict[str, Any] = {"embedding_dimension": 128, "num_layers": 6, "num_rbf": 32, "cutoff_upper": 5.0}


def torchmdnet_model(architecture: str, **changes: Any) -> torch.nn.Module:
    from torchmdnet.models.model import create_model

    settings = {**TORCHMDNET_SETTINGS, **SIZE, "model": architecture, "revision": REVISIONS[-1], **changes}
    return create_model(settings).eval()


def exported_dkmp(z: torch.Tensor, pos: torch.Tensor, **settings: Any) -> Callable[[], torch.Tensor]:
    """What TorchForce does with an exported module: freeze it, energy, backward."""
    from dkmp_plugin.simulation.export import EnergyModel

    model = EnergyModel(torchmdnet_model("dkmp-c", max_num_neighbors=0, **settings)).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    module = torch.jit.freeze(torch.jit.script(model))

    def run() -> torch.Tensor:
        leaf = pos.clone().requires_grad_(True)
        energy = module(z, leaf, None)
        energy.backward()
        return -leaf.grad

    # TorchScript watches a module, then compiles it: the first three calls are slower.
    for _ in range(3):
        run()
    return run


def benchmark_potential(rounds: int, threads: int) -> None:
    structure = load_structure("chignolin.pdb")
    z = torch.tensor([atom.element.atomic_number for atom in structure.topology.atoms])
    pos = torch.tensor(structure.xyz[0] * 10)
    batch = torch.zeros_like(z)
    # One pass through the paper's shells, and three passes through those of examples/dkmp.yaml.
    contestants: Dict[str, Callable[[], Any]] = {
        "dkmp-c, 12 Å, 6 shells": exported_dkmp(z, pos, cutoff_upper=12.0),
        "dkmp-c, 8 Å, 2 shells": exported_dkmp(z, pos, cutoff_upper=8.0, num_shells=2),
    }
    try:
        peer = build_model("painn", SIZE).eval()
        contestants["PaiNN (schnetpack), 5 Å"] = lambda: peer(z, pos, batch)[1]
    except ImportError as error:
        print(f"PaiNN is left out: {error}; see scripts/install_benchmark_peers.sh")
    for architecture in ("equivariant-transformer", "graph-network"):
        model = torchmdnet_model(architecture)
        contestants[architecture + ", 5 Å"] = lambda model=model: model(z, pos.clone(), batch)[1]
    times = interleaved(contestants, rounds, follow_themselves=True)
    print(f"\n## Energy + forces, chignolin (166 atoms), d=128, 6 layers, float32, {threads} threads")
    far, near = [statistics.median(times[name]) for name in list(times)[:2]]
    for name, values in times.items():
        middle = statistics.median(values)
        print(f"{row(name, values)}  dkmp-c / this: 12 Å {far / middle:.2f}, 8 Å {near / middle:.2f}")


def training_step(
    model: Any,
    parameters: Iterator[torch.nn.Parameter],
    z: torch.Tensor,
    pos: torch.Tensor,
    batch: torch.Tensor,
) -> Callable[[], None]:
    """One step of AdamW on random energies and forces."""
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    energies, forces = torch.randn(int(batch[-1]) + 1), torch.randn_like(pos)

    def run() -> None:
        energy, force = model(z, pos.clone(), batch)
        loss = (energy.flatten() - energies).square().mean() + (force - forces).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run


def benchmark_training(rounds: int, threads: int) -> None:
    structure = load_structure("chignolin.pdb")
    numbers = torch.tensor([atom.element.atomic_number for atom in structure.topology.atoms])
    copies = 2
    z = numbers.repeat(copies)
    batch = torch.arange(copies).repeat_interleave(len(numbers))
    pos = torch.tensor(structure.xyz[0] * 10).repeat(copies, 1)
    dkmp = torchmdnet_model("dkmp-c", cutoff_upper=12.0, max_num_neighbors=0).train()
    contestants = {"dkmp-c, 12 Å": training_step(dkmp, dkmp.parameters(), z, pos, batch)}
    try:
        peer = build_model("painn", SIZE)
        contestants["PaiNN (schnetpack), 5 Å"] = training_step(peer, peer.parameters(), z, pos, batch)
    except ImportError as error:
        print(f"PaiNN is left out: {error}; see scripts/install_benchmark_peers.sh")
    times = interleaved(contestants, rounds, follow_themselves=True)
    print(f"\n## Training step, {copies} x chignolin, d=128, 6 layers, float32, {threads} threads")
    first = statistics.median(next(iter(times.values())))
    for name, values in times.items():
        print(f"{row(name, values)}  dkmp-c / this = {first / statistics.median(values):.2f}")


# --- The graph ---------------------------------------------------------------------------------------------


def measure_graph(name: str, rounds: int) -> None:
    """In a process of its own, so that the peak memory is this structure's: prints one line."""
    from dkmp_plugin.ops import radius_shells

    structure = load_structure(name)
    pos = torch.tensor(structure.xyz[0] * 10)
    batch = torch.zeros(len(pos), dtype=torch.long)
    radius_shells(pos[:100], batch[:100], None, 12.0, 6, 1.0, 0)
    edge_counts, times = [], []

    def run() -> None:
        for _ in range(rounds):
            start = time.perf_counter()
            edge_index, _, _ = radius_shells(pos, batch, None, 12.0, 6, 1.0, 0)
            times.append((time.perf_counter() - start) * 1e3)
            edge_counts.append(edge_index.shape[1])

    peak = peak_rise(run)
    result = [len(pos), edge_counts[0], statistics.median(times), min(times), max(times), peak]
    print(" ".join(map(str, result)))


def benchmark_graph(rounds: int, threads: int) -> None:
    print(f"\n## radius_shells, cutoff 12 Å, 6 shells, overlap 1 Å, float32, {threads} threads")
    # Rounds over the structures, one process each, so that a busy moment hits all of them.
    samples: Dict[str, List[np.ndarray]] = {name: [] for name in GRAPH_STRUCTURES}
    for _ in range(3):
        for name in GRAPH_STRUCTURES:
            command = [sys.executable, __file__, "--measure-graph", name, "--rounds", str(rounds)]
            command += ["--threads", str(threads)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            samples[name].append(np.array(done.stdout.split()[-6:], dtype=float))
    first = None
    for name, runs in samples.items():
        atoms, edges = int(runs[0][0]), int(runs[0][1])
        per_edge = np.median([values[2] / values[1] for values in runs]) * 1e6
        per_atom = np.median([values[2] for values in runs]) / atoms * 1e3
        first = first or (atoms, per_atom, per_edge)
        print(
            f"{name:14s} {atoms:6d} atoms {edges:9d} edges  {np.median([v[2] for v in runs]):8.1f} "
            f"[{min(v[3] for v in runs):.1f}, {max(v[4] for v in runs):.1f}] ms  "
            f"peak memory {np.median([v[5] for v in runs]):6.0f} MiB (edge list {edges * 28 / 2**20:.0f})  "
            f"growth / linear in atoms {per_atom / first[1]:.2f}, in edges {per_edge / first[2]:.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15, help="rounds of every contestant (default 15)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch and OpenMM (default 2)")
    tables = {
        "simulation": benchmark_simulation,
        "potential": benchmark_potential,
        "training": benchmark_training,
        "graph": benchmark_graph,
    }
    parser.add_argument("--tables", nargs="+", choices=tables, default=list(tables))
    parser.add_argument("--measure-graph", metavar="STRUCTURE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.measure_graph:
        measure_graph(arguments.measure_graph, arguments.rounds)
        return
    for name in arguments.tables:
        tables[name](arguments.rounds, arguments.threads)


if __name__ == "__main__":
    main()
