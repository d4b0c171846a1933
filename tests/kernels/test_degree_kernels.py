"""CUDA kernels of degree_map and degree_norm without a GPU: every check, against the CPU's ops in float64."""

import subprocess
import sys

import pytest
import torch

from dkmp_plugin import ops
from tests.kernels import checks
from tests.kernels import degree_launches as launches
from tests.kernels.emulate import sanitizer_obstacle
from tests.kernels.mock_driver import environment
from tests.kernels.nvrtc import nvrtc_obstacle
from tests.kernels.sources import kernel_text

pytestmark = pytest.mark.skipif(not ops.status().native, reason=str(ops.status().why_not))
needs_emulator = pytest.mark.skipif(bool(sanitizer_obstacle(None)), reason=str(sanitizer_obstacle(None)))
needs_nvrtc = pytest.mark.skipif(nvrtc_obstacle() is not None, reason=str(nvrtc_obstacle()))
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-13}
NUM_MAPS = len(launches.map_shapes())
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def emulator(file, seed=0, sanitizer=None):
    return checks.emulator(kernel_text(file), seed, sanitizer)


def assert_equal(computed, wanted, dtype):
    for ours, theirs in zip(computed, wanted, strict=True):
        scale = float(theirs.abs().max())
        torch.testing.assert_close(ours.double() / scale, theirs / scale, rtol=0, atol=TOLERANCE[dtype])


def assert_map(case, run):
    for dual in (False, True):
        expected = launches.expected_map(case, dual)
        assert_equal(launches.degree_map(run, case, dual), expected, case.inputs[0].dtype)


def assert_norm(case, run):
    for dual in (False, True):
        assert_equal(launches.norm(run, case, dual), launches.expected_norm(case, dual), case.vector.dtype)


def test_the_table_of_maps_is_read():
    assert NUM_MAPS == 12
    assert launches.map_shapes()[11] == ([9, 6, 10, 1, 8], [9, 6, 10])


@needs_emulator
@both_dtypes
@pytest.mark.parametrize("map", range(NUM_MAPS))
def test_maps(map, dtype):
    # 7 x 21 items leave threads of the third block without one.
    assert_map(launches.map_example(map, 7, 21, dtype), emulator(launches.MAPS, seed=1))


@needs_emulator
@pytest.mark.parametrize("map", [0, 1])
def test_invariants_level_off_beyond_their_limit(map):
    assert_map(launches.map_example(map, 4, 8, torch.float64, scale=30.0), emulator(launches.MAPS))


@needs_emulator
@pytest.mark.parametrize("map, needed", [(9, 6), (10, 3)])
def test_what_is_only_added_may_be_absent(map, needed):
    case = launches.map_example(map, 3, 5, torch.float64)
    inputs = [*case.inputs[:needed], *[torch.zeros_like(x) for x in case.inputs[needed:]]]
    expected = launches.degree_map(emulator(launches.MAPS), case._replace(inputs=inputs), False)
    absent = case._replace(inputs=case.inputs[:needed])
    assert_equal(launches.degree_map(emulator(launches.MAPS), absent, False), expected, torch.float64)


@needs_emulator
@both_dtypes
@pytest.mark.parametrize("channels", [1, 32, 45])
@pytest.mark.parametrize("apart", [False, True])
def test_norms(channels, apart, dtype):
    # 7 atoms: a warp of the last block has none, and the third part of atoms is not full.
    case = launches.norm_example(7, channels, dtype, apart, added=not apart)
    assert_norm(case, emulator(launches.NORM, seed=1))


@needs_emulator
@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_sanitizers(sanitizer):
    if sanitizer_obstacle(sanitizer):
        pytest.skip(sanitizer_obstacle(sanitizer))
    for map in (9, 11):
        assert_map(launches.map_example(map, 3, 25, torch.float32), emulator(launches.MAPS, 2, sanitizer))
    # Every argument is an array of its own here, so those of the two degrees may not be parts of one.
    case = launches.norm_example(5, 33, torch.float32, apart=True)
    assert_norm(case, emulator(launches.NORM, 2, sanitizer))


@needs_emulator
def test_order_of_threads_changes_no_bit():
    case = launches.norm_example(7, 40, torch.float32)
    first, *others = [launches.norm(emulator(launches.NORM, seed), case, True) for seed in range(3)]
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@needs_nvrtc
@pytest.mark.parametrize("architecture", [75, 90, 120])
def test_compiled_for_gpus(architecture):
    run = checks.interpreter(kernel_text(launches.MAPS), architecture)
    for map in range(8, NUM_MAPS):
        assert_map(launches.map_example(map, 3, 25, torch.float32), run)
    case = launches.norm_example(5, 33, torch.float32, apart=True)
    assert_norm(case, checks.interpreter(kernel_text(launches.NORM), architecture))


def test_launchers_and_autograd_on_the_mock_driver():
    # The ops' own tests on the CUDA implementations: real launchers, the emulator in place of the GPU.
    if environment.obstacle():
        pytest.skip(environment.obstacle())
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/ops/test_degree_maps.py",
    ]
    answer = subprocess.run(
        [*command, "-k", "derivatives and not threads or refused"],
        env=environment.environment(),
        cwd=environment.ROOT,
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stdout[-4000:]
    assert " passed" in answer.stdout and "skipped" not in answer.stdout
