"""What the tests run on the mock driver: called as ``python -m tests.kernels.mock_driver.session NAME``.

Every function checks one promise of the launcher against the mock's journal; an assertion that fails ends the
process with its traceback.
"""

import ctypes
import sys
import threading
from typing import Callable, Dict, List

import torch

from dkmp_plugin import ops
from tests.kernels.mock_driver.environment import LIBRARY

mock = ctypes.CDLL(LIBRARY)
mock.mock_log.restype = mock.mock_current_context.restype = ctypes.c_char_p
POS = torch.rand(6, 3, generator=torch.Generator().manual_seed(1)) * 4
BATCH = torch.zeros(6, dtype=torch.int64)
EDGES, OFFSETS = torch.tensor([[0, 1, 2], [1, 2, 3]]), torch.zeros(3, 3, dtype=torch.int32)


def journal() -> List[str]:
    lines = mock.mock_log().decode().splitlines()
    mock.mock_clear_log()
    return lines


def setting(name: str, value: int) -> None:
    mock.mock_set(name.encode(), value)


def launches(lines: List[str]) -> List[str]:
    return [line for line in lines if line.startswith("cuLaunchKernel")]


def call() -> torch.Tensor:
    """An op of one kernel."""
    result = ops.edge_vectors(POS, EDGES, OFFSETS, None, BATCH)
    assert torch.equal(result, POS[EDGES[1]] - POS[EDGES[0]])
    return result


def error_of(function: Callable[[], object], kind: type = RuntimeError) -> str:
    try:
        function()
    except kind as error:
        return str(error)
    raise AssertionError("nothing was raised")


def streams() -> None:
    for stream in (7, 8, 0):
        setting("stream", stream)
        call()
        assert all(f" stream {stream} " in line for line in launches(journal()))


def contexts() -> None:
    # OpenMM's context is current in this thread; ours is used, and OpenMM's is current again afterwards.
    mock.mock_enter_foreign_context(b"openmm")
    call()
    lines = launches(journal())
    assert len(lines) == 1 and " context primary0 " in lines[0]
    assert mock.mock_current_context() == b"openmm"
    setting("fail_launch", 1)
    error_of(call)
    assert mock.mock_current_context() == b"openmm"


def devices() -> None:
    for device in (0, 1, 0, 1):
        setting("device", device)
        call()
        assert f" context primary{device} stream {1000 * device + 7} " in launches(journal())[0]
    setting("device", 0)
    call()
    assert [line.split()[0] for line in journal()] == ["cuLaunchKernel"]


def images() -> None:
    # Machine code for a device that NVRTC knows, PTX for a newer one.
    call()
    assert any("cuModuleLoadData primary0 cubin edge_vectors.cu" in line for line in journal())
    setting("device", 1)
    setting("architecture", 999)
    call()
    assert any("cuModuleLoadData primary1 ptx edge_vectors.cu" in line for line in journal())


def threads() -> None:
    # Many threads that need the same kernel first: it is loaded once.
    results: List[torch.Tensor] = []
    workers = [threading.Thread(target=lambda: results.append(call())) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    lines = journal()
    assert len(results) == 8 and sum(line.startswith("cuModuleLoadData") for line in lines) == 1


def everything() -> List[torch.Tensor]:
    """A graph of fixed size, messages on it, forces, and their derivatives, as a model computes them."""
    generator = torch.Generator().manual_seed(2)
    shapes = [(6, 8), (6, 8), (6, 24), (6, 8, 8), (7, 32)]
    features = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    pos, box = POS.double().requires_grad_(), (torch.eye(3).double() * 6).requires_grad_()
    edge_index, offsets, ptr = ops.radius_shells(pos.detach(), BATCH, box.detach(), 2.5, 2, 0.4, 0, 90)
    vector = ops.edge_vectors(pos, edge_index, offsets, box, BATCH)
    sums = ops.dilated_message(vector, edge_index, ptr, 0, *features, 2, 0.0, 1.25, 0.4, 2.5, 5)
    energy = sums[0].square().sum() + sums[1].square().sum()
    (forces,) = torch.autograd.grad(energy, pos, create_graph=True)
    gradients = torch.autograd.grad(forces.square().sum(), (pos, box))
    return [x.detach() for x in (edge_index, offsets, ptr, vector, *sums, forces, *gradients)]


def warm() -> None:
    # After the first call nothing is compiled, loaded or waited for; it may be captured in a CUDA graph.
    before = everything()
    journal()
    setting("capturing", 1)
    after = everything()
    lines = journal()
    assert {line.split()[0] for line in lines} == {"cuLaunchKernel"} and len(lines) > 10
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def capture_first() -> None:
    setting("capturing", 1)
    assert "run the model once before capturing it" in error_of(call)
    setting("capturing", 0)
    call()


def old_driver() -> None:
    setting("driver_version", 11080)
    text = error_of(call)
    assert "supports CUDA 11.8, but kernels are compiled by CUDA 1" in text and "update the driver" in text


def old_device() -> None:
    setting("architecture", 35)
    assert "compute capability 3.5 is older than" in error_of(call)


def failed_launch() -> None:
    setting("fail_launch", 1)
    text = error_of(call)
    assert "launching edge_vectors_forward with 1 blocks of 128 threads" in text
    assert "CUDA_ERROR_LAUNCH_FAILED (719): unspecified launch failure" in text


def status() -> None:
    assert ops.why_no_cuda() is None
    setting("devices", 0)
    assert "CUDA_ERROR_NO_DEVICE" in str(ops.why_no_cuda())


def bad_values() -> None:
    broken = POS.clone()
    broken[2, 1] = float("nan")
    assert "NaN" in error_of(lambda: ops.radius_shells(broken, BATCH, None, 3.0, 2, 0.0, 0), ValueError)
    assert "NaN" in error_of(lambda: ops.distance_ranks(broken, 2), ValueError)
    # With a fixed number of edges nothing is read back: the graph is marked instead.
    edge_index, offsets, ptr = ops.radius_shells(POS, BATCH, None, 3.0, 2, 0.0, 0, 3)
    assert int(ptr[-1]) == 3
    assert ops.edge_vectors(POS, edge_index, offsets, None, BATCH).isnan().all()


def gradients() -> None:
    pos, box = POS[:4].double().requires_grad_(), (torch.eye(3).double() * 6).requires_grad_()
    offsets = torch.tensor([[0, 1, -1], [2, 0, 0], [0, 0, 0]], dtype=torch.int32)

    def squares(pos: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
        return ops.edge_vectors(pos, EDGES, offsets, box, BATCH[:4]) ** 2

    assert torch.autograd.gradcheck(squares, (pos, box))
    assert torch.autograd.gradgradcheck(squares, (pos, box))


SESSIONS: Dict[str, Callable[[], object]] = {
    function.__name__: function
    for function in (
        *(streams, contexts, devices, images, threads, warm, capture_first),
        *(old_driver, old_device, failed_launch, status, bad_values, gradients),
    )
}

if __name__ == "__main__":
    SESSIONS[sys.argv[1]]()
