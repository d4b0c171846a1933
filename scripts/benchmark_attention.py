"""Times dilated_attention against gather + softmax in PyTorch and against the bytes it must move.

Neighbours are the K nearest atoms of real structures, atoms in file order: adenylate kinase (``adk``) and the
first atoms of the solvated complex 11gs (``misato-sample``); features are random. Reads ``$DKMP_DATA``
(default: ``../shared/data``). Runs of all candidates are interleaved; the table shows medians, with the
quartiles in brackets.

The bytes floor counts every input and result of the forward pass once, at the speed of a parallel memory
copy measured in the same round. Extra memory is the rise of the process's peak (Linux) less the results, in
units of the results. ``--cpu-time`` reports the processor time of all threads instead of wall time:
with ``--threads 1``, it compares fairly on a machine that is busy with other work.
"""

import argparse
import statistics
import sys
import time
from typing import Callable, List, Tuple

import torch
from measuring import interleaved, peak_rise
from scipy.io import netcdf_file
from scipy.spatial import cKDTree
from shared_data import data_folder
from torch import Tensor

from dkmp_plugin import ops

DATA = data_folder()
HEADS, WIDTH = 4, 32
Inputs = Tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def read_positions(num_atoms: int) -> Tensor:
    """Positions (num_atoms, 3) in Å of adenylate kinase (3341 atoms) or the first atoms of solvated 11gs."""
    if num_atoms == 3341:
        from mdtraj.formats import DCDTrajectoryFile

        with DCDTrajectoryFile(str(DATA / "adk" / "dims_002.dcd")) as trajectory:
            return torch.tensor(trajectory.read(1)[0][0])
    with netcdf_file(DATA / "misato-sample" / "11gs_production.rst", mmap=False) as restart:
        return torch.tensor(restart.variables["coordinates"][:num_atoms].astype("float32"))


def make_inputs(num_atoms: int, num_neighbors: int) -> Inputs:
    """Random query, key, value (N, H, D), nearest neighbours (N, K) int64 and minus their distances."""
    pos = read_positions(num_atoms).numpy()
    distance, index = cKDTree(pos).query(pos, num_neighbors + 1, workers=2)
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, num_atoms, HEADS, WIDTH, generator=generator).unbind(0)
    bias = -torch.tensor(distance[:, 1:], dtype=torch.float32).contiguous()
    features = [x.clone().requires_grad_() for x in (query, key, value)]
    return (*features, torch.tensor(index[:, 1:]).contiguous(), bias.requires_grad_())


def gather_and_softmax(query: Tensor, key: Tensor, value: Tensor, neighbors: Tensor, bias: Tensor) -> Tensor:
    """What one writes without the op."""
    logits = torch.einsum("nhd,nkhd->nkh", query, key[neighbors]) + bias.unsqueeze(2)
    weights = torch.softmax(logits * WIDTH**-0.5, 1)
    return torch.einsum("nkh,nkhd->nhd", weights, value[neighbors])


def forward(function: Callable, inputs: Inputs) -> Callable[[], None]:
    def run() -> None:
        with torch.no_grad():
            function(*inputs)

    return run


def forward_and_backward(function: Callable, inputs: Inputs) -> Callable[[], None]:
    upstream = torch.randn(inputs[0].shape)
    differentiable = [inputs[0], inputs[1], inputs[2], inputs[4]]

    def run() -> None:
        torch.autograd.grad(function(*inputs), differentiable, upstream)

    return run


def memory_copy(num_bytes: int) -> Callable[[], None]:
    """Copy that reads and writes ``num_bytes`` altogether."""
    source, target = torch.ones(num_bytes // 8), torch.zeros(num_bytes // 8)
    return lambda: (target.copy_(source), None)[1]


def floor_bytes(inputs: Inputs) -> int:
    """Bytes of every input and the result of the forward pass."""
    return sum(x.numel() * x.element_size() for x in inputs) + inputs[0].numel() * inputs[0].element_size()


def spread(times: List[float]) -> str:
    low, middle, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
    return f"{middle:.1f} [{low:.1f}-{high:.1f}]"


def report(num_atoms: int, num_neighbors: int, rounds: int, slow: int, clock: Callable[[], float]) -> None:
    """Prints the row of one size."""
    inputs = make_inputs(num_atoms, num_neighbors)
    native_forward = forward(ops.dilated_attention, inputs)
    native_both = forward_and_backward(ops.dilated_attention, inputs)
    native_forward(), native_both()
    outputs = inputs[0].numel() * 4
    gradients = 3 * outputs + inputs[4].numel() * 4
    memory = (peak_rise(native_forward) * 2**20 - outputs) / outputs
    memory_both = (peak_rise(native_both) * 2**20 - outputs - gradients) / (outputs + gradients)
    candidates = {
        "copy": memory_copy(floor_bytes(inputs)),
        "forward": native_forward,
        "both": native_both,
        "pytorch forward": forward(gather_and_softmax, inputs),
        "pytorch both": forward_and_backward(gather_and_softmax, inputs),
    }
    fewer_rounds = {name: slow for name in candidates if name.startswith("pytorch")}
    times = interleaved(candidates, rounds, clock=clock, fewer_rounds=fewer_rounds)
    middle = {name: statistics.median(values) for name, values in times.items()}
    print(
        f"| {num_atoms} | {num_neighbors} | "
        + " | ".join(spread(times[name]) for name in candidates)
        + f" | {middle['forward'] / middle['copy']:.1f} | {middle['pytorch forward'] / middle['forward']:.0f}"
        f" | {middle['pytorch both'] / middle['both']:.0f} | {memory:.2f} | {memory_both:.2f} |",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Benchmark dilated_attention (float32, H = 4, D = 32).")
    parser.add_argument("--atoms", type=int, nargs="+", default=[3341, 11122, 40798])
    parser.add_argument("--neighbors", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--slow-rounds", type=int, default=3, help="rounds of the PyTorch peer")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true", help="processor time of all threads")
    options = parser.parse_args()
    if not (DATA / "adk").is_dir():
        print(f"no benchmark data in {DATA}; set DKMP_DATA to the folder that holds adk/", file=sys.stderr)
        return 1
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.cpu_time else time.perf_counter
    kind = "processor time of all threads" if options.cpu_time else "time on the wall"
    print(f"{ops.status()}\n{options.threads} threads; {kind} in ms: median [quartiles]\n")
    print(
        "| atoms | K | bytes floor | forward | forward + backward | PyTorch forward | PyTorch both "
        "| forward / floor | PyTorch / forward | PyTorch / both | extra memory, forward | and both |"
    )
    print("|" + "---|" * 12)
    for num_atoms in options.atoms:
        for num_neighbors in options.neighbors:
            report(num_atoms, num_neighbors, options.rounds, options.slow_rounds, clock)
    return 0


if __name__ == "__main__":
    sys.exit(main())
