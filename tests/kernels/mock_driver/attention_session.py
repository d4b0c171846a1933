"""dilated_attention on the mock driver; run by test_dilated_attention_kernels.py in a process of its own."""

import ctypes
import sys

import pytest
import torch

from dkmp_plugin import ops
from dkmp_plugin.ops import reference
from tests.kernels.mock_driver.environment import LIBRARY
from tests.ops import test_dilated_attention as cpu_tests

FORBIDDEN = ("cuModuleLoad", "Synchronize", "cuMemAlloc", "cuMemFree", "cuModuleUnload")


def log_of(mock, call) -> str:
    """What the driver was asked to do during a call."""
    mock.mock_clear_log()
    call()
    return mock.mock_log().decode()


# Every instance costs seconds to compile: heads of 3 channels in float64 and of 32 in float32 have to do.
def derivatives_as_on_the_cpu() -> None:
    """Result, first and second derivatives against the reference; gradcheck and gradgradcheck."""
    query, key, value, index, _ = cpu_tests.example(9, 4, 32, 37, seed=2)
    narrow = (query, key, value, index.int(), None)
    cpu_tests.assert_equal_to_reference(ops.dilated_attention, narrow, torch.float32, 2e-5)
    # More heads than one warp serves: the gradients of the biases are sums over groups of heads.
    cpu_tests.assert_equal_to_reference(ops.dilated_attention, cpu_tests.example(9, 9, 3, 7, seed=1))
    query, key, value, index, bias = cpu_tests.example(3, 2, 3, 3)
    inputs = [x.requires_grad_() for x in (query, key, value, bias)]

    def attention(query, key, value, bias):
        return ops.dilated_attention(query, key, value, index, bias)

    assert torch.autograd.gradcheck(attention, inputs)
    assert torch.autograd.gradgradcheck(attention, inputs)


def edges_of_the_input() -> None:
    """Absent neighbours, nothing to do, derivatives of some inputs, views that are not aligned."""
    cpu_tests.test_no_neighbour_gives_zeros_and_no_nan_in_gradients(ops.dilated_attention)
    for num_atoms, neighbors in ((0, 4), (1, 0), (5, 0), (0, 0)):
        cpu_tests.test_nothing_to_attend_to(ops.dilated_attention, num_atoms, neighbors)
    cpu_tests.test_derivatives_of_some_inputs_only(ops)
    cpu_tests.test_third_derivative_is_refused(ops)
    query, key, value, index, bias = (x.float() for x in cpu_tests.example(9, 4, 32, 7))
    index = index.int()
    expected = reference.dilated_attention(query, key, value, index, bias)
    shifted = [torch.cat([x.flatten()[:1], x.flatten()])[1:].view_as(x) for x in (query, key, value)]
    assert shifted[0].data_ptr() % 16
    transposed = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in (query, key, value)]
    for given in (shifted, transposed):
        assert torch.allclose(ops.dilated_attention(*given, index, bias), expected, atol=1e-5)


def refusals() -> None:
    """What kernels cannot serve is said; an index that names no atom becomes NaN without a host read."""
    wide = torch.zeros(2, 1, 257)
    with pytest.raises(ValueError, match="at most 256 channels per head on CUDA"):
        ops.dilated_attention(wide, wide, wide, torch.zeros(2, 1, dtype=torch.int64))
    query, key, value, index, bias = cpu_tests.example(9, 4, 3, 7)
    index[2, 3] = 9
    result = ops.dilated_attention(query, key, value, index, bias)
    assert result[2].isnan().all() and not result[:2].isnan().any()


def nothing_but_launches_after_the_first_call(mock) -> None:
    """A step neither compiles, loads, allocates in the driver nor waits."""
    inputs = [x.requires_grad_() for x in torch.randn(3, 9, 4, 3, dtype=torch.float64)]
    index = torch.randint(-1, 9, (9, 7))

    def step() -> None:
        first = torch.autograd.grad(
            ops.dilated_attention(*inputs, index).square().sum(), inputs, create_graph=True
        )
        torch.autograd.grad(sum(x.square().sum() for x in first), inputs)

    step()
    log = log_of(mock, step)
    assert log.count("cuLaunchKernel") >= 6, log
    assert not [word for word in FORBIDDEN if word in log], log


def main() -> None:
    """Runs all of it; an exception ends the process."""
    torch.manual_seed(0)
    mock = ctypes.CDLL(LIBRARY)
    mock.mock_log.restype = ctypes.c_char_p
    used = log_of(mock, derivatives_as_on_the_cpu)
    assert "cuLaunchKernel" in used, "the call did not reach the driver"
    edges_of_the_input()
    refusals()
    nothing_but_launches_after_the_first_call(mock)
    print("all calls went through the mock driver", file=sys.stderr)


if __name__ == "__main__":
    main()
