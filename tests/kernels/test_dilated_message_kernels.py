"""The CUDA kernels of dilated_message without a GPU: against the float64 reference, and under sanitizers."""

import functools
import math

import pytest
import torch

from dkmp_plugin.ops import reference
from tests.kernels import message_launches as launches
from tests.kernels.checks import emulator, interpreter
from tests.kernels.emulate import sanitizer_obstacle
from tests.kernels.nvrtc import nvrtc_obstacle
from tests.kernels.sources import kernel_text
from tests.ops.conftest import MessageCase, message_case

pytestmark = pytest.mark.skipif(sanitizer_obstacle(None) is not None, reason=str(sanitizer_obstacle(None)))

# Together: several heads per warp, heads wider than a warp, several passes, no attention.
CASES = {
    "float32": {"num_atoms": 8, "width": 64, "num_heads": 4, "num_shells": 2, "dtype": torch.float32},
    "one head in two passes": {"num_atoms": 4, "width": 512, "num_heads": 1, "num_shells": 1},
    "six heads": {"num_atoms": 5, "width": 96, "num_heads": 6, "num_shells": 2, "carries_vector": False},
    "no attention": {"num_atoms": 6, "width": 32, "attention": False, "overlap": 0.0},
}


# Together: teams of one and of several warps, several passes, heads wider than a warp.
UNEVEN = {
    "float32": {"width": 64, "num_heads": 4, "dtype": torch.float32},
    "two warps": {"width": 64, "num_heads": 2},
    "one head": {"width": 128, "num_heads": 1},
    "eleven passes": {"width": 352, "attention": False, "carries_vector": False},
}


def emulated(seed: int, sanitizer=None) -> launches.Check:
    return lambda file: emulator(kernel_text(file), seed, sanitizer)


def cotangents(case: MessageCase):
    generator = torch.Generator().manual_seed(3)
    width = case.value.size(1) // 3
    shapes = (len(case.value), width), (len(case.value), 8, width)
    return tuple(
        torch.randn(s, generator=generator, dtype=torch.float64).to(case.value.dtype) for s in shapes
    )


def expected(case: MessageCase, shell: int, dual: bool):
    """Results and gradients of the reference in float64 or, if ``dual``, their directional derivatives."""
    features = tuple(x.double() for x in case.features())
    grads = tuple(x.double() for x in cotangents(case))
    function = functools.partial(case.call, reference.dilated_message, shell)

    def backward(*given):
        return torch.func.vjp(function, *given)[1](grads)

    if not dual:
        return (*function(*features), *backward(*features))
    directions = tuple(x.double() for x in launches.directions_of(case))
    return tuple(x for f in (function, backward) for x in torch.func.jvp(f, features, directions)[1])


def computed(case: MessageCase, shell: int, dual: bool, check: launches.Check, teams: int = 1):
    directions = launches.directions_of(case) if dual else None
    forward = launches.forward(case, shell, check, directions, teams)
    return (*forward, *launches.backward(case, shell, cotangents(case), check, directions, teams))


def uneven_case(dtype: torch.dtype = torch.float64, **kind) -> MessageCase:
    """Atoms with 0, 1, 3 and 150 edges each way, sorted by nothing; the second shell is empty."""
    case = message_case(num_atoms=5, num_shells=1, dtype=dtype, **kind)
    generator = torch.Generator().manual_seed(2)
    atoms = torch.tensor([1] + [2] * 3 + [3] * 150)
    edges = torch.stack([atoms[torch.randperm(154, generator=generator)] for _ in range(2)])
    vectors = torch.randn(154, 3, generator=generator, dtype=torch.float64).to(dtype)
    return case._replace(edge_index=edges, edge_vector=vectors, ptr=torch.tensor([0, 154, 154]))


def assert_close(ours, theirs, relative: float) -> None:
    names = ("scalar", "vector", "edge_vector", "query", "key", "value", "sent vector", "table")
    for name, a, b in zip(names, ours, theirs, strict=True):
        assert a.shape == b.shape, name
        if b.numel():
            error, scale = float((a - b).abs().max()), float(b.abs().max())
            assert error <= relative * max(scale, 1e-9), f"{name}: {error} against {scale}"


@pytest.mark.parametrize("dual", [False, True], ids=["plain", "dual"])
@pytest.mark.parametrize("name", CASES)
def test_emulated_kernels_equal_the_reference(name: str, dual: bool) -> None:
    case = message_case(**CASES[name])
    for shell in range(case.num_shells):
        results = computed(case, shell, dual, emulated(seed=1))
        assert_close(
            results, expected(case, shell, dual), 1e-13 if case.value.dtype == torch.float64 else 1e-5
        )
        # The order of threads and blocks changes no bit.
        for seed in (0, 2):
            again = computed(case, shell, dual, emulated(seed))
            assert all(torch.equal(a, b) for a, b in zip(results, again, strict=True))


@pytest.mark.parametrize("teams", [1, 2, 4, 8])
@pytest.mark.parametrize("dual", [False, True], ids=["plain", "dual"])
@pytest.mark.parametrize("name", UNEVEN)
def test_teams_share_rows_of_any_length(name: str, dual: bool, teams: int) -> None:
    case = uneven_case(**UNEVEN[name])
    results = computed(case, 0, dual, emulated(seed=1), teams)
    assert_close(results, expected(case, 0, dual), 1e-13 if case.value.dtype == torch.float64 else 1e-5)
    again = computed(case, 0, dual, emulated(seed=2), teams)
    assert all(torch.equal(a, b) for a, b in zip(results, again, strict=True))
    assert not any(x.any() for x in computed(case, 1, dual, emulated(seed=1), teams))


def test_teams_of_many_warps_have_several_passes() -> None:
    plans = {
        name: launches.message_plan("backward", launches.macros_of(uneven_case(**UNEVEN[name])))
        for name in UNEVEN
    }
    assert plans["eleven passes"].passes == 11 and plans["eleven passes"].most_teams > 1
    assert any(plan.warps > 1 and plan.most_teams > 1 for plan in plans.values())


def test_long_rows_in_any_order() -> None:
    # More than 32 edges per atom, and a list that is sorted by nothing.
    case = message_case(num_atoms=40, width=32, num_shells=1, extent=5.0, attention=False)
    order = torch.randperm(case.edge_index.size(1), generator=torch.Generator().manual_seed(0))
    case = case._replace(
        edge_index=case.edge_index[:, order].contiguous(), edge_vector=case.edge_vector[order]
    )
    assert int(torch.bincount(case.edge_index[1]).max()) > 32
    results = computed(case, 0, False, emulated(seed=4))
    assert_close(results, expected(case, 0, False), 1e-13)
    again = computed(case, 0, False, emulated(seed=5))
    assert all(torch.equal(a, b) for a, b in zip(results, again, strict=True))


@pytest.mark.parametrize("row", [0, 1], ids=["receivers", "senders"])
def test_groups_list_edges_in_order(row: int) -> None:
    case = message_case(num_atoms=30)
    for shell in range(3):
        groups = launches.group_edges(case, shell, row, emulated(seed=6 + shell))
        begin, end = int(case.ptr[shell]), int(case.ptr[shell + 1])
        by_atom = torch.argsort(case.edge_index[row, begin:end], stable=True) + begin
        assert torch.equal(groups.edges[: end - begin].long(), by_atom)
        counts = torch.bincount(case.edge_index[row, begin:end], minlength=30)
        assert torch.equal(groups.starts.diff().long(), counts)
        assert not groups.broken.any()
        # What lies behind the shell's edges is left alone.
        assert bool((groups.edges[end - begin :] == -1).all())


def test_padding_behind_the_last_shell_is_ignored() -> None:
    case = message_case(**CASES["no attention"])
    edges = torch.full((2, 40), -7, dtype=torch.int64)
    padded = case._replace(
        edge_index=torch.cat([case.edge_index, edges], 1),
        edge_vector=torch.cat([case.edge_vector, torch.full((40, 3), math.nan).double()]),
    )
    for shell in (0, 2):
        ours, theirs = (computed(x, shell, False, emulated(seed=1)) for x in (padded, case))
        assert not ours[2][-40:].any()
        pairs = zip(ours[:2] + ours[3:], theirs[:2] + theirs[3:], strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        assert torch.equal(ours[2][:-40], theirs[2])


@pytest.mark.parametrize("broken", ["edge", "ptr"])
def test_broken_graphs_give_nan(broken: str) -> None:
    # Kernels cannot raise an error, and must neither read elsewhere nor give numbers.
    case = message_case(**CASES["no attention"])
    if broken == "edge":
        case.edge_index[1, 3] = 6
    else:
        case = case._replace(ptr=case.ptr + 10**10)
    results = computed(case, 0, False, emulated(seed=1))
    used = [x for x in results[:2] + results[5:] if x.numel()]
    assert all(torch.isnan(x).all() for x in used)


def test_not_a_number_stays_local() -> None:
    case = message_case(**CASES["float32"])
    case.edge_vector[0] = math.nan
    case.edge_vector[1] = 1e30
    scalar, _ = launches.forward(case, 0, emulated(seed=1))
    receivers = set(case.edge_index[0, :2].tolist())
    assert torch.isnan(scalar[case.edge_index[0, 0]]).all()
    assert all(torch.isfinite(scalar[i]).all() for i in range(8) if i not in receivers)


# Plain instances go through the sanitizers in test_planted_bugs.
@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_sanitizers_find_nothing(sanitizer: str) -> None:
    if sanitizer_obstacle(sanitizer):
        pytest.skip(str(sanitizer_obstacle(sanitizer)))
    # Two warps per block; the receivers' rows are gapless, the senders' are not.
    case = message_case(num_atoms=5, width=64, num_heads=2, num_shells=1)
    for teams in (1, 4):
        results = computed(case, 0, True, emulated(seed=1, sanitizer=sanitizer), teams)
        assert_close(results, expected(case, 0, True), 1e-13)


@pytest.mark.parametrize("architecture", [75, 80, 90, 120])
@pytest.mark.parametrize("dual", [False, True], ids=["plain", "dual"])
def test_ptx_gives_the_reference(architecture: int, dual: bool) -> None:
    if nvrtc_obstacle():
        pytest.skip(str(nvrtc_obstacle()))
    case = message_case(num_atoms=5, width=64, num_heads=2, num_shells=1, dtype=torch.float32)

    def interpreted(file: str):
        return interpreter(kernel_text(file), architecture)

    for teams in (1, 4):
        assert_close(computed(case, 0, dual, interpreted, teams), expected(case, 0, dual), 1e-5)
