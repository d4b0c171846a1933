"""dilated_message's CUDA implementation through the real launcher, on the mock driver.

The tests marked ``on_mock`` run in a process in which CPU tensors take the CUDA path (see
``mock_driver.environment``); ``test_on_the_mock_driver`` starts it, together with tests of ``tests/ops``.
"""

import ctypes
import os
import subprocess
import sys

import pytest
import torch

from dkmp_plugin import ops
from dkmp_plugin.models import DKMPC
from dkmp_plugin.ops import reference
from tests.kernels.mock_driver import environment
from tests.ops.conftest import message_case
from tests.ops.test_dilated_message import _assert_equal, _derivatives

_MARK = "DKMP_TEST_ON_MOCK_DRIVER"
on_mock = pytest.mark.skipif(_MARK not in os.environ, reason="run by test_on_the_mock_driver")

# Tests of the CPU op that hold for the CUDA op as well and need few kernel instances.
SAME_AS_ON_CPU = (
    "formulas or no_atoms or coincident or any_order or empty_shell or third or skipping or strided "
    "or opcheck or bad_input or scripted"
)


@pytest.fixture
def driver():
    library = ctypes.CDLL(environment.LIBRARY)
    library.mock_log.restype = ctypes.c_char_p
    library.mock_current_context.restype = ctypes.c_char_p
    library.mock_clear_log()
    yield library
    library.mock_set(b"seed", 0)
    library.mock_set(b"stream", 7)


def launches(driver):
    return [line for line in driver.mock_log().decode().splitlines() if line.startswith("cuLaunchKernel")]


@on_mock
def test_derivatives_equal_the_reference() -> None:
    assert torch.ops.dkmp_plugin.why_no_cuda() == ""
    case = message_case(num_atoms=6, num_shells=2)
    for shell in (0, 1):
        _assert_equal(case, shell, torch.ops.dkmp_plugin.dilated_message, 1e-11)
    # Padded from heads of three channels to the same kernels.
    case = message_case(num_atoms=4, width=6, num_shells=1)
    _assert_equal(case, 0, torch.ops.dkmp_plugin.dilated_message, 1e-11)


@on_mock
@pytest.mark.parametrize(("attention", "carries"), [(True, True), (False, True)])
def test_gradcheck_and_gradgradcheck(attention: bool, carries: bool) -> None:
    case = message_case(
        num_atoms=3, width=4, num_shells=1, attention=attention, carries_vector=carries, num_splines=7
    )
    features = [x.clone().requires_grad_() for x in case.features()]

    def function(*given):
        return case.call(ops.dilated_message, 0, *given)

    assert torch.autograd.gradcheck(function, features, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, features, fast_mode=True, atol=1e-4)


@on_mock
def test_no_schedule_changes_a_bit(driver) -> None:
    case = message_case(num_atoms=6, num_shells=1)
    results = []
    for seed in (0, 1, 2):
        driver.mock_set(b"seed", seed)
        values, first, second = _derivatives(torch.ops.dkmp_plugin.dilated_message, case, 0)
        results.append([*values, *first, *second])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@on_mock
def test_launches_only_after_the_first_call(driver) -> None:
    # As a CUDA graph needs it: the same launches whatever the shell holds; nothing loaded or waited for.
    case = message_case(num_atoms=6, num_shells=2)
    half = case._replace(ptr=torch.tensor([0, 2, 3]))
    _derivatives(torch.ops.dkmp_plugin.dilated_message, case, 0)
    logs = []
    for given in (case, half):
        driver.mock_clear_log()
        driver.mock_set(b"stream", 5)
        driver.mock_enter_foreign_context(b"OpenMM")
        _derivatives(torch.ops.dkmp_plugin.dilated_message, given, 1)
        assert driver.mock_current_context() == b"OpenMM"
        logs.append(driver.mock_log().decode())
        assert len(launches(driver)) > 10
        for word in ("ModuleLoad", "Synchronize", "Mem", "Query"):
            assert word not in logs[-1]
        # Stream 5, not the default one.
        assert all(" stream 5 " in line for line in launches(driver))
    assert logs[0] == logs[1]


@on_mock
def test_misaligned_tensors_are_copied() -> None:
    case = message_case(num_atoms=4, width=32, num_shells=1)

    def misaligned(x: torch.Tensor) -> torch.Tensor:
        moved = torch.empty(x.numel() + 1, dtype=x.dtype)[1:].view(x.shape)
        assert moved.data_ptr() % 16 == 8
        return moved.copy_(x)

    moved = [misaligned(x) if x.numel() else x for x in case.features()]
    ours, theirs = (case.call(ops.dilated_message, 0, *x) for x in (moved, case.features()))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@on_mock
def test_edges_out_of_range_give_nan() -> None:
    case = message_case(num_atoms=4, num_shells=1)
    case.edge_index[1, 0] = 4
    assert all(torch.isnan(x).all() for x in case.call(ops.dilated_message, 0))


@on_mock
def test_too_wide_is_refused() -> None:
    case = message_case(num_atoms=2, width=2049, num_heads=1, num_shells=1)
    with pytest.raises(ValueError, match="2049 is more than the 2048 channels"):
        case.call(ops.dilated_message, 0)


@on_mock
def test_a_model_trains_as_on_the_reference(monkeypatch) -> None:
    # Search, edge vectors and messages together: features, forces, gradients of a force loss.
    torch.manual_seed(0)
    model = DKMPC(
        hidden_channels=8,
        num_layers=2,
        num_rbf=4,
        num_heads=2,
        cutoff_upper=4.0,
        shell_overlap=0.5,
        dtype=torch.float64,
    ).eval()
    generator = torch.Generator().manual_seed(1)
    pos = (torch.rand(7, 3, generator=generator, dtype=torch.float64) * 4).requires_grad_()
    z, batch = torch.tensor([1, 6, 8, 1, 6, 7, 1]), torch.tensor([0, 0, 0, 0, 1, 1, 1])

    trained = [x for x in model.parameters() if x.requires_grad]

    def results():
        x, vector, *_ = model(z, pos, batch)
        energy = (x**2).sum() + (vector**2).sum()
        (force,) = torch.autograd.grad(energy, pos, create_graph=True)
        loss = (force**2).sum() + energy
        return [x, vector, force, *torch.autograd.grad(loss, trained, allow_unused=True)]

    ours = results()
    monkeypatch.setattr(ops, "_implementation", reference)
    for a, b in zip(ours, results(), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * float(b.detach().abs().max()))


@pytest.mark.skipif(_MARK in os.environ, reason="this is that process")
def test_on_the_mock_driver() -> None:
    why = environment.obstacle()
    if why:
        pytest.skip(why)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    here, same = "tests/kernels/test_dilated_message_launcher.py", "tests/ops/test_dilated_message.py"
    for arguments in ([here], [same, "-k", SAME_AS_ON_CPU]):
        answer = subprocess.run(
            [*command, *arguments],
            env=environment.environment(**{_MARK: "1"}),
            cwd=environment.ROOT,
            capture_output=True,
            text=True,
        )
        assert answer.returncode == 0, (answer.stdout + answer.stderr)[-6000:]
