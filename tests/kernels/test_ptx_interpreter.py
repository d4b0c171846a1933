"""The PTX interpreter itself, on kernels small enough to know their result."""

import pytest
import torch

from tests.kernels import ptx_interpreter
from tests.kernels.emulate import KernelError, emulate, sanitizer_obstacle
from tests.kernels.nvrtc import nvrtc_obstacle
from tests.kernels.ptx_interpreter import interpret
from tests.kernels.test_emulator import REVERSE, SUMS

pytestmark = pytest.mark.skipif(nvrtc_obstacle() is not None, reason=str(nvrtc_obstacle()))

INTEGERS = """
#include "common.cuh"
extern "C" __global__ void integers(const int* a, const long long* b, int* x, long long* y, int* counter) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x;
  int r = a[t] / 7 + a[t] % 5 + (a[t] >> 3) + (unsigned(a[t]) >> 28) + max(a[t], 3) - min(a[t], -4);
  r ^= __popc(a[t]) + __clz(a[t]) * 3 + __ffs(a[t]) * 5 + int(__ballot_sync(kWholeWarp, a[t] & 1) % 1000);
  r += __shfl_up_sync(kWholeWarp, a[t], 3) + __shfl_down_sync(kWholeWarp, a[t], 5, 16);
  r += __any_sync(kWholeWarp, a[t] == 4) + __all_sync(kWholeWarp, a[t] > -1000000);
  r += __syncthreads_count(a[t] > 0);
  if (threadIdx.x % 3 == 0) r += 1000;
  else if (threadIdx.x % 3 == 1) for (int k = 0; k < t % 5; ++k) r += k * t;
  x[t] = r;
  y[t] = b[t] / (b[0] | 1) * 3 - b[t] % 1000003 + (b[t] >> 5) + (b[t] < 0 ? 7 : -7);
  if (a[t] > 0) atomicAdd(counter, 2);
  atomicMax(counter + 1, a[t]);
  atomicMin(counter + 2, a[t]);
  atomicOr(counter + 3, 1 << (t & 15));
}
"""
FLOATS = """
#include "common.cuh"
extern "C" __global__ void floats(const Scalar* a, Scalar* x, int n) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x;
  if (t >= n) return;
  const Scalar v = a[t];
  x[t] = exponential(v) + square_root(v * v + Scalar(1)) / (v + Scalar(11)) + floor(v) - rint(v * Scalar(3)) +
         reciprocal(exponential(-v) + Scalar(1)) + Scalar(int(v * Scalar(2))) + fmin(v, Scalar(2)) + fabs(v);
}
"""


def test_shared_memory_barriers_and_shuffles():
    before, after = torch.arange(128.0), torch.full((128,), -1.0)
    interpret(REVERSE, "reverse", {}, 2, 64, [before, after, 128, 2.0], 256)
    assert torch.equal(after, 2 * before.view(2, 64).flip(1).flatten())
    values, sums = torch.randn(128, dtype=torch.float64), torch.zeros(8, dtype=torch.float64)
    interpret(SUMS, "sums", {"DKMP_SCALAR": "double", "DKMP_DUAL": 1}, 1, 64, [values, sums])
    assert torch.allclose(sums, values.view(2, 8, 8)[1].sum(1))


@pytest.mark.skipif(sanitizer_obstacle(None) is not None, reason=str(sanitizer_obstacle(None)))
@pytest.mark.parametrize("architecture", [75, 90])
def test_integers_as_g_plus_plus_has_them(architecture):
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(-100, 100, (128,), generator=generator, dtype=torch.int32)
    b = torch.randint(-(2**60), 2**60, (128,), generator=generator)
    results = []
    for run in (emulate, lambda *args: interpret(*args, architecture=architecture)):
        arrays = [torch.zeros_like(a), torch.zeros_like(b), torch.zeros(4, dtype=torch.int32)]
        run(INTEGERS, "integers", {}, 2, 64, [a, b, *arrays])
        results.append(arrays)
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("scalar, dtype", [("float", torch.float32), ("double", torch.float64)])
def test_functions(scalar, dtype):
    a = torch.linspace(-9.3, 9.7, 64, dtype=dtype)
    x = torch.zeros_like(a)
    interpret(FLOATS, "floats", {"DKMP_SCALAR": scalar}, 2, 32, [a, x, 64])
    v = a.double()
    expected = v.exp() + (v * v + 1).sqrt() / (v + 11) + v.floor() - (a * 3).round() + v.sigmoid()
    expected = expected + (a * 2).trunc() + v.clamp(max=2) + v.abs()
    error = 1e-6 if dtype == torch.float32 else 1e-14
    assert torch.allclose(x.double(), expected, rtol=error, atol=10 * error)


def test_faults_are_found():
    before, after = torch.arange(128.0), torch.zeros(128)
    with pytest.raises(KernelError, match="outside of the arrays"):
        interpret(REVERSE, "reverse", {}, 3, 64, [before, after, 192, 2.0], 256)
    with pytest.raises(KernelError, match="outside of shared memory"):
        interpret(REVERSE, "reverse", {}, 2, 64, [before, after, 128, 2.0], 252)
    early = REVERSE.replace("  __syncthreads();", "  if (threadIdx.x == 3) return;\n  __syncthreads();")
    with pytest.raises(KernelError, match=r"wait for ever.*bar\.sync"):
        interpret(early, "reverse", {}, 2, 64, [before, after, 128, 2.0], 256)
    divergent = SUMS.replace("const Number sum =", "Number sum = x; if (threadIdx.x != 5) sum =")
    with pytest.raises(KernelError, match=r"wait for ever.*shfl"):
        interpret(divergent, "sums", {}, 1, 64, [torch.zeros(128), torch.zeros(8)])
    pack = REVERSE.replace("from[i]", "float(*reinterpret_cast<const double*>(from + i))")
    with pytest.raises(KernelError, match="misaligned access of 8 bytes"):
        interpret(pack, "reverse", {}, 1, 64, [before, after, 128, 2.0], 256)


UNTYPED = """
.version 8.7
.target sm_75
.visible .entry untyped(
	.param .u64 untyped_param_0
)
{
	.reg .b32 %r<4>;
	.reg .b64 %rd<3>;
	ld.param.b64 %rd1, [untyped_param_0];
	cvta.to.global.u64 %rd2, %rd1;
	mov.b32 %r1, 0fC0200000;
	add.f32 %r2, %r1, 0f3F800000;
	st.global.b32 [%rd2], %r2;
	ret;
}
"""


def test_floats_in_integer_registers(monkeypatch):
    # What NVRTC 13 writes for sm_120: -2.5 + 1, with registers that have no type but a size.
    monkeypatch.setattr(ptx_interpreter, "compile_ptx", lambda *_: UNTYPED)
    result = torch.zeros(1)
    interpret("", "untyped", {}, 1, 32, [result])
    assert float(result) == -1.5


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="takes 4 arguments"):
        interpret(REVERSE, "reverse", {}, 1, 64, [None])
    with pytest.raises(ValueError, match="multiple of 32"):
        interpret(REVERSE, "reverse", {}, 1, 33, [None, None, 0, 1.0])
