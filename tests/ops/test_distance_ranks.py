"""Distance ranks against a definition that sorts all pairs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dkmp_plugin import ops
from dkmp_plugin.ops import reference
from dkmp_plugin.ops.reference.ranks import distance_ranks, minimum_image


def sorted_pairs(pos, count, box=None):
    """Ranks of one system by a stable sort of all distances; with a box, over 5 x 5 x 5 images."""
    vector = pos[:, None] - pos[None]
    squared = vector.square().sum(2)
    if box is not None:
        cells = torch.cartesian_prod(*[torch.arange(-2, 3)] * 3).to(pos.dtype) @ box
        squared = (vector[:, :, None] + cells).square().sum(3).min(2).values
    squared.fill_diagonal_(float("inf"))
    order = squared.sort(dim=1, stable=True).indices[:, : min(count, len(pos) - 1)]
    padding = torch.full((len(pos), count - order.size(1)), -1)
    return torch.cat([order, padding], 1)


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    count=st.integers(1, 14),
    seed=st.integers(0, 10_000),
    lattice=st.booleans(),
)
def test_ranks_are_exact(sizes, count, seed, lattice):
    """Random structures, and points of a lattice, where many distances are equal."""
    generator = torch.Generator().manual_seed(seed)
    pos = 5 * torch.rand(sum(sizes), 3, generator=generator, dtype=torch.float64)
    pos = pos.round() if lattice else pos
    batch = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    ranks = distance_ranks(pos, count, batch)
    first = 0
    for size in sizes:
        expected = sorted_pairs(pos[first : first + size], count)
        expected = torch.where(expected < 0, expected, expected + first)
        assert torch.equal(ranks[first : first + size], expected)
        first += size


def test_blocks_do_not_matter(monkeypatch):
    pos = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)).mul(8).round()
    whole = distance_ranks(pos, 20)
    monkeypatch.setattr(reference.ranks, "_block_pairs", lambda: 150)
    assert torch.equal(distance_ranks(pos, 20), whole)
    assert torch.equal(whole, sorted_pairs(pos, 20))


@pytest.mark.parametrize("shear", [0.0, 3.0])
def test_periodic(shear):
    box = torch.tensor([[8.0, 0, 0], [shear, 9.0, 0], [shear, -shear, 10.0]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    fractional = torch.rand(30, 3, generator=generator, dtype=torch.float64)
    cells = torch.randint(-1, 2, (30, 3), generator=generator)
    pos = (fractional + cells) @ box
    assert torch.equal(distance_ranks(pos, 12, box=box), sorted_pairs(fractional @ box, 12, box))
    two = distance_ranks(
        torch.cat([pos, pos]), 12, torch.repeat_interleave(torch.arange(2), 30), torch.stack([box, 2 * box])
    )
    assert torch.equal(two[30:] - 30, distance_ranks(pos, 12, box=2 * box))
    assert minimum_image(box[0] + box[2], box).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ties_across_borders_go_to_the_lower_index(dtype):
    """A crystal's sites: the six nearest of each are equally far, some of them across a border."""
    sites = torch.cartesian_prod(*[torch.arange(3)] * 3).to(dtype)
    box = 3.0 * torch.eye(3, dtype=dtype)
    assert torch.equal(distance_ranks(sites, 6, box=box), sorted_pairs(sites, 6, box))


def test_scripted():
    pos = torch.rand(20, 3, generator=torch.Generator().manual_seed(0)) * 5
    scripted = torch.jit.script(distance_ranks)
    assert torch.equal(scripted(pos, 6), distance_ranks(pos, 6))


def test_no_atoms():
    assert distance_ranks(torch.zeros(0, 3), 4).shape == (0, 4)


@pytest.mark.parametrize(
    ("pos", "count", "batch", "message"),
    [
        (torch.zeros(4), 2, None, r"expected \(N, 3\)"),
        (torch.zeros(4, 3), 0, None, "at least 1"),
        (torch.full((4, 3), float("nan")), 2, None, "NaN"),
        (torch.zeros(4, 3), 2, torch.tensor([0, 1, 0, 1]), "non-decreasing"),
        (torch.zeros(4, 3), 2, torch.tensor([0, 1]), "one non-decreasing system index per atom"),
    ],
)
def test_bad_input(pos, count, batch, message):
    with pytest.raises(ValueError, match=message):
        distance_ranks(pos, count, batch)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (torch.zeros(3, 3), "box is singular"),
        (torch.full((3, 3), float("nan")), "box holds NaN or infinite"),
        (torch.ones(3), r"box has shape \[3\]"),
        (10.0 * torch.eye(3).expand(2, 3, 3), "box holds 2 boxes but batch names system 2"),
    ],
)
@pytest.mark.parametrize("search", [distance_ranks, ops.distance_ranks])
def test_boxes_that_are_refused(search, box, message):
    """Datasets without a box write zeros, with which every distance would be NaN."""
    with pytest.raises(ValueError, match=f"distance_ranks: {message}"):
        search(torch.rand(4, 3), 2, torch.tensor([0, 0, 2, 2]), box)


@pytest.mark.parametrize("search", [distance_ranks, ops.distance_ranks])
def test_types_that_are_refused(search):
    with pytest.raises(ValueError, match=r"distance_ranks: pos .*float32 or float64"):
        search(torch.zeros(4, 3, dtype=torch.int64), 2)
    for batch in (torch.zeros(4, dtype=torch.int32), torch.full((4,), -1)):
        with pytest.raises(ValueError, match="distance_ranks: batch"):
            search(torch.rand(4, 3), 2, batch)
