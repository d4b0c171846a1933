"""Launches of the kernels of degree_map and degree_norm, as csrc/cuda/degree_*.cpp make them, on CPU tensors.

What they should give comes from the CPU's ops, which tests/ops compares with the reference.
"""

import re
from typing import List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from tests.kernels.checks import Run
from tests.kernels.sources import header_text

MAPS, NORM = "degree_maps.cu", "degree_norm.cu"
MAP_THREADS, NORM_THREADS, MOST_TENSORS = 64, 128, 8
SIZES = (3, 5)


class MapShape(NamedTuple):
    """Components of a map's inputs and results."""

    inputs: List[int]
    results: List[int]


def map_shapes() -> List[MapShape]:
    """The table of the maps."""
    rows = re.findall(
        r'\{"degree_\w+", \d+, \d+, \{([\d, ]+)\}, \{([\d, ]+)\}\}', header_text("degree_maps_plan.cuh")
    )
    return [MapShape(*([int(x) for x in part.split(",")] for part in row)) for row in rows]


def scalar_name(dtype: torch.dtype) -> str:
    return "float" if dtype == torch.float32 else "double"


def numbers(generator: torch.Generator, dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


class MapCase(NamedTuple):
    """A call of degree_map: inputs and their directions, (N, components, d) each."""

    map: int
    inputs: List[Tensor]
    directions: List[Tensor]


def map_example(map: int, atoms: int, channels: int, dtype: torch.dtype, scale: float = 1.0) -> MapCase:
    generator = torch.Generator().manual_seed(map)
    sizes = map_shapes()[map].inputs
    inputs, directions = (
        [scale * numbers(generator, dtype, atoms, size, channels) for size in sizes] for _ in range(2)
    )
    return MapCase(map, inputs, directions)


def _padded(tensors: Sequence[Tensor]) -> List[Optional[Tensor]]:
    return [*tensors, *[None] * (MOST_TENSORS - len(tensors))]


def degree_map(run: Run, case: MapCase, dual: bool) -> List[Tensor]:
    """Results, or their derivatives along the directions."""
    atoms, _, channels = case.inputs[0].shape
    like = case.inputs[0]
    results = [
        like.new_full((atoms, size, channels), float("nan")) for size in map_shapes()[case.map].results
    ]
    macros = {"DKMP_SCALAR": scalar_name(like.dtype), "DKMP_DUAL": int(dual), "DKMP_DEGREE_MAP": case.map}
    directions = case.directions if dual else []
    args = [*_padded(case.inputs), *_padded(directions), *_padded(results), atoms, channels]
    run("degree_map", macros, -(-atoms * channels // MAP_THREADS), MAP_THREADS, args)
    return results


def expected_map(case: MapCase, dual: bool) -> List[Tensor]:
    """The same from the CPU's op in float64."""
    directions = [x.double() for x in case.directions] if dual else []
    results = torch.ops.dkmp_plugin.degree_map(case.map, [x.double() for x in case.inputs], directions)
    shapes = map_shapes()[case.map].results
    return [x.view(x.size(0), size, -1) for x, size in zip(results, shapes, strict=True)]


class NormCase(NamedTuple):
    """Features (N, 8, d), weights (2, d), their directions; gradients of values, maybe one to be added."""

    vector: Tensor
    weight: Tensor
    directions: List[Tensor]
    upstream: List[Tensor]
    added: Optional[Tensor]
    offset: float = 0.1


def norm_example(
    atoms: int, channels: int, dtype: torch.dtype, apart: bool = False, added: bool = True
) -> NormCase:
    generator = torch.Generator().manual_seed(channels)

    def random(*shape: int) -> Tensor:
        return numbers(generator, dtype, *shape)

    parts = SIZES if apart else (8,)
    return NormCase(
        random(atoms, 8, channels),
        random(2, channels),
        [random(atoms, 8, channels), random(2, channels)],
        [random(atoms, size, channels) for size in parts],
        random(atoms, 8, channels) if added else None,
    )


def _places(parts: Sequence[Tensor]) -> Tuple[List[Tensor], List[int]]:
    """Where the features of each degree start, and how far apart atoms are."""
    apart, channels = len(parts) == 2, parts[0].size(2)
    starts = list(parts) if apart else [parts[0], parts[0].flatten()[3 * channels :]]
    return starts, [(size if apart else 8) * channels for size in SIZES]


def norm_values(run: Run, case: NormCase, dual: bool) -> List[Tensor]:
    """Values, apart if the gradients are, or their derivatives."""
    atoms, _, channels = case.vector.shape
    results = [torch.full_like(x, float("nan")) for x in case.upstream]
    starts, strides = _places(results)
    directions = case.directions if dual else [None, None]
    inputs = [case.vector, directions[0], case.weight, directions[1], case.offset, atoms, channels]
    macros = {"DKMP_SCALAR": scalar_name(case.vector.dtype), "DKMP_DUAL": int(dual)}
    run(
        "degree_norm_values",
        macros,
        -(-2 * atoms * 32 // NORM_THREADS),
        NORM_THREADS,
        [*inputs, *starts, *strides],
    )
    return results


def norm_gradients(run: Run, case: NormCase, dual: bool, part: int = 3) -> List[Tensor]:
    """Gradients of features and weights, or their derivatives; `part` atoms are added up by a thread."""
    atoms, _, channels = case.vector.shape
    macros = {"DKMP_SCALAR": scalar_name(case.vector.dtype), "DKMP_DUAL": int(dual)}
    directions = case.directions if dual else [None, None]
    starts, strides = _places(case.upstream)
    to_vector = torch.full_like(case.vector, float("nan"))
    factors, tangents = case.vector.new_full((2, atoms, 2), float("nan")).unbind()
    inputs = [case.vector, directions[0], case.weight, directions[1], case.offset, atoms, channels]
    run(
        "degree_norm_to_vector",
        macros,
        -(-2 * atoms * 32 // NORM_THREADS),
        NORM_THREADS,
        [*inputs, *starts, *strides, case.added, to_vector, factors, tangents],
    )
    sums = case.vector.new_full((-(-atoms // part), 2, channels), float("nan"))
    inputs = [
        case.vector,
        directions[0],
        atoms,
        channels,
        *starts,
        *strides,
        factors,
        tangents if dual else None,
    ]
    run(
        "degree_norm_to_weight", macros, -(-sums.numel() // NORM_THREADS), NORM_THREADS, [*inputs, part, sums]
    )
    return [to_vector, sums.sum(0)]


def expected_norm(case: NormCase, dual: bool) -> List[Tensor]:
    """Values and gradients, or their derivatives, from the CPU's ops in float64."""
    upstream = [x.double() for x in case.upstream]
    directions = [x.double() for x in case.directions] if dual else []
    inputs = (case.vector.double(), case.weight.double(), case.offset)
    added = [] if case.added is None else [case.added.double()]
    ops = torch.ops.dkmp_plugin
    return [
        *ops.degree_norm_values(*inputs, directions, len(upstream) == 2),
        *ops.degree_norm_gradients(*inputs, [*upstream, *added], directions, True),
    ]


def norm(run: Run, case: NormCase, dual: bool) -> List[Tensor]:
    """Values and gradients, or their derivatives."""
    return [*norm_values(run, case, dual), *norm_gradients(run, case, dual)]
