"""dilated_message: reference against the formulas, native against the reference, derivatives, refusals."""

import math
import os
import subprocess
import sys

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BSpline

from dkmp_plugin import ops
from dkmp_plugin.ops import reference

from .conftest import CUTOFF, message_case


def _derivatives(op, case, shell: int):
    """Values, first derivatives, and derivatives of a random combination of the first derivatives."""
    generator = torch.Generator().manual_seed(7)

    def weights(x: torch.Tensor) -> torch.Tensor:
        return torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype)

    features = [x.clone().requires_grad_() for x in case.features()]
    values = case.call(op, shell, *features)
    upstream = [weights(x).requires_grad_() for x in values]
    used = [x for x in features if x.numel() > 0]
    first = torch.autograd.grad(values, used, upstream, create_graph=True)
    total = sum((x * weights(x)).sum() for x in first)
    second = torch.autograd.grad(total, used + upstream)
    return values, first, second


def _assert_equal(case, shell: int, native, relative: float) -> None:
    computed, expected = (_derivatives(op, case, shell) for op in (native, reference.dilated_message))
    for order, (ours, theirs) in enumerate(zip(computed, expected, strict=True)):
        for a, b in zip(ours, theirs, strict=True):
            assert a.shape == b.shape
            a, b = a.detach(), b.detach()
            error = float((a - b).abs().max()) if b.numel() else 0.0
            scale = float(b.abs().max()) if b.numel() else 0.0
            assert error <= relative * max(scale, 1e-9), f"derivative order {order}: {error} against {scale}"


def _one_edge_by_hand(case, edge: int, shell: int):
    """Scalar and vector message of one edge, written out with Python floats."""
    i, j = (int(v) for v in case.edge_index[:, edge])
    x, y, z = (float(v) for v in case.edge_vector[edge])
    r = math.sqrt(x * x + y * y + z * z)
    x, y, z = x / r, y / r, z / r
    width, overlap = CUTOFF / case.num_shells, case.overlap

    def step(border: float) -> float:
        t = min(1.0, max(0.0, (r - (border - overlap / 2)) / overlap))
        return t**3 * (10 - 15 * t + 6 * t * t)

    lower, upper = shell * width, (shell + 1) * width
    w = 1 - 28 * (r / CUTOFF) ** 6 + 48 * (r / CUTOFF) ** 7 - 21 * (r / CUTOFF) ** 8
    w *= step(lower) if shell > 0 else 1.0
    w *= 1 - step(upper) if shell + 1 < case.num_shells else 1.0
    start, stop = max(0.0, lower - overlap / 2), min(CUTOFF, upper + overlap / 2)
    position = (r - start) / (stop - start) * (len(case.table) - case.degree)
    k = min(max(math.floor(position), 0), len(case.table) - case.degree - 1)
    s = position - k
    splines = BSpline(range(-case.degree, case.degree + 2), numpy.eye(case.degree + 1), case.degree)
    filters = sum(tap * case.table[k + m] for m, tap in enumerate(splines(s))).view(4, -1)
    channels = filters.shape[1]
    per_head = channels // case.num_heads
    score = (case.query[i] * case.key[j] * filters[0]).view(case.num_heads, per_head).sum(1)
    attention = (score * torch.sigmoid(score)).repeat_interleave(per_head)
    v0, v1, v2 = case.value[j].view(3, -1)
    root3 = math.sqrt(3)
    harmonics = [x, y, z, root3 * x * z, root3 * x * y, y * y - (x * x + z * z) / 2, root3 * y * z]
    harmonics.append(root3 / 2 * (z * z - x * x))
    direction = torch.tensor(harmonics, dtype=torch.float64).view(8, 1)
    return w * attention * v0 * filters[1], w * (
        case.vector[j] * v1 * filters[2] + direction * v2 * filters[3]
    )


@pytest.mark.parametrize("op", [ops.dilated_message, reference.dilated_message], ids=["chosen", "reference"])
@pytest.mark.parametrize("degree", [3, 5])
def test_formulas_edge_by_edge(op, degree: int) -> None:
    case = message_case(degree=degree)
    for shell in range(3):
        scalar, vector = torch.zeros(12, 8).double(), torch.zeros(12, 8, 8).double()
        for edge in range(int(case.ptr[shell]), int(case.ptr[shell + 1])):
            to_scalar, to_vector = _one_edge_by_hand(case, edge, shell)
            scalar[case.edge_index[0, edge]] += to_scalar
            vector[case.edge_index[0, edge]] += to_vector
        assert scalar.abs().max() > 0.1 and vector.abs().max() > 0.1
        torch.testing.assert_close(case.call(op, shell), (scalar, vector), rtol=1e-10, atol=1e-10)


WIDTHS = [(8, 2), (64, 8), (128, 8), (32, 1), (6, 2), (20, 4)]


@pytest.mark.parametrize(("width", "heads"), WIDTHS)
@pytest.mark.parametrize(("overlap", "degree"), [(0.0, 5), (1.0, 5), (1.0, 3)])
def test_native_equals_reference(native, width: int, heads: int, overlap: float, degree: int) -> None:
    for attention, carries in ((True, True), (True, False), (False, True), (False, False)):
        case = message_case(
            width=width,
            num_heads=heads,
            overlap=overlap,
            attention=attention,
            carries_vector=carries,
            degree=degree,
        )
        for shell in (0, 2):
            _assert_equal(case, shell, native.dilated_message, 1e-11)


def test_native_equals_reference_in_float32(native) -> None:
    case = message_case(num_atoms=30, width=64, num_heads=4, dtype=torch.float32)
    for shell in range(3):
        _assert_equal(case, shell, native.dilated_message, 2e-4)


def test_rows_longer_than_a_block(native) -> None:
    # More than 32 edges per atom: sums are continued over several blocks.
    case = message_case(num_atoms=90, width=8, num_shells=1, extent=5.0)
    assert int(torch.bincount(case.edge_index[0]).max()) > 64
    _assert_equal(case, 0, native.dilated_message, 1e-11)


@settings(deadline=None, max_examples=25)
@given(
    num_atoms=st.integers(1, 15),
    heads=st.integers(1, 4),
    head_width=st.integers(1, 9),
    num_shells=st.integers(1, 4),
    overlap=st.floats(0.0, 1.0),
    num_intervals=st.integers(1, 9),
    degree=st.sampled_from([3, 5]),
    seed=st.integers(0, 1000),
)
def test_any_size(num_atoms, heads, head_width, num_shells, overlap, num_intervals, degree, seed) -> None:
    overlap = overlap if overlap > 0.01 else 0.0
    case = message_case(
        num_atoms,
        heads * head_width,
        heads,
        num_shells,
        overlap * CUTOFF / num_shells,
        num_splines=num_intervals + degree,
        degree=degree,
        seed=seed,
    )
    for shell in range(num_shells):
        _assert_equal(case, shell, ops.dilated_message, 1e-10)


@pytest.mark.parametrize("level", ["v2", "v3", "v4"])
def test_every_instruction_set(native, level: str) -> None:
    # The level is chosen once per process; a machine without it runs the next lower one.
    code = (
        "from tests.ops.test_dilated_message import _assert_equal, message_case\n"
        "import torch\n"
        "for width, heads in ((32, 2), (6, 2)):\n"
        "    case = message_case(width=width, num_heads=heads)\n"
        "    _assert_equal(case, 1, torch.ops.dkmp_plugin.dilated_message, 1e-11)\n"
    )
    environment = {**os.environ, "DKMP_PLUGIN_ISA": level}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


@pytest.mark.parametrize(
    ("attention", "carries", "degree"),
    [(True, True, 5), (False, True, 5), (True, False, 5), (False, True, 3)],
)
def test_gradcheck_and_gradgradcheck(attention: bool, carries: bool, degree: int) -> None:
    case = message_case(
        num_atoms=4,
        width=4,
        attention=attention,
        carries_vector=carries,
        num_splines=degree + 2,
        degree=degree,
    )
    features = [x.clone().requires_grad_() for x in case.features()]
    for shell in (0, 1):
        assert case.ptr[shell + 1] > case.ptr[shell]

        def function(*given):
            return case.call(ops.dilated_message, shell, *given)  # noqa: B023

        assert torch.autograd.gradcheck(function, features)
        assert torch.autograd.gradgradcheck(function, features, atol=1e-4)


@pytest.fixture
def fresh_memory_is_not_zero():
    """torch fills memory that nobody has written yet with NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_empty_shell_and_lonely_atoms_give_zeros(fresh_memory_is_not_zero) -> None:
    case = message_case(num_atoms=5, extent=0.5)
    assert case.ptr[2] == case.ptr[3]
    values, first, _ = _derivatives(ops.dilated_message, case, 2)
    assert all(not x.any() for x in (*values, *first))
    assert all(x.shape[0] == 5 for x in values)


@pytest.mark.parametrize("width", [8, 6])
def test_no_atoms(width: int) -> None:
    case = message_case(num_atoms=0, width=width)
    (scalar, vector), first, _ = _derivatives(ops.dilated_message, case, 0)
    assert scalar.shape == (0, width) and vector.shape == (0, 8, width)
    assert [x.shape for x in first] == [case.table.shape]


def test_coincident_atoms_have_finite_derivatives() -> None:
    case = message_case(num_atoms=6)
    case.edge_vector[: int(case.ptr[1]) : 2] = 0.0
    for op in (ops.dilated_message, reference.dilated_message):
        assert all(torch.isfinite(x).all() for part in _derivatives(op, case, 0) for x in part)
    _assert_equal(case, 0, ops.dilated_message, 1e-11)


def test_edges_in_any_order(native) -> None:
    case = message_case()
    begin, end = int(case.ptr[1]), int(case.ptr[2])
    order = torch.arange(case.edge_index.shape[1])
    order[begin:end] = order[begin:end].flip(0)
    shuffled = case._replace(
        edge_index=case.edge_index[:, order].contiguous(), edge_vector=case.edge_vector[order]
    )
    _assert_equal(shuffled, 1, native.dilated_message, 1e-11)
    torch.testing.assert_close(
        shuffled.call(native.dilated_message, 1), case.call(native.dilated_message, 1), rtol=1e-12, atol=1e-12
    )


def test_threads_do_not_change_a_bit(native, two_threads) -> None:
    case = message_case(num_atoms=80, width=64, num_heads=4, dtype=torch.float32)
    one, two = two_threads(lambda: _derivatives(native.dilated_message, case, 1))
    for a, b in zip(one, two, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_skipping_the_table_gradient_changes_nothing_else(native) -> None:
    case = message_case()
    features = [x.clone().requires_grad_() for x in case.features()]
    total = sum(x.sum() for x in case.call(native.dilated_message, 1, *features))
    with_table = torch.autograd.grad(total, features)
    features[5] = features[5].detach()
    without = torch.autograd.grad(
        sum(x.sum() for x in case.call(native.dilated_message, 1, *features)), features[:5]
    )
    assert all(torch.equal(a, b) for a, b in zip(with_table[:5], without, strict=True))


def test_third_derivative_is_refused(native) -> None:
    case = message_case(num_atoms=4)
    features = [x.clone().requires_grad_() for x in case.features()]
    values = case.call(native.dilated_message, 0, *features)
    (first,) = torch.autograd.grad(values[0].sum(), features[0], create_graph=True)
    (second,) = torch.autograd.grad((first**2).sum(), features[0], create_graph=True)
    with pytest.raises(RuntimeError, match="not implemented"):
        torch.autograd.grad(second.sum(), features[0])


def test_scripted_equals_eager() -> None:
    case = message_case()
    scripted = torch.jit.script(ops.dilated_message)
    eager, compiled = case.call(ops.dilated_message, 1), case.call(scripted, 1)
    assert all(torch.equal(a, b) for a, b in zip(eager, compiled, strict=True))


@pytest.mark.parametrize("width", [16, 20])
@pytest.mark.parametrize("carries", [False, True])
def test_results_have_no_gaps(native, width: int, carries: bool) -> None:
    """As fake tensors promise: torch.compile refused widths that kernels pad with channels."""
    case = message_case(width=width, attention=False, carries_vector=carries)
    features = [x.clone().requires_grad_() for x in case.features()]
    values = case.call(native.dilated_message, 1, *features)
    used = [x for x in features if x.numel() > 0]
    gradients = torch.autograd.grad([x.sum() for x in values], used, create_graph=True)
    assert all(x.is_contiguous() for x in (*values, *gradients))


def test_strided_inputs_are_read_correctly() -> None:
    case = message_case()
    strided = [torch.stack([x, torch.full_like(x, math.nan)], dim=-1)[..., 0] for x in case.features()]
    assert not any(x.is_contiguous() for x in strided)
    edges = torch.stack([case.edge_index, case.edge_index], dim=-1)[..., 0]
    result = case._replace(edge_index=edges).call(ops.dilated_message, 1, *strided)
    assert all(torch.equal(a, b) for a, b in zip(result, case.call(ops.dilated_message, 1), strict=True))


def test_opcheck(native) -> None:
    case = message_case(num_atoms=5, width=4)
    features = [x.clone().requires_grad_() for x in case.features()]
    case.call(lambda *given: torch.library.opcheck(native.dilated_message.default, given), 1, *features)
    grads = [torch.ones(5, 4), torch.ones(5, 8, 4)]
    grads = [x.double().requires_grad_() for x in grads]
    for need_table in (True, False):

        def check(*given):
            given = (*grads, *given, need_table)  # noqa: B023
            torch.library.opcheck(native.dilated_message_backward.default, given)

        case.call(check, 1, *features)


@pytest.mark.parametrize("op", [ops.dilated_message, reference.dilated_message], ids=["chosen", "reference"])
@pytest.mark.parametrize(
    ("changes", "shell", "message"),
    [
        ({"edge_vector": torch.zeros(3, 3).double()}, 0, "edge_"),
        ({"edge_index": torch.zeros(3, 5, dtype=torch.int64)}, 0, "edge_"),
        ({"ptr": torch.zeros(3, dtype=torch.int32)}, 0, "int64"),
        ({}, 3, "shell 3"),
        ({}, -1, "shell -1"),
        ({"value": torch.zeros(12, 25).double()}, 0, r"expected \(N, 3 d\)"),
        ({"num_heads": 3}, 0, "num_heads = 3"),
        ({"table": torch.zeros(7, 8).double()}, 0, r"table has shape \[7, 8\]"),
        ({"table": torch.zeros(5, 32).double()}, 0, "n >= 6"),
        ({"degree": 4}, 0, "degree is 4, expected 3 or 5"),
        ({"query": torch.zeros(0, 0).double()}, 0, "both"),
        ({"key": torch.zeros(12, 4).double()}, 0, r"expected \(12, 8\)"),
        ({"vector": torch.zeros(12, 8).double()}, 0, r"expected \(12, 8, 8\)"),
        ({"table": torch.zeros(7, 32)}, 0, "same .*dtype"),
    ],
)
def test_bad_input_is_refused(op, changes, shell: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        message_case()._replace(**changes).call(op, shell)


def test_edges_out_of_range_are_refused(native) -> None:
    case = message_case()
    case.edge_index[1, 0] = 12
    with pytest.raises(IndexError, match="there are 12 atoms"):
        case.call(native.dilated_message, 0)
    case = message_case()
    with pytest.raises(ValueError, match="edges"):
        case._replace(ptr=case.ptr + 10**6).call(native.dilated_message, 0)


def test_not_a_number_stays_local(native) -> None:
    # NaN coordinates must neither crash nor read outside the table.
    case = message_case()
    case.edge_vector[0] = math.nan
    case.edge_vector[1] = 1e30
    scalar, _ = case.call(native.dilated_message, 0)
    assert scalar.shape == (12, 8) and torch.isnan(scalar[case.edge_index[0, 0]]).any()


@pytest.mark.parametrize("op", [ops.dilated_message, reference.dilated_message], ids=["native", "reference"])
@pytest.mark.parametrize("overlap", [0.0, 1.0])
def test_broken_edges_are_not_coincident_atoms(op, overlap: float) -> None:
    # radius_shells marks a graph it could not hold by NaN vectors: the energy must become NaN.
    case = message_case(overlap=overlap)
    broken = torch.full_like(case.edge_vector, float("nan"))
    for sums in case.call(op, 0, broken, *case.features()[1:]):
        assert sums.isnan().any()


def test_calls_of_older_files_have_cubic_splines() -> None:
    # The degree is the last argument, which files exported before there was a choice do not give.
    case = message_case(degree=3)
    without_degree = case.call(lambda *given: ops.dilated_message(*given[:-1]), 0)
    assert all(
        torch.equal(a, b) for a, b in zip(without_degree, case.call(ops.dilated_message, 0), strict=True)
    )
