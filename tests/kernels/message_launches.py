"""Launches of dilated_message's kernels, as csrc/cuda/dilated_message.cpp makes them, on CPU tensors.

``check`` gives the *run* of a kernel file, see ``checks``: the emulator, one of its sanitizer builds, or the
PTX interpreter.
"""

import ctypes
import functools
import subprocess
import tempfile
from pathlib import Path
from typing import Callable, Dict, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from dkmp_plugin.ops.builder import find_compiler
from tests.kernels.checks import Run
from tests.kernels.sources import KERNELS
from tests.ops.conftest import CUTOFF, MessageCase

__all__ = ["Plan", "backward", "directions_of", "forward", "group_edges", "macros_of", "message_plan"]

Check = Callable[[str], Run]
_TAPS = 6  # kernels/spline_plan.cuh
_GROUP_BLOCKS = 2  # fewer blocks than the launcher uses: every thread has several edges


class Plan(NamedTuple):
    """Layout of a row over a block, from ``dilated_message_plan.cuh``."""

    lane_channels: int
    warps: int
    passes: int
    slots: int
    edges: int
    edges_bytes: int
    most_teams: int
    team_bytes: int

    def block(self, teams: int) -> Tuple[int, int]:
        """Threads and shared bytes of a block of at most so many teams."""
        teams = min(teams, self.most_teams)
        return 32 * self.warps * teams, self.edges_bytes if teams == 1 else teams * self.team_bytes


@functools.cache
def _plan_library() -> ctypes.CDLL:
    text = '#include "dilated_message_plan.cuh"\nusing namespace dkmp;\nextern "C" {\n'
    for kind in ("forward", "backward", "query"):
        text += f"void {kind}(int w, int h, int b, MessagePlan* p) {{ *p = message_{kind}_plan(w, h, b); }}\n"
    text += "void table(int w, int, int b, MessagePlan* p) { *p = message_table_plan(w, b); }\n"
    text += "int head_width(int width, int heads) { return message_head_width(width, heads); }\n}\n"
    with tempfile.TemporaryDirectory() as work:
        source, library = Path(work) / "plan.cpp", Path(work) / "plan.so"
        source.write_text(text)
        command = [*find_compiler()[0], "-std=c++17", "-shared", "-fPIC", f"-I{KERNELS}", str(source)]
        subprocess.run([*command, "-o", str(library)], check=True)
        return ctypes.CDLL(str(library))


def message_plan(kind: str, macros: Dict[str, object]) -> Plan:
    """Plan of the kernel ``kind`` ("forward", "backward", "query", "table") for its macros."""
    number_bytes = {"float": 4, "double": 8}[str(macros["DKMP_SCALAR"])] * (1 + int(str(macros["DKMP_DUAL"])))
    numbers = (ctypes.c_int * len(Plan._fields))()
    width, heads = (int(str(macros[name])) for name in ("DKMP_WIDTH", "DKMP_HEADS"))
    getattr(_plan_library(), kind)(width, heads, number_bytes, numbers)
    return Plan(*numbers)


def padded_head_width(head_width: int, heads: int) -> int:
    """Channels per head after padding."""
    return int(_plan_library().head_width(head_width, heads))


def macros_of(case: MessageCase, dual: bool = False) -> Dict[str, object]:
    """Macros of the instance that computes a case."""
    return {
        "DKMP_SCALAR": "float" if case.value.dtype == torch.float32 else "double",
        "DKMP_DUAL": int(dual),
        "DKMP_WIDTH": case.value.size(1) // 3,
        "DKMP_HEADS": case.num_heads if case.query.numel() else 0,
        "DKMP_VECTOR": int(case.vector.numel() > 0),
    }


class Groups(NamedTuple):
    """Edges of a shell by one of their atoms: row a lists edges[starts[a]:starts[a + 1]]."""

    starts: Tensor
    edges: Tensor
    broken: Tensor


def group_edges(case: MessageCase, shell: int, row: int, check: Check) -> Groups:
    """Groups the edges of a shell by receiver (``row`` 0) or sender (1)."""
    atoms, num_edges = case.value.size(0), case.edge_index.size(1)
    counts, bounds, following = (torch.zeros(n, dtype=torch.int32) for n in (atoms + 1, 2 * atoms, atoms))
    broken = torch.zeros(1, dtype=torch.int32)
    edges, unordered = (torch.full((num_edges,), -1, dtype=torch.int32) for _ in range(2))
    given = [
        case.edge_index[row].clone(),
        case.edge_index[1 - row].clone(),
        case.ptr,
        shell,
        num_edges,
        atoms,
        atoms,
    ]
    run = check("shell_groups.cu")
    run("group_count", {}, _GROUP_BLOCKS, 256, [*given, counts, bounds, broken], 0)
    starts = counts.cumsum(0, dtype=torch.int32)
    given += [starts, bounds, following, unordered, edges]
    run("group_fill", {}, _GROUP_BLOCKS, 256, given)
    order = [starts, bounds, unordered, num_edges, atoms, edges]
    run("group_order", {}, (atoms + 7) // 8, 256, order, 0)
    return Groups(starts, edges, broken)


def directions_of(case: MessageCase, seed: int = 5) -> Tuple[Tensor, ...]:
    """Random directions of all differentiable inputs."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype) for x in case.features()
    )


def _shell_arguments(case: MessageCase, shell: int) -> list:
    width = CUTOFF / case.num_shells
    lower, upper = shell * width, (shell + 1) * width
    start, stop = max(0.0, lower - case.overlap / 2), min(CUTOFF, upper + case.overlap / 2)
    inner, outer = int(lower > 0), int(upper < CUTOFF)
    per_step = _intervals(case) / (stop - start)
    return [lower, upper, case.overlap, CUTOFF, start, per_step, inner, outer, _intervals(case), case.degree]


def _intervals(case: MessageCase) -> int:
    return len(case.table) - case.degree


def _padded(table: Optional[Tensor], case: MessageCase) -> Optional[Tensor]:
    """The rows that num_intervals of a lower degree lack."""
    return None if table is None else torch.nn.functional.pad(table, (0, 0, 0, _TAPS - 1 - case.degree))


def _inputs(case: MessageCase, shell: int, directions: Optional[Sequence[Optional[Tensor]]]) -> list:
    values = [x if x.numel() else None for x in case.features()]
    p = [None] * 6 if directions is None else [x if x is not None and x.numel() else None for x in directions]
    values[5], p[5] = _padded(values[5], case), _padded(p[5], case)
    return [*values, *p, *_shell_arguments(case, shell)]


def forward(
    case: MessageCase,
    shell: int,
    check: Check,
    directions: Optional[Sequence[Optional[Tensor]]] = None,
    teams: int = 1,
) -> Tuple[Tensor, Tensor]:
    """The message sums or, with directions, their directional derivatives."""
    macros = macros_of(case, directions is not None)
    plan, width = message_plan("forward", macros), int(str(macros["DKMP_WIDTH"]))
    threads, shared = plan.block(teams)
    groups = group_edges(case, shell, 0, check)
    atoms = len(case.value)
    scalar, vector = case.value.new_empty(atoms, width), case.value.new_empty(atoms, 8, width)
    check("dilated_message_forward.cu")(
        "dilated_message_forward",
        macros,
        len(case.value),
        threads,
        [*groups, case.edge_index[1].clone(), *_inputs(case, shell, directions), scalar, vector],
        shared,
    )
    return scalar, vector


def backward(
    case: MessageCase,
    shell: int,
    grads: Tuple[Tensor, Tensor],
    check: Check,
    directions: Optional[Sequence[Optional[Tensor]]] = None,
    teams: int = 1,
) -> Tuple[Tensor, ...]:
    """Gradients of (edge_vector, query, key, value, vector, table) or their directional derivatives."""
    macros = macros_of(case, directions is not None)
    inputs, results = _inputs(case, shell, directions), [torch.zeros_like(x) for x in case.features()]
    to_edges, to_query, to_key, to_value, to_vector, to_table = results
    by_sender, by_receiver = group_edges(case, shell, 1, check), group_edges(case, shell, 0, check)
    threads, shared = message_plan("backward", macros).block(teams)
    check("dilated_message_backward.cu")(
        "dilated_message_backward",
        macros,
        len(case.value),
        threads,
        [
            *by_sender,
            case.edge_index[0].clone(),
            *inputs,
            *grads,
            to_edges,
            to_key if to_key.numel() else None,
            to_value,
            to_vector if to_vector.numel() else None,
        ],
        shared,
    )
    scores = None
    if case.query.numel():
        threads, shared = message_plan("query", macros).block(teams)
        per_edge = 2 * case.num_heads * (2 if directions is not None else 1)
        scores = case.value.new_full((case.edge_index.size(1), per_edge), float("nan"))
        check("dilated_message_query.cu")(
            "dilated_message_query",
            macros,
            len(case.value),
            threads,
            [*by_receiver, case.edge_index[1].clone(), *inputs, grads[0], to_query, scores],
            shared,
        )
    _table_gradient(case, shell, grads, inputs, scores, by_sender.broken, macros, to_table, check)
    return tuple(results)


def _table_gradient(case, shell, grads, inputs, scores, broken, macros, to_table, check, pieces=2) -> None:
    run = check("dilated_message_table.cu")
    num_edges, num_intervals = case.edge_index.size(1), _intervals(case)
    padded = to_table.new_empty(num_intervals + _TAPS - 1, to_table.size(1))
    plan, width = message_plan("table", macros), int(str(macros["DKMP_WIDTH"]))
    intervals = torch.full((num_edges,), -1, dtype=torch.int32)
    given = [case.edge_index, case.ptr, shell, num_edges, len(case.value), *inputs, intervals]
    run("message_intervals", macros, (num_edges + 255) // 256, 256, given, 0)
    ordered, order = torch.sort(intervals, stable=True)
    starts = torch.searchsorted(ordered, torch.arange(num_intervals + 1, dtype=torch.int32))
    parts = case.value.new_empty(num_intervals * pieces, _TAPS, 4 * width)
    given = [starts, order, case.edge_index, num_edges, pieces, *inputs, *grads, scores, parts]
    blocks = num_intervals * pieces
    run("message_table_pieces", macros, blocks, plan.warps * 32, given, plan.edges_bytes)
    blocks = (padded.numel() + 255) // 256
    run("message_table_sum", macros, blocks, 256, [parts, broken, num_intervals, pieces, padded], 0)
    to_table.copy_(padded[: len(case.table)])
