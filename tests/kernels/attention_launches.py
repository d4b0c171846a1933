"""Launches of dilated_attention's kernels, as csrc/cuda/dilated_attention.cpp makes them, on CPU tensors."""

from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Tuple

import torch
from torch import Tensor

from dkmp_plugin.ops import reference
from tests.kernels.checks import Run
from tests.kernels.sources import kernel_text

SOURCE = "dilated_attention.cu"
THREADS = 128


@dataclass
class Case:
    """One call: inputs, their directions (None = zero), the gradient of the result."""

    inputs: List[Optional[Tensor]]  # query, key, value (N, H, D), bias (N, K)
    directions: List[Optional[Tensor]]
    upstream: Tensor
    neighbors: Tensor
    scale: float = 0.4


def example(atoms, heads, width, neighbors, dtype=torch.float64, seed=0, absent=0.2, bias=True, narrow=False):
    """Random call with some absent neighbours, one atom without any and one that nobody lists."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    index = torch.randint(0, atoms, (atoms, neighbors), generator=generator)
    index[torch.rand(index.shape, generator=generator) < absent] = -1
    index[index == atoms // 2] = -1
    index[atoms // 3] = -1
    features = [(atoms, heads, width)] * 3 + [(atoms, neighbors)]
    inputs = [random(*shape) for shape in features]
    directions = [random(*shape) for shape in features]
    if not bias:
        inputs[3] = directions[3] = None
    return Case(inputs, directions, random(atoms, heads, width), index.int() if narrow else index)


def macros(case: Case, dual: int) -> Dict[str, object]:
    """Macros of the instance that serves a call."""
    query = case.inputs[0]
    return {
        "DKMP_SCALAR": "float" if query.dtype == torch.float32 else "double",
        "DKMP_DUAL": dual,
        "DKMP_HEAD_WIDTH": query.size(2),
        "DKMP_WIDE_NEIGHBORS": int(case.neighbors.dtype == torch.int64),
    }


def head_groups(heads: int, width: int, dtype: torch.dtype) -> int:
    """Warps per atom; mirrors the constants at the top of the kernel."""
    widest = 16 // dtype.itemsize
    pack = widest if width % widest == 0 else 2 if width % 2 == 0 else 1
    lanes = 1
    while lanes < min(32, width // pack):
        lanes *= 2
    return -(-heads // (32 // lanes))


def sender_lists(neighbors: Tensor) -> Tuple[Tensor, Tensor]:
    """Edges i K + k sorted by sender, and where the edges of every sender start (N + 1,)."""
    senders, edges = neighbors.flatten().sort(stable=True)
    start = torch.searchsorted(senders, torch.arange(neighbors.size(0) + 1, dtype=neighbors.dtype))
    return start, edges


def forward(run: Run, case: Case, dual: int) -> Tensor:
    """The result, or its derivative."""
    query = case.inputs[0]
    atoms, heads, width = query.shape
    grid = -(-atoms * head_groups(heads, width, query.dtype) // (THREADS // 32))
    to = torch.full_like(query, float("nan"))
    directions = case.directions if dual else [None] * 4
    size = [case.scale, atoms, heads, case.neighbors.size(1)]
    args = [*case.inputs, *directions, case.neighbors, to, *size]
    run("dilated_attention_forward", macros(case, dual), grid, THREADS, args)
    return to


def backward(run: Run, case: Case, dual: int) -> List[Optional[Tensor]]:
    """Gradients of query, key, value and bias, or their derivatives."""
    query = case.inputs[0]
    atoms, heads, width = query.shape
    groups = head_groups(heads, width, query.dtype)
    grid = -(-atoms * groups // (THREADS // 32))
    to_query, to_key, to_value = (torch.full_like(query, float("nan")) for _ in range(3))
    statistics = torch.full((atoms, heads, 5 if dual else 3), float("nan"), dtype=query.dtype)
    to_bias = torch.zeros((groups, *case.neighbors.shape), dtype=query.dtype)
    directions = case.directions if dual else [None] * 4
    inputs = [case.upstream, *case.inputs, *directions]
    size = [case.scale, atoms, heads, case.neighbors.size(1)]
    run(
        "dilated_attention_receivers",
        macros(case, dual),
        grid,
        THREADS,
        [*inputs, case.neighbors, to_query, statistics, *size],
    )
    with_bias = case.inputs[3] is not None
    sums = [to_key, to_value, to_bias if with_bias else None]
    run(
        "dilated_attention_senders",
        macros(case, dual),
        grid,
        THREADS,
        [*inputs, statistics, *sender_lists(case.neighbors), *sums, *size],
    )
    return [to_query, to_key, to_value, to_bias.sum(0) if with_bias else None]


def everything(run: Run, case: Case) -> List[Optional[Tensor]]:
    """Result, gradients, and the double backward: gradients of sum(gradients . directions)."""
    return [forward(run, case, 0), *backward(run, case, 0), forward(run, case, 1), *backward(run, case, 1)]


def expected(case: Case) -> List[Optional[Tensor]]:
    """The same from the reference in float64 with autograd."""
    inputs = [None if x is None else x.double().requires_grad_() for x in case.inputs]
    given = [x for x in inputs if x is not None]
    upstream = case.upstream.double().requires_grad_()
    out = reference.dilated_attention(*inputs[:3], case.neighbors, inputs[3], case.scale)
    first = torch.autograd.grad(out, given, upstream, create_graph=True)
    directions = [p for x, p in zip(case.inputs, case.directions, strict=True) if x is not None]
    total = sum(
        ((g * p.double()).sum() for g, p in zip(first, directions, strict=True) if p is not None),
        torch.zeros((), dtype=torch.float64),
    )
    second = torch.autograd.grad(total, [upstream, *given], materialize_grads=True)
    absent: Sequence[Optional[Tensor]] = [None] if inputs[3] is None else []
    return [out.detach(), *(x.detach() for x in first), *absent, *second, *absent]


def assert_equal(computed, wanted, relative: float) -> None:
    """Every array within ``relative`` of its largest entry, or of one."""
    for place, (ours, theirs) in enumerate(zip(computed, wanted, strict=True)):
        assert (ours is None) == (theirs is None), place
        if ours is None or theirs.numel() == 0:
            continue
        error, size = float((ours.double() - theirs).abs().max()), float(theirs.abs().max())
        assert error <= relative * max(size, 1.0), f"array {place}: {error} against {size}"


def text() -> str:
    """The kernel's text."""
    return kernel_text(SOURCE)
