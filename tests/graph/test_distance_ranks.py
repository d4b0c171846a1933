"""The native distance_ranks against the reference, brute force and scipy."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dkmp_plugin import ops
from dkmp_plugin.graph import distance_ranks
from dkmp_plugin.ops import reference

TRICLINIC = torch.tensor([[8.0, 0.0, 0.0], [2.0, 7.0, 0.0], [-3.0, 2.0, 6.0]], dtype=torch.float64)


def _positions(count: int, seed: int = 0, scale: float = 9.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, generator=generator, dtype=torch.float64) * scale


@settings(deadline=None, max_examples=80)
@given(
    count=st.integers(0, 60),
    num_neighbors=st.integers(1, 70),
    systems=st.integers(1, 4),
    scale=st.floats(0.0, 30.0),
    rounded=st.booleans(),
    double=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_equals_reference(count, num_neighbors, systems, scale, rounded, double, seed) -> None:
    pos = _positions(count, seed, scale).to(torch.float64 if double else torch.float32)
    # Rounded positions have many ties, which go to the lower index.
    pos = pos.round() if rounded else pos
    batch = torch.arange(count) * systems // max(count, 1)
    expected = reference.distance_ranks(pos, num_neighbors, batch)
    assert torch.equal(distance_ranks(pos, num_neighbors, batch), expected)


@pytest.mark.parametrize("box", [TRICLINIC, torch.eye(3).double() * 3.0], ids=["triclinic", "small"])
def test_nearest_periodic_images(box: torch.Tensor) -> None:
    # Integer positions and boxes: distances are exact, so are the ties.
    pos = (_positions(40, scale=30.0) - 10.0).round()
    images = np.array(list(itertools.product(range(-16, 17), repeat=3))) @ box.numpy()
    ranks = distance_ranks(pos, 12, box=box)
    for i in range(0, 40, 7):
        squared = (((pos.numpy() - pos[i].numpy())[:, None] + images) ** 2).sum(2).min(1)
        expected = [j for _, j in sorted(zip(squared, range(40), strict=True)) if j != i][:12]
        assert ranks[i].tolist() == expected


def test_one_box_per_system() -> None:
    pos, batch = _positions(30), torch.tensor([0] * 12 + [2] * 18)
    boxes = torch.stack([TRICLINIC, TRICLINIC, 1.5 * TRICLINIC])
    together = distance_ranks(pos, 5, batch, boxes)
    assert torch.equal(together[:12], distance_ranks(pos[:12], 5, box=boxes[0]))
    assert torch.equal(together[12:], distance_ranks(pos[12:], 5, box=boxes[2]) + 12)


def test_large_system_with_outliers_equals_scipy() -> None:
    spatial = pytest.importorskip("scipy.spatial")
    pos = _positions(5000, scale=40.0)
    pos[::500] *= 50.0
    _, expected = spatial.cKDTree(pos.numpy()).query(pos.numpy(), 65)
    assert np.array_equal(distance_ranks(pos, 64).numpy(), expected[:, 1:])


def test_threads_do_not_change_the_result() -> None:
    pos, before = _positions(1500, scale=30.0), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(distance_ranks(pos, 40))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


def test_scripted_equals_eager() -> None:
    pos = _positions(20)
    assert torch.equal(torch.jit.script(ops.distance_ranks)(pos, 7), distance_ranks(pos, 7))


def test_opcheck() -> None:
    if not ops.status().native:
        pytest.skip(f"the native library is not loaded: {ops.status().why_not}")
    op = torch.ops.dkmp_plugin.distance_ranks.default
    torch.library.opcheck(op, (_positions(9), 4, None, None))
    torch.library.opcheck(op, (_positions(9), 4, torch.zeros(9, dtype=torch.int64), TRICLINIC))


NOT_FINITE = _positions(6)
NOT_FINITE[2] = float("inf")


@pytest.mark.parametrize(
    ("pos", "num_neighbors", "batch", "message"),
    [
        (torch.zeros(4, 2), 3, None, r"expected \(N, 3\)"),
        (_positions(6), 0, None, "num_neighbors is 0"),
        (NOT_FINITE, 3, None, "NaN or infinite"),
        (_positions(6), 3, torch.tensor([0, 1, 0, 1, 0, 1]), "batch must be"),
        (_positions(6), 3, torch.zeros(5, dtype=torch.int64), "one .*system index per atom"),
    ],
)
def test_bad_input_is_refused(pos, num_neighbors, batch, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        distance_ranks(pos, num_neighbors, batch)


@pytest.mark.parametrize("search", [distance_ranks, reference.distance_ranks])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_positions_of_an_exploded_simulation_are_refused(search, dtype) -> None:
    # Squared distances overflow where positions do not yet.
    pos = torch.tensor([[0.0, 0, 0], [1e20, 0, 0]], dtype=dtype)
    with pytest.raises(ValueError, match=r"beyond 1e.?16 angstrom"):
        search(pos, 1)


def test_positions_rounded_by_more_than_the_box_is_wide_are_refused() -> None:
    """Rounding hides images there: searches found too few atoms, and read beyond the end of their list."""
    if not ops.status().native:
        pytest.skip(f"the native library is not loaded: {ops.status().why_not}")
    box = torch.diag(torch.tensor([1003.0, 1.0, 1.0]))
    for distance in (4e7, 99_020 * 1003 + 501.5):
        pos = torch.tensor([[0.0, 0, 0], [distance, 0, 0]])
        with pytest.raises(ValueError, match="wrap them into the box"):
            distance_ranks(pos, 1, box=box)
    # Unwrapped positions of a long run are searched.
    pos = torch.tensor([[0.0, 0, 0], [1e5, 0, 0], [0.25, 0, 0]])
    assert distance_ranks(pos, 2, box=10 * torch.eye(3))[0].tolist() == [1, 2]


@pytest.mark.parametrize("search", [distance_ranks, reference.distance_ranks])
def test_lattice_vectors_need_not_be_short(search) -> None:
    pos, lengths = _positions(30), torch.diag(torch.tensor([8.0, 9.0, 10.0], dtype=torch.float64))
    skewed = torch.tensor([[1, 0, 0], [2, 1, 0], [-3, 4, 1]], dtype=torch.float64) @ lengths
    assert torch.equal(search(pos, 12, None, skewed), distance_ranks(pos, 12, None, lengths))


@pytest.mark.parametrize("search", [distance_ranks, reference.distance_ranks])
def test_one_box_for_all_systems(search) -> None:
    pos, batch = _positions(30), torch.arange(30) // 15
    assert torch.equal(search(pos, 6, batch, TRICLINIC[None]), distance_ranks(pos, 6, batch, TRICLINIC))
