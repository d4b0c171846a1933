"""The instances of every kernel file that are compiled for GPUs by the tests and the table of registers.

A file without an entry is compiled for float32 and float64, plain and dual. Owners of a kernel add the macros
it specialises on, the widest instance included: that is the one that runs out of registers.
"""

from itertools import product
from typing import Dict, List, Mapping, Sequence, Tuple

from tests.kernels.sources import kernel_files

__all__ = ["Macros", "instances"]

Macros = Dict[str, object]


def _each(**choices: Sequence[object]) -> List[Macros]:
    """All combinations of the values of macros, whose names get the prefix DKMP_."""
    names = [f"DKMP_{name}" for name in choices]
    return [dict(zip(names, values, strict=True)) for values in product(*choices.values())]


_SCALARS = ("float", "double")
_MESSAGES = [
    *_each(SCALAR=_SCALARS, DUAL=(0, 1), WIDTH=(128,), HEADS=(8,), VECTOR=(1,)),
    *_each(SCALAR=("double",), DUAL=(1,), WIDTH=(512,), HEADS=(1,), VECTOR=(1,)),
]
_MESSAGES_WITHOUT_ATTENTION = _each(SCALAR=("float",), DUAL=(0,), WIDTH=(128,), HEADS=(0,), VECTOR=(0,))
_INSTANCES: Mapping[str, List[Macros]] = {
    # No directions, or no scalars at all.
    "neighbor_grid.cu": _each(SCALAR=_SCALARS),
    "radius_shells.cu": _each(SCALAR=_SCALARS),
    "distance_ranks.cu": _each(SCALAR=_SCALARS),
    "edge_vectors.cu": _each(SCALAR=_SCALARS),
    "edge_groups.cu": [{}],
    # The maps of the layers since revision 3, and the one of older exports that needs most registers.
    "degree_maps.cu": [
        *_each(SCALAR=_SCALARS, DUAL=(0, 1), DEGREE_MAP=(5, 9, 11)),
        *_each(SCALAR=("float",), DUAL=(0,), DEGREE_MAP=(0, 1, 2, 3, 4, 6, 7, 8, 10)),
    ],
    "dilated_attention.cu": [
        *_each(SCALAR=_SCALARS, DUAL=(0, 1), HEAD_WIDTH=(32,), WIDE_NEIGHBORS=(1,)),
        *_each(SCALAR=("float",), DUAL=(0, 1), HEAD_WIDTH=(4,), WIDE_NEIGHBORS=(1,)),
        *_each(SCALAR=("double",), DUAL=(0, 1), HEAD_WIDTH=(256,), WIDE_NEIGHBORS=(1,)),
        *_each(SCALAR=("float",), DUAL=(1,), HEAD_WIDTH=(256,), WIDE_NEIGHBORS=(0,)),
    ],
    # dkmp-c's default width; the widest block; no attention, as in the neighbour embedding.
    "dilated_message_forward.cu": [*_MESSAGES, *_MESSAGES_WITHOUT_ATTENTION],
    "dilated_message_backward.cu": [*_MESSAGES, *_MESSAGES_WITHOUT_ATTENTION],
    "dilated_message_query.cu": _MESSAGES,
    "dilated_message_table.cu": [*_MESSAGES, *_MESSAGES_WITHOUT_ATTENTION],
    "shell_groups.cu": [{}],
}


def instances() -> List[Tuple[str, Macros]]:
    """Kernel file and macros of every instance."""
    default = _each(SCALAR=_SCALARS, DUAL=(0, 1))
    return [(file, macros) for file in kernel_files() for macros in _INSTANCES.get(file, default)]
