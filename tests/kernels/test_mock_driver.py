"""The real launcher and NVRTC on a mock driver, and the ops' own tests on the CUDA implementations."""

import ctypes.util
import subprocess
import sys

import pytest

from dkmp_plugin import ops
from tests.kernels.mock_driver.environment import ROOT, environment, obstacle

SESSIONS = (
    *("streams", "contexts", "devices", "images", "threads", "warm", "capture_first"),
    *("old_driver", "old_device", "failed_launch", "status", "bad_values", "gradients"),
)
# Tests of the ops that run on CPU tensors, here on the CUDA implementations. Left out: what reads values to
# refuse them (a GPU would have to be waited for), and what compares thread counts or large systems.
OP_TESTS = {
    "tests/ops/test_edge_vectors.py": "equals or third or opcheck_of_the_search",
    "tests/graph/test_radius_shells.py": "(brute_force or batches or few_atoms or coincident or own_images "
    "or sorted_by or padding or strided or marked) and not reference",
    "tests/graph/test_distance_ranks.py": "nearest_periodic or one_box",
}


@pytest.fixture(scope="module")
def mocked():
    """Environment of processes on the mock driver, with the library built."""
    if obstacle():
        pytest.skip(obstacle())
    variables = environment()
    build = [sys.executable, "-c", "import dkmp_plugin.ops as o; assert o.status().native, o.status()"]
    answer = subprocess.run(build, env=variables, capture_output=True, text=True, cwd=ROOT)
    assert answer.returncode == 0, answer.stderr
    return variables


@pytest.mark.parametrize("name", SESSIONS)
def test_launcher(mocked, name):
    command = [sys.executable, "-W", "error", "-m", "tests.kernels.mock_driver.session", name]
    answer = subprocess.run(command, env=mocked, capture_output=True, text=True, cwd=ROOT)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize("file", OP_TESTS)
def test_ops_on_their_cuda_implementations(mocked, file):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file, "-k", OP_TESTS[file]]
    answer = subprocess.run(command, env=mocked, capture_output=True, text=True, cwd=ROOT)
    assert answer.returncode == 0, answer.stdout[-6000:]
    assert " passed" in answer.stdout and "skipped" not in answer.stdout


def test_without_a_gpu_the_reason_is_said():
    if not ops.status().native:
        pytest.skip(f"the native library is not loaded: {ops.status().why_not}")
    if ctypes.util.find_library("cuda"):
        pytest.skip("this machine has a CUDA driver")
    assert "the CUDA driver is not installed" in str(ops.why_no_cuda())
