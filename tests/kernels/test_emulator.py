"""The emulator itself: what it runs, and what it must refuse."""

import pytest
import torch

from tests.kernels.emulate import emulate, sanitizer_obstacle
from tests.kernels.sources import kernel_names

pytestmark = pytest.mark.skipif(sanitizer_obstacle(None) is not None, reason=str(sanitizer_obstacle(None)))

REVERSE = """
#include "common.cuh"
extern "C" __global__ void __launch_bounds__(64) reverse(
    const Scalar* from, Scalar* to, int n, Scalar factor) {
  DYN_SHARED(Scalar, tile);
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  tile[threadIdx.x] = i < n ? from[i] : Scalar(0);
  __syncthreads();
  if (i < n) to[i] = factor * tile[blockDim.x - 1 - threadIdx.x];
}
"""
SUMS = """
#include "common.cuh"
extern "C" __global__ void sums(const Scalar* from, Scalar* to) {
  const Number x = load_number(from, from + 64, threadIdx.x);
  const Number sum = group_sum<8>(x);
  if (threadIdx.x % 8 == 0) to[threadIdx.x / 8] = result(sum);
}
"""


def reverse(source=REVERSE, seed=0, sanitizer=None, scalar="float", size=128):
    dtype = torch.float32 if scalar == "float" else torch.float64
    before, after = torch.arange(size, dtype=dtype), torch.full((size,), -1, dtype=dtype)
    macros = {"DKMP_SCALAR": scalar}
    shared = 64 * before.element_size()
    emulate(source, "reverse", macros, 2, 64, [before, after, size, 2.0], shared, seed, sanitizer)
    return before, after


@pytest.mark.parametrize("sanitizer", [None, "address", "thread"])
@pytest.mark.parametrize("scalar", ["float", "double"])
def test_blocks_threads_and_shared_memory(sanitizer, scalar):
    if sanitizer_obstacle(sanitizer):
        pytest.skip(sanitizer_obstacle(sanitizer))
    for seed in (0, 1, 2):
        before, after = reverse(seed=seed, sanitizer=sanitizer, scalar=scalar)
        assert torch.equal(after, 2 * before.view(2, 64).flip(1).flatten())


@pytest.mark.parametrize("dual", [0, 1])
def test_group_sums_of_numbers_and_directions(dual):
    values = torch.randn(128, dtype=torch.float64)
    sums = torch.zeros(8, dtype=torch.float64)
    emulate(SUMS, "sums", {"DKMP_SCALAR": "double", "DKMP_DUAL": dual}, 1, 64, [values, sums], seed=3)
    assert torch.allclose(sums, values.view(2, 8, 8)[dual].sum(1))


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="takes 4 arguments"):
        emulate(REVERSE, "reverse", {}, 1, 64, [None])
    with pytest.raises(ValueError, match="argument 2 is None"):
        emulate(REVERSE, "reverse", {}, 1, 64, [None, None, None, 1.0])
    with pytest.raises(ValueError, match="no kernel"):
        emulate(REVERSE, "other", {}, 1, 64, [])
    with pytest.raises(ValueError, match="defines no kernel"):
        kernel_names("void f();")


def test_launch_bounds_do_not_hide_a_kernel():
    assert kernel_names(REVERSE) == ["reverse"]
