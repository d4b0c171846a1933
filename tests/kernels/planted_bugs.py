"""Faults that are planted into kernels to see that the checks find them: a test of the tests.

To have another kernel file covered, add a function to ``VERIFY`` that launches its kernels with a given run
and compares with a reference, and faults to ``BUGS``. Barriers are removed one by one from every file in
``VERIFY``.
"""

import functools
import re
from dataclasses import dataclass
from typing import Callable, Dict, List, Tuple

import torch

from dkmp_plugin.ops import reference
from tests.kernels import attention_launches, degree_launches, message_launches
from tests.kernels import test_neighbor_kernels as neighbor_tests
from tests.kernels.checks import Run, emulator, inlined
from tests.kernels.sources import kernel_text
from tests.ops.conftest import MessageCase, message_case

__all__ = ["BUGS", "VERIFY", "Bug", "barriers", "source_of"]

# Patterns that no kernel of ours needs to have: a sum per block through shared memory, and a count per value.
BLOCK_SUMS = """
#include "common.cuh"
extern "C" __global__ void __launch_bounds__(128) block_sums(
    const Scalar* values, const int* bins, Scalar* sums, int* counts, int n) {
  DYN_SHARED(Scalar, warp_sums);
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const Scalar value = i < n ? values[i] : Scalar(0);
  const Scalar sum = warp_sum(value);
  if (lane == 0) warp_sums[warp] = sum;
  if (i < n) atomicAdd(counts + bins[i], 1);
  __syncthreads();
  if (threadIdx.x == 0) {
    Scalar total = 0;
    for (int w = 0; w < int(blockDim.x) / kWarp; ++w) total += warp_sums[w];
    sums[blockIdx.x] = total;
  }
}
"""
_TEXTS = {"block_sums": BLOCK_SUMS}


def source_of(file: str) -> str:
    """Text of a kernel file, or of a pattern above, with its headers in place."""
    return inlined(_TEXTS[file] if file in _TEXTS else kernel_text(file))


def _verify_block_sums(run: Run) -> None:
    size, block = 300, 128
    values = torch.arange(size, dtype=torch.float32)
    bins = (torch.arange(size) % 7).int()
    sums, counts = torch.full((3,), float("nan")), torch.zeros(7, dtype=torch.int32)
    run("block_sums", {}, 3, block, [values, bins, sums, counts, size], 4 * block // 32)
    padded = torch.nn.functional.pad(values, (0, 3 * block - size))
    assert torch.equal(sums, padded.view(3, block).sum(1)), "sums"
    assert torch.equal(counts.long(), torch.bincount(bins, minlength=7)), "counts"


def _verify_attention(run: Run) -> None:
    # Three heads leave a fourth place of every warp empty; 9 atoms leave warps without an atom.
    case = attention_launches.example(9, 3, 32, 35, torch.float32)
    computed = [attention_launches.forward(run, case, 0), *attention_launches.backward(run, case, 0)]
    attention_launches.assert_equal(computed, attention_launches.expected(case)[:5], 2e-5)


def _verify_degree_map(run: Run) -> None:
    # 63 items leave a thread of the block without one.
    case = degree_launches.map_example(9, 3, 21, torch.float64)
    for dual in (False, True):
        expected = degree_launches.expected_map(case, dual)
        torch.testing.assert_close(degree_launches.degree_map(run, case, dual), expected, rtol=0, atol=1e-11)


def _verify_degree_norm(run: Run) -> None:
    # 5 atoms leave two warps without one. Each degree is an array of its own, as sanitizers want it.
    case = degree_launches.norm_example(5, 33, torch.float64, apart=True)
    for dual in (False, True):
        expected = degree_launches.expected_norm(case, dual)
        torch.testing.assert_close(degree_launches.norm(run, case, dual), expected, rtol=0, atol=1e-11)


def _message_case(width: int) -> MessageCase:
    # Two atoms with 40 parallel edges each way: rows take two turns. Most edges have the
    # same length, so that an interval of the splines takes two turns as well.
    case = message_case(num_atoms=2, width=width, num_heads=width // 32, num_shells=1)
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(80, 3, generator=generator, dtype=torch.float64)
    vectors[20:] *= 2.0 / vectors[20:].norm(dim=1, keepdim=True)
    receivers = torch.arange(2).repeat_interleave(40)
    return case._replace(
        edge_vector=vectors, edge_index=torch.stack([receivers, 1 - receivers]), ptr=torch.tensor([0, 80])
    )


# Width and teams: one team and several, of two warps, and several of one warp that need eleven passes.
_MESSAGE_SHAPES = (128, 1), (128, 4), (352, 4)


def _only(file: str, run: Run) -> message_launches.Check:
    # The kernel file under test on the given run, the others as they are.
    return lambda other: run if other == file else emulator(kernel_text(other))


def _verify_message_forward(run: Run) -> None:
    for width, teams in _MESSAGE_SHAPES:
        case = _message_case(width)
        expected = case.call(reference.dilated_message, 0)
        computed = message_launches.forward(case, 0, _only("dilated_message_forward.cu", run), teams=teams)
        torch.testing.assert_close(computed, expected, rtol=1e-9, atol=1e-9)


def _verify_message_gradients(file: str, run: Run) -> None:
    for width, teams in _MESSAGE_SHAPES:
        case = _message_case(width)
        features = [x.clone().requires_grad_() for x in case.features()]
        values = case.call(reference.dilated_message, 0, *features)
        grads = torch.ones_like(values[0]), torch.ones_like(values[1])
        expected = torch.autograd.grad(values, features, grads)
        computed = message_launches.backward(case, 0, grads, _only(file, run), teams=teams)
        torch.testing.assert_close(computed, expected, rtol=1e-9, atol=1e-9)


def _verify_shell_groups(run: Run) -> None:
    case = message_case(num_atoms=24, num_shells=1)
    groups = message_launches.group_edges(case, 0, 1, _only("shell_groups.cu", run))
    assert torch.equal(groups.edges.long(), torch.argsort(case.edge_index[1], stable=True)), "edges"
    assert torch.equal(groups.starts.diff().long(), torch.bincount(case.edge_index[1])), "starts"


def _verify_edge_vectors(run: Run) -> None:
    # The neighbour search that makes its input runs on the emulator.
    marker = "edge_vectors_box_gradient"
    neighbor_tests.verify(lambda text: run if marker in text else emulator(text))


VERIFY: Dict[str, Callable[[Run], None]] = {
    "block_sums": _verify_block_sums,
    "dilated_attention.cu": _verify_attention,
    "dilated_message_forward.cu": _verify_message_forward,
    **{
        f"dilated_message_{kind}.cu": functools.partial(
            _verify_message_gradients, f"dilated_message_{kind}.cu"
        )
        for kind in ("backward", "query", "table")
    },
    "degree_maps.cu": _verify_degree_map,
    "degree_norm.cu": _verify_degree_norm,
    "shell_groups.cu": _verify_shell_groups,
    "edge_vectors.cu": _verify_edge_vectors,
}


@dataclass(frozen=True)
class Bug:
    """A fault: ``old`` becomes ``new`` in a text, and which checks find it."""

    name: str
    file: str
    old: str
    new: str
    found_by: Tuple[str, ...]

    def plant(self) -> str:
        """The faulty text."""
        source = source_of(self.file)
        if source.count(self.old) != 1:
            raise ValueError(f"{self.name}: {self.old!r} is {source.count(self.old)} times in {self.file}")
        return source.replace(self.old, self.new)


_ATTENTION = "dilated_attention.cu"
_NORM_INPUTS = (
    "  const Features x = Features{vector, vector_direction, num_channels}.at(place);\n"
    "  const Features w = weights_of({weight, weight_direction, num_channels}, place);\n"
)
BUGS: List[Bug] = [
    Bug(
        "write beyond shared memory",
        "block_sums",
        "if (lane == 0) warp_sums[warp] = sum;",
        "if (lane == 0) warp_sums[warp + 1] = sum;",
        ("emulator", "address", "ptx"),
    ),
    Bug(
        "scatter without atomics",
        "block_sums",
        "atomicAdd(counts + bins[i], 1);",
        "++counts[bins[i]];",
        ("thread",),
    ),
    Bug(
        "early return before a barrier",
        "block_sums",
        "const Scalar value = i < n ? values[i] : Scalar(0);",
        "if (i >= n && lane == 0) return;\n  const Scalar value = i < n ? values[i] : Scalar(0);",
        ("emulator", "ptx"),
    ),
    Bug(
        "wrong shuffle distance",
        _ATTENTION,
        "for (int distance = lanes / 2; distance > 0; distance /= 2) x = x",
        "for (int distance = lanes / 2; distance > 1; distance /= 2) x = x",
        ("emulator", "ptx"),
    ),
    Bug(
        "shuffle in a divergent branch",
        _ATTENTION,
        "        const Number sum = sum_over_heads(gradient, place.exists);",
        "        Number sum = gradient;\n        if (place.exists) sum = sum_over_heads(gradient, true);",
        ("emulator", "ptx"),
    ),
    Bug(
        "lanes leave before the warp shuffles",
        _ATTENTION,
        "  const Row<Number> own_key = load_row(",
        "  if (!place.exists) return;\n  const Row<Number> own_key = load_row(",
        ("emulator", "ptx"),
    ),
    Bug(
        "misaligned vector load",
        _ATTENTION,
        "if (used) loaded = load_pack<kPack>(from + pack * kPack);",
        "if (used) loaded = load_pack<kPack>(from + pack * kPack + (kPack > 1 ? 1 : 0));",
        ("emulator", "address", "ptx"),
    ),
    Bug(
        "warps beyond the last atom go on",
        _ATTENTION,
        "  if (place.atom >= num_atoms) return;\n  const Inputs x = {DKMP_INPUT_NAMES};\n  Attend attend",
        "  const Inputs x = {DKMP_INPUT_NAMES};\n  Attend attend",
        ("address", "ptx"),
    ),
    Bug(
        "two lanes write the same result",
        _ATTENTION,
        "  if (!place.exists) return;\n  to += (place.atom * num_heads + place.head) * kHeadWidth;",
        "  to += (place.atom * num_heads + place.head) * kHeadWidth;",
        ("thread",),
    ),
    Bug(
        "read beyond the end of a list",
        _ATTENTION,
        "const bool inside = first + lane < num_neighbors;",
        "const bool inside = true;",
        ("emulator", "address", "ptx"),
    ),
    Bug(
        "edges beyond the row are added",
        "dilated_message_forward.cu",
        "const int count = smaller(kPlan.edges, part.end - first);",
        "const int count = kPlan.edges;",
        ("address", "ptx"),
    ),
    Bug(
        "half of the lanes' sums are not stored",
        "dilated_message_backward.cu",
        "if (lane % 4 == 0) out.harmonic[lane / 4] = harmonic;",
        "if (lane % 8 == 0) out.harmonic[lane / 4] = harmonic;",
        ("emulator", "ptx"),
    ),
    Bug(
        "warps share one sum",
        "dilated_message_backward.cu",
        "EdgeSums& out = shared->sums[warp * kPlan.edges + e];",
        "EdgeSums& out = shared->sums[e];",
        ("emulator", "thread", "ptx"),
    ),
    Bug(
        "threads beyond the last item go on",
        "degree_maps.cu",
        "  if (atom >= num_atoms) return;\n",
        "",
        ("address", "ptx"),
    ),
    Bug(
        "channels of one component run into the next",
        "degree_maps.cu",
        "to[m * (Offset)num_channels] = result(out[at + m]);",
        "to[m * (Offset)(num_channels - 1)] = result(out[at + m]);",
        ("emulator", "thread", "ptx"),
    ),
    Bug(
        "warps beyond the last atom normalise",
        "degree_norm.cu",
        "  if (place.atom >= num_atoms) return;\n" + _NORM_INPUTS + "  Scalar* to",
        _NORM_INPUTS + "  Scalar* to",
        ("address", "ptx"),
    ),
    Bug(
        "a part of the weights' sum goes too far",
        "degree_norm.cu",
        "const Offset end = smaller(begin + part, (Offset)num_atoms);",
        "const Offset end = begin + part;",
        ("address", "ptx"),
    ),
    Bug(
        "counts without atomics",
        "shell_groups.cu",
        "atomicAdd(counts + 1 + row, run.length);",
        "counts[1 + row] += run.length;",
        ("thread",),
    ),
    Bug(
        "rows in the order of the schedule",
        "shell_groups.cu",
        "place += unordered[other] < e;",
        "place = base + lane;",
        ("emulator",),
    ),
]


def _barriers_of(text: str) -> List[Tuple[int, int]]:
    # Ends of each call; what sync_team itself consists of counts as one with its calls.
    body = re.search(r"void sync_team\(\) \{.*?\n\}\n", text, re.DOTALL)
    calls = re.finditer(r"(__syncthreads|sync_team<[\w.:]+>)\(\);", text)
    spans = [call.span() for call in calls]
    return [at for at in spans if body is None or not body.start() < at[0] < body.end()]


def _in_headers(file: str) -> int:
    """Number of barriers that a file has from its headers, which come first in its text."""
    return 0 if file in _TEXTS else len(_barriers_of(source_of(file))) - len(_barriers_of(kernel_text(file)))


def barriers(file: str) -> List[str]:
    """The texts that lack one of a file's barriers; a header's count for the first file that has it."""
    source, skipped = source_of(file), _in_headers(file)
    if file == next((name for name in VERIFY if _in_headers(name) == skipped), None):
        skipped = 0
    return [source[:begin] + ";" + source[end:] for begin, end in _barriers_of(source)[skipped:]]
