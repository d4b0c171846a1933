"""Shared inputs of the op tests."""

import subprocess
from pathlib import Path
from typing import Callable, NamedTuple, Tuple

import pytest
import torch
from torch import Tensor

from dkmp_plugin import ops
from dkmp_plugin.ops import builder, reference

CUTOFF = 6.0


class MessageCase(NamedTuple):
    """Arguments of dilated_message, differentiable ones first."""

    edge_vector: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    vector: Tensor
    table: Tensor
    edge_index: Tensor
    ptr: Tensor
    num_heads: int
    num_shells: int
    overlap: float
    degree: int

    def features(self) -> Tuple[Tensor, ...]:
        return tuple(self[:6])

    def call(self, op, shell: int, *features: Tensor) -> Tuple[Tensor, Tensor]:
        """Runs ``op`` on the given differentiable inputs (default: the case's own)."""
        edge_vector, query, key, value, vector, table = features or self.features()
        width = CUTOFF / self.num_shells
        return op(
            edge_vector,
            self.edge_index,
            self.ptr,
            shell,
            query,
            key,
            value,
            vector,
            table,
            self.num_heads,
            shell * width,
            (shell + 1) * width,
            self.overlap,
            CUTOFF,
            self.degree,
        )


def message_case(
    num_atoms: int = 12,
    width: int = 8,
    num_heads: int = 2,
    num_shells: int = 3,
    overlap: float = 1.0,
    attention: bool = True,
    carries_vector: bool = True,
    num_splines: int = 9,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    extent: float = 4.0,
    degree: int = 5,
) -> MessageCase:
    """Random features on the shells of random positions."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    pos = torch.rand(num_atoms, 3, generator=generator, dtype=torch.float64) * extent
    batch = torch.zeros(num_atoms, dtype=torch.int64)
    edge_index, offsets, ptr = reference.radius_shells(pos, batch, None, CUTOFF, num_shells, overlap, 0)
    return MessageCase(
        edge_vector=reference.edge_vectors(pos, edge_index, offsets, None, batch).to(dtype),
        query=normal(num_atoms, width) if attention else normal(0, 0),
        key=normal(num_atoms, width) if attention else normal(0, 0),
        value=normal(num_atoms, 3 * width),
        vector=normal(num_atoms, 8, width) if carries_vector else normal(0, 8, width),
        table=normal(num_splines, 4 * width),
        edge_index=edge_index,
        ptr=ptr,
        num_heads=num_heads,
        num_shells=num_shells,
        overlap=overlap,
        degree=degree,
    )


@pytest.fixture(scope="session")
def compile_program(tmp_path_factory) -> Callable[[str], Path]:
    """Compiles a C++ program that includes headers of ``cuda_ops/csrc``."""

    def compiled(text: str) -> Path:
        try:
            compiler = builder.find_compiler()[0]
        except builder.BuildError as error:
            pytest.skip(f"no compiler to test with: {error}")
        folder = tmp_path_factory.mktemp("program")
        source, program = folder / "program.cpp", folder / "program"
        source.write_text(text)
        include = f"-I{builder.source_folder() / 'csrc'}"
        subprocess.run([*compiler, "-std=c++17", include, str(source), "-o", str(program)], check=True)
        return program

    return compiled


@pytest.fixture
def native():
    """Namespace of the native ops; skips where they cannot be built."""
    if not ops.status().native:
        pytest.skip(f"the native library is not loaded: {ops.status().why_not}")
    return torch.ops.dkmp_plugin


@pytest.fixture
def two_threads():
    """Runs a function with one and with two threads and returns both results."""
    before = torch.get_num_threads()

    def run(function):
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(function())
        return results

    yield run
    torch.set_num_threads(before)
