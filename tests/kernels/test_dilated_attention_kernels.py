"""dilated_attention's CUDA kernels without a GPU: every check, against the float64 reference."""

import subprocess
import sys

import pytest
import torch

from tests.kernels import attention_launches as launches
from tests.kernels import checks
from tests.kernels.emulate import sanitizer_obstacle
from tests.kernels.mock_driver import environment
from tests.kernels.nvrtc import nvrtc_obstacle

needs_emulator = pytest.mark.skipif(bool(sanitizer_obstacle(None)), reason=str(sanitizer_obstacle(None)))
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def emulator(seed=0, sanitizer=None):
    return checks.emulator(launches.text(), seed, sanitizer)


def assert_equals_reference(case, run, tolerance=None):
    dtype = case.upstream.dtype
    computed = launches.everything(run, case)
    launches.assert_equal(computed, launches.expected(case), tolerance or TOLERANCE[dtype])
    return computed


# Heads, width: many narrow ones first;
# whole and partial packs, idle lanes, several packs per lane, several groups of heads.
@needs_emulator
@both_dtypes
@pytest.mark.parametrize("heads, width", [(16, 4), (4, 32), (3, 20), (2, 5), (9, 16), (2, 256), (1, 1)])
def test_widths(heads, width, dtype):
    assert_equals_reference(launches.example(9, heads, width, 37, dtype, seed=heads), emulator(seed=1))


@needs_emulator
@pytest.mark.parametrize("neighbors", [1, 3, 32, 70])
@pytest.mark.parametrize("bias", [True, False])
def test_list_lengths(neighbors, bias):
    case = launches.example(7, 4, 32, neighbors, torch.float32, bias=bias, narrow=True)
    case.directions[1] = case.directions[2] = None
    assert_equals_reference(case, emulator(seed=2))


@needs_emulator
def test_512_neighbours():
    assert_equals_reference(launches.example(40, 4, 32, 512, torch.float32, seed=4), emulator())


@needs_emulator
def test_order_of_threads_and_blocks_changes_no_bit():
    case = launches.example(9, 4, 32, 37, torch.float32)
    first, *others = [launches.everything(emulator(seed), case) for seed in range(4)]
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@needs_emulator
def test_atoms_without_neighbours_and_nobodys_neighbour():
    case = launches.example(9, 4, 32, 5, torch.float32)
    values = [x for x in assert_equals_reference(case, emulator()) if x is not None]
    assert all(bool(torch.isfinite(x).all()) for x in values)
    result, _, key, value, bias = values[:5]
    assert not result[3].any() and not key[4].any() and not value[4].any()
    assert not bias[case.neighbors < 0].any()
    case.neighbors[:] = -1
    assert not any(x.any() for x in launches.everything(emulator(), case))


@needs_emulator
@both_dtypes
def test_large_logits_do_not_overflow(dtype):
    case = launches.example(9, 4, 32, 37, dtype, seed=3)
    case.inputs[3] *= 1e4  # logits up to 1e4: e^logit is infinite
    assert_equals_reference(case, emulator(), 2e-3 if dtype == torch.float32 else 1e-11)


@needs_emulator
def test_bias_of_minus_infinity_removes_a_neighbour():
    case = launches.example(9, 4, 32, 37, torch.float64, seed=5)
    case.inputs[3][:, ::3] = -float("inf")
    without = launches.Case(
        [*case.inputs[:3], case.inputs[3].clone().clamp(min=-1e30)],
        case.directions,
        case.upstream,
        torch.where(torch.isinf(case.inputs[3]), -1, case.neighbors),
    )
    launches.assert_equal(
        launches.everything(emulator(), case), launches.everything(emulator(), without), 1e-12
    )


@needs_emulator
@pytest.mark.parametrize("wrong", [-2, 9, 2**40])
def test_an_index_that_names_no_atom_is_loud(wrong):
    # It cannot be refused without the host reading the device's memory.
    case = launches.example(9, 4, 32, 5, torch.float32)
    case.neighbors[2, 1] = wrong
    result = launches.forward(emulator(), case, 0)
    assert result[2].isnan().all() and not result[[0, 1, *range(3, 9)]].isnan().any()
    query, key, _, _ = launches.backward(emulator(), case, 0)
    assert query[2].isnan().all() and key.isnan().any()


@needs_emulator
@pytest.mark.parametrize("sanitizer", ["address", "thread"])
@pytest.mark.parametrize("heads, width, dtype", [(4, 32, torch.float32), (3, 5, torch.float64)])
def test_sanitizers(sanitizer, heads, width, dtype):
    if sanitizer_obstacle(sanitizer):
        pytest.skip(sanitizer_obstacle(sanitizer))
    case = launches.example(9, heads, width, 35, dtype)
    assert_equals_reference(case, emulator(5, sanitizer))


@pytest.mark.skipif(nvrtc_obstacle() is not None, reason=str(nvrtc_obstacle()))
@pytest.mark.parametrize("architecture", [75, 80, 90, 120])
@pytest.mark.parametrize("heads, width, dtype", [(4, 32, torch.float32), (3, 5, torch.float64)])
def test_compiled_for_gpus(architecture, heads, width, dtype):
    case = launches.example(9, heads, width, 35, dtype)
    assert_equals_reference(case, checks.interpreter(launches.text(), architecture))


def test_launcher_and_autograd_on_the_mock_driver():
    # Real C++ launch code, real NVRTC, the emulator's build of the text in place of the GPU.
    if environment.obstacle():
        pytest.skip(environment.obstacle())
    answer = subprocess.run(
        [sys.executable, "-m", "tests.kernels.mock_driver.attention_session"],
        env=environment.environment(),
        cwd=environment.ROOT,
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr[-4000:]
