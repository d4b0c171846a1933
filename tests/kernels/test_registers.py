"""Every kernel compiles with NVRTC for every architecture, without spilling registers to memory."""

import pytest

from tests.kernels.instances import instances
from tests.kernels.nvrtc import ARCHITECTURES, nvrtc_obstacle, resource_usage
from tests.kernels.register_table import describe
from tests.kernels.sources import kernel_names, kernel_text

pytestmark = pytest.mark.skipif(nvrtc_obstacle() is not None, reason=str(nvrtc_obstacle()))

SPILLING = """
extern "C" __global__ void __launch_bounds__(1024, 2) spilling(float* x) {
  float held[64];
#pragma unroll
  for (int i = 0; i < 64; ++i) held[i] = x[i * 1024 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 64; ++i) x[i * 1024 + threadIdx.x] = held[i] * held[63 - i];
}
"""


@pytest.mark.parametrize("file, macros", instances(), ids=lambda x: x if isinstance(x, str) else describe(x))
def test_no_spills(file, macros):
    source = kernel_text(file)
    for architecture in ARCHITECTURES:
        usage = resource_usage(source, macros, architecture)
        assert set(usage) == set(kernel_names(source))
        for kernel, used in usage.items():
            assert used.spill_stores == used.spill_loads == 0, f"{kernel} on sm_{architecture}: {used}"


def test_a_spill_is_seen():
    assert resource_usage(SPILLING, {}, 80)["spilling"].spill_stores > 0
