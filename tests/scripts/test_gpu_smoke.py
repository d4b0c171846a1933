"""scripts/gpu_smoke.py where there is no GPU: it compiles, says what it skipped, and reports failures."""

import subprocess
import sys

import pytest

from dkmp_plugin import ops
from tests.conftest import ROOT
from tests.kernels.nvrtc import nvrtc_obstacle

pytestmark = pytest.mark.skipif(
    bool(nvrtc_obstacle()) or not ops.status().native or ops.why_no_cuda() is None,
    reason=f"needs NVRTC ({nvrtc_obstacle()}), the native library, and a machine without a GPU",
)


def smoke(*arguments):
    command = [sys.executable, str(ROOT / "scripts" / "gpu_smoke.py"), "--architectures", "80", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_without_a_gpu_it_says_what_it_skipped():
    answer = smoke("--kernels", "edge_vectors.cu", "edge_groups.cu")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "ok       NVRTC: 3 programs for sm_80" in answer.stdout
    for name in ("radius_shells", "dilated_message", "dilated_attention", "CUDA graph", "OpenMM", "times"):
        assert f"skipped  {name}" in answer.stdout
    assert "the CUDA driver is not installed" in answer.stdout and "Failed (0): nothing" in answer.stdout


def test_a_failure_is_reported():
    answer = smoke("--kernels", "no_such_kernel.cu")
    assert (
        answer.returncode == 1
        and "FAILED   NVRTC: no kernel file is named no_such_kernel.cu" in answer.stdout
    )


def test_a_step_that_does_not_exist_is_no_success():
    answer = smoke("--only", "models", "no such step")
    assert answer.returncode == 2 and "--only: 'no such step' begins no step's name" in answer.stderr
