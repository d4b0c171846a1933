"""radius_shells against brute force, and the four constraints of a dilated graph as properties."""

from typing import Optional

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dkmp_plugin import ops
from dkmp_plugin.graph import RadiusShells, radius_shells
from dkmp_plugin.ops import reference

from .brute_force import all_edges, edges_of_shell

IMPLEMENTATIONS = [
    pytest.param(ops.radius_shells, id="chosen"),
    pytest.param(reference.radius_shells, id="reference"),
]
CUBIC = torch.eye(3, dtype=torch.float64) * 9.0
TRICLINIC = torch.tensor([[7.0, 0.0, 0.0], [2.5, 6.0, 0.0], [-3.0, 2.0, 6.5]], dtype=torch.float64)
SMALL = torch.tensor([[2.1, 0.0, 0.0], [0.7, 2.4, 0.0], [-0.4, 0.3, 1.9]], dtype=torch.float64)


def _positions(count: int, seed: int = 0, scale: float = 9.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, generator=generator, dtype=torch.float64) * scale


def _compare(search, pos, cutoff, num_shells, batch, box, overlap) -> int:
    edge_index, offsets, ptr = search(pos, batch, box, cutoff, num_shells, overlap, 0)
    boxes = None if box is None else box.reshape(-1, 3, 3).numpy()
    if boxes is not None and len(boxes) == 1:
        boxes = np.repeat(boxes, int(batch.max()) + 1, axis=0)
    expected = all_edges(pos.numpy(), cutoff, batch.numpy(), boxes)
    width = cutoff / num_shells
    for shell in range(num_shells):
        lower = 0.0 if shell == 0 else shell * width - overlap / 2
        upper = cutoff if shell == num_shells - 1 else (shell + 1) * width + overlap / 2
        wanted = {edge for edge, distance in expected.items() if lower <= distance < upper}
        assert edges_of_shell((edge_index.numpy(), ptr), shell, offsets.numpy()) == wanted
    return len(expected)


@pytest.mark.parametrize("search", IMPLEMENTATIONS)
@pytest.mark.parametrize("overlap", [0.0, 0.8])
@pytest.mark.parametrize("box", [None, CUBIC, TRICLINIC, SMALL], ids=["open", "cubic", "triclinic", "small"])
def test_equals_brute_force(search, box: Optional[torch.Tensor], overlap: float) -> None:
    # Spread over several boxes: atoms outside the home cell must find the same neighbours.
    count = 4 if box is SMALL else 40
    pos = _positions(count, scale=20.0) - 7.0
    batch = torch.zeros(count, dtype=torch.int64)
    assert _compare(search, pos, 5.0, 4, batch, box, overlap) > 50


@pytest.mark.parametrize("search", IMPLEMENTATIONS)
def test_batches_with_their_own_boxes(search) -> None:
    boxes = torch.stack([CUBIC, TRICLINIC, 1.2 * CUBIC])
    batch = torch.tensor([0] * 9 + [2] * 14)  # system 1 is empty
    assert _compare(search, _positions(23), 4.5, 3, batch, boxes, 0.5) > 50


@pytest.mark.parametrize("search", IMPLEMENTATIONS)
@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_atoms(search, count: int) -> None:
    batch = torch.zeros(count, dtype=torch.int64)
    edge_index, offsets, ptr = search(_positions(count), batch, None, 100.0, 3, 0.0, 0)
    assert edge_index.shape == (2, count * (count - 1))
    assert offsets.shape == (count * (count - 1), 3)
    assert ptr.shape == (4,) and ptr[-1] == count * (count - 1)


@pytest.mark.parametrize("search", IMPLEMENTATIONS)
def test_coincident_atoms_are_edges_of_the_first_shell(search) -> None:
    pos = torch.tensor([[1.0, 2.0, 3.0]] * 3 + [[9.0, 2.0, 3.0]])
    edge_index, _, ptr = search(pos, torch.zeros(4, dtype=torch.int64), None, 5.0, 5, 0.5, 0)
    assert ptr.tolist() == [0, 6, 6, 6, 6, 6]
    assert edge_index.tolist() == [[0, 0, 1, 1, 2, 2], [1, 2, 0, 2, 0, 1]]


@pytest.mark.parametrize("search", IMPLEMENTATIONS)
def test_one_atom_sees_its_own_images(search) -> None:
    pos, batch = torch.zeros(1, 3), torch.zeros(1, dtype=torch.int64)
    edge_index, offsets, _ = search(pos, batch, torch.eye(3) * 2.0, 2.5, 1, 0.0, 0)
    assert edge_index.tolist() == [[0] * 6, [0] * 6]
    assert (offsets.abs().sum(1) == 1).all()


def test_native_equals_reference_bit_for_bit() -> None:
    if not ops.status().native:
        pytest.skip(f"the native library is not loaded: {ops.status().why_not}")
    for seed in range(20):
        for dtype in (torch.float32, torch.float64):
            pos = (_positions(50, seed, 12.0) - 3.0).to(dtype)
            batch = torch.arange(50) // 23
            for box in (None, TRICLINIC.to(dtype)):
                native = ops.radius_shells(pos, batch, box, 6.0, 4, 0.7, 0)
                expected = reference.radius_shells(pos, batch, box, 6.0, 4, 0.7, 0)
                assert all(torch.equal(a, b) for a, b in zip(native, expected, strict=True))


def test_large_system_equals_scipy() -> None:
    spatial = pytest.importorskip("scipy.spatial")
    pos = _positions(4000, scale=40.0)
    graph = radius_shells(pos, 6.0, 3)
    pairs = spatial.cKDTree(pos.numpy()).query_pairs(6.0, output_type="ndarray")
    assert graph.edge_index.shape[1] == 2 * len(pairs)
    both = np.concatenate([pairs, pairs[:, ::-1]])
    assert set(map(tuple, graph.edge_index.T.numpy())) == set(map(tuple, both))


def test_threads_do_not_change_the_result() -> None:
    pos = _positions(1500, scale=30.0)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(radius_shells(pos, 7.0, 4, box=TRICLINIC * 4, overlap=0.5))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@st.composite
def graphs(draw, overlapping: bool):
    """A random system and its graph: (pos, cutoff, num_shells, overlap, box, RadiusShells)."""
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    count = draw(st.integers(1, 25))
    pos = (_positions(count, draw(st.integers(0, 10**6)), draw(st.floats(0.5, 15.0))) - 2.0).to(dtype)
    cutoff, num_shells = draw(st.floats(0.5, 8.0)), draw(st.integers(1, 6))
    overlap = draw(st.floats(0.05, 1.0)) * cutoff / num_shells if overlapping else 0.0
    box = draw(st.sampled_from([None, CUBIC, TRICLINIC, 2.5 * SMALL]))
    box = None if box is None else box.to(dtype)
    return (
        pos,
        cutoff,
        num_shells,
        overlap,
        box,
        radius_shells(pos, cutoff, num_shells, box=box, overlap=overlap),
    )


def _rows(graph: RadiusShells) -> torch.Tensor:
    return torch.cat([graph.edge_index.T.double(), graph.shift.double()], dim=1)


@settings(deadline=None, max_examples=60)
@given(graphs(overlapping=False))
def test_shells_are_mutually_exclusive_ordered_and_complete(sample) -> None:
    pos, cutoff, num_shells, _, box, graph = sample
    border = torch.arange(num_shells + 1) * (cutoff / num_shells)
    slack = 1e-5 * cutoff
    assert (graph.shell[1:] >= graph.shell[:-1]).all()
    assert (graph.distance >= border[graph.shell] - slack).all()
    assert (graph.distance < border[graph.shell + 1] + slack).all()
    # Mutually exclusive: no edge twice. Complete: together they are the graph with a single shell.
    rows = _rows(graph)
    assert torch.unique(rows, dim=0).shape == rows.shape
    whole = _rows(radius_shells(pos, cutoff, 1, box=box))
    assert torch.equal(torch.unique(rows, dim=0), torch.unique(whole, dim=0))


@settings(deadline=None, max_examples=60)
@given(graphs(overlapping=True))
def test_windows_of_overlapping_shells_add_up(sample) -> None:
    _, cutoff, num_shells, overlap, _, graph = sample
    width = cutoff / num_shells
    total: dict = {}
    for shell in range(num_shells):
        part = slice(int(graph.ptr[shell]), int(graph.ptr[shell + 1]))
        lower, upper = shell * width, cutoff if shell + 1 == num_shells else (shell + 1) * width
        weight = reference.message.shell_window(graph.distance[part].double(), lower, upper, overlap, cutoff)
        for row, distance, w in zip(_rows(graph)[part].tolist(), graph.distance[part], weight, strict=True):
            envelope = reference.message.shell_window(distance.double().view(1), 0.0, cutoff, 0.0, cutoff)
            total.setdefault(tuple(row), [0.0, float(envelope)])[0] += float(w)
    for weight, envelope in total.values():
        assert weight == pytest.approx(envelope, abs=2e-5)


@settings(deadline=None, max_examples=40)
@given(graphs(overlapping=True))
def test_every_edge_has_its_reverse_in_the_same_shell(sample) -> None:
    pos, cutoff, num_shells, overlap, box, _ = sample
    batch = torch.zeros(len(pos), dtype=torch.int64)
    edge_index, offsets, ptr = ops.radius_shells(pos, batch, box, cutoff, num_shells, overlap, 0)
    for shell in range(num_shells):
        edges = edges_of_shell((edge_index.numpy(), ptr), shell, offsets.numpy())
        assert {(j, i, -a, -b, -c) for i, j, a, b, c in edges} == edges


@settings(deadline=None, max_examples=30)
@given(graphs(overlapping=True), st.randoms(use_true_random=False))
def test_order_of_atoms_does_not_matter(sample, random) -> None:
    pos, cutoff, num_shells, overlap, box, graph = sample
    order = list(range(len(pos)))
    random.shuffle(order)
    shuffled = radius_shells(pos[order], cutoff, num_shells, box=box, overlap=overlap)
    assert torch.equal(shuffled.ptr, graph.ptr)
    assert torch.allclose(shuffled.distance.sort().values, graph.distance.sort().values)


def test_sorted_by_shell_receiver_sender_offset() -> None:
    batch = torch.zeros(6, dtype=torch.int64)
    edge_index, offsets, ptr = ops.radius_shells(_positions(6), batch, 2.5 * SMALL, 6.0, 3, 0.4, 0)
    rows = torch.cat([edge_index.T, offsets], dim=1).tolist()
    for shell in range(3):
        part = rows[int(ptr[shell]) : int(ptr[shell + 1])]
        assert part == sorted(part) and len(part) > 5


def test_distances_and_shifts_are_differentiable() -> None:
    pos = _positions(5).requires_grad_()
    box = TRICLINIC.clone().requires_grad_()

    def distances(pos, box):
        graph = radius_shells(pos, 4.0, 2, box=box)
        return graph.distance, graph.shift

    assert torch.autograd.gradcheck(distances, (pos, box))
    same = torch.zeros(2, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(radius_shells(same, 4.0, 2).distance.sum(), same)
    assert torch.equal(gradient, torch.zeros(2, 3))


def test_scripted_equals_eager() -> None:
    scripted = torch.jit.script(radius_shells)
    for box in (None, TRICLINIC):
        eager = radius_shells(_positions(20), 5.0, 3, box=box, overlap=0.5)
        assert all(
            torch.equal(a, b)
            for a, b in zip(scripted(_positions(20), 5.0, 3, box=box, overlap=0.5), eager, strict=True)
        )


NOT_FINITE = _positions(4)
NOT_FINITE[2, 1] = float("nan")
FLAT = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0]], dtype=torch.float64)


@pytest.mark.parametrize("search", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pos": NOT_FINITE}, "NaN"),
        ({"pos": torch.zeros(4, 2)}, r"expected \(N, 3\)"),
        ({"pos": torch.zeros(4, 3, dtype=torch.int64)}, "float32 or float64"),
        ({"batch": torch.tensor([0, 1, 0, 1])}, "sorted"),
        ({"batch": torch.tensor([-1, 0, 0, 0])}, "non-negative"),
        ({"batch": torch.zeros(3, dtype=torch.int64)}, "one system index per atom"),
        ({"batch": torch.zeros(4, dtype=torch.int32)}, "int64"),
        ({"box": FLAT}, "singular"),
        ({"box": torch.zeros(3, dtype=torch.float64)}, r"expected \(3, 3\)"),
        ({"box": torch.eye(3)}, "pos.dtype"),
        ({"box": CUBIC.expand(2, 3, 3), "batch": torch.tensor([0, 1, 1, 2])}, "one box per system"),
        ({"box": CUBIC * float("inf")}, "infinite"),
        ({"cutoff": 0.0}, "cutoff"),
        ({"cutoff": float("nan")}, "cutoff"),
        ({"num_shells": 0}, "num_shells"),
        ({"overlap": -0.1}, "overlap"),
        ({"overlap": 2.6}, "overlap"),
        ({"cutoff": 20.0, "max_neighbors": 2}, "has 3 neighbours.*raise max_neighbors to"),
        ({"box": CUBIC * 0.01, "cutoff": 1000.0}, "GB"),
    ],
)
def test_bad_input_is_refused(search, changes, message: str) -> None:
    arguments = {
        "pos": _positions(4),
        "batch": torch.zeros(4, dtype=torch.int64),
        "box": None,
        "cutoff": 5.0,
        "num_shells": 2,
        "overlap": 0.0,
        "max_neighbors": 0,
    }
    with pytest.raises(ValueError, match=message):
        search(*{**arguments, **changes}.values())


@pytest.mark.parametrize("search", IMPLEMENTATIONS)
@pytest.mark.parametrize("box", [None, TRICLINIC], ids=["open", "triclinic"])
def test_fixed_number_of_edges(search, box) -> None:
    pos, batch = _positions(12), torch.zeros(12, dtype=torch.int64)
    settings = (pos, batch, box, 5.0, 3, 0.6, 0)
    edge_index, offsets, ptr = search(*settings)
    found = edge_index.shape[1]
    for capacity in (found, found + 1, found + 100):
        padded = search(*settings, capacity)
        assert torch.equal(padded[0][:, :found], edge_index) and (padded[0][:, found:] == -1).all()
        assert torch.equal(padded[1][:found], offsets) and (padded[1][found:] == 0).all()
        assert padded[0].shape == (2, capacity) and padded[1].shape == (capacity, 3)
        assert torch.equal(padded[2], ptr)
    with pytest.raises(ValueError, match=f"found {found} edges, more than max_edges = {found - 1}"):
        search(*settings, found - 1)
    with pytest.raises(ValueError, match="max_edges is 0"):
        search(*settings, 0)


def test_padding_contributes_nothing() -> None:
    pos = _positions(12).requires_grad_()
    box = TRICLINIC.clone().requires_grad_()
    results = []
    for max_edges in (None, 1000):
        graph = radius_shells(pos, 5.0, 3, box=box, overlap=0.6, max_edges=max_edges)
        energy = (graph.distance**2).sum() + (graph.shift**3).sum()
        results.append((energy, *torch.autograd.grad(energy, (pos, box))))
        assert torch.equal(graph.shell[: graph.ptr[-1]].bincount(minlength=3), graph.ptr.diff())
        assert (graph.shell[graph.ptr[-1] :] == 3).all()
    assert (graph.distance[graph.ptr[-1] :] == 0).all() and len(graph.distance) == 1000
    for free, padded in zip(*results, strict=True):
        torch.testing.assert_close(free, padded)


@pytest.mark.parametrize("module", [ops, reference], ids=["native", "reference"])
@pytest.mark.parametrize("box", [None, TRICLINIC], ids=["open", "triclinic"])
def test_a_marked_graph_has_no_vectors(module, box) -> None:
    # What radius_shells on a GPU makes of a graph that max_edges does not hold.
    pos, batch = _positions(4), torch.zeros(4, dtype=torch.int64)
    edge_index, offsets, _ = ops.radius_shells(pos, batch, box, 20.0, 2, 0.0, 0)
    offsets = torch.full_like(offsets, torch.iinfo(torch.int32).min)
    assert module.edge_vectors(pos, edge_index, offsets, box, batch).isnan().all()


def test_strided_input_is_read_correctly() -> None:
    wide = torch.zeros(20, 6, dtype=torch.float64)
    wide[:, ::2] = _positions(20)
    batch = torch.zeros(20, dtype=torch.int64)
    strided = ops.radius_shells(wide[:, ::2], batch, TRICLINIC.T.contiguous().T, 5.0, 3, 0.0, 0)
    plain = ops.radius_shells(_positions(20), batch, TRICLINIC, 5.0, 3, 0.0, 0)
    assert all(torch.equal(a, b) for a, b in zip(strided, plain, strict=True))


@pytest.mark.parametrize("search", IMPLEMENTATIONS)
def test_absurdly_distant_atoms(search) -> None:
    # Cells must not fill the space between them.
    pos = torch.tensor([[0, 0, 0], [1, 0, 0], [1e8, 0, 0], [1e8, 1, 0], [-1e12, 3, 1e15]]).double()
    edge_index, _, _ = search(pos, torch.zeros(5, dtype=torch.int64), None, 3.0, 2, 0.5, 0)
    assert edge_index.tolist() == [[0, 1, 2, 3], [1, 0, 3, 2]]


def test_positions_too_many_boxes_away_are_refused() -> None:
    if not ops.status().native:
        pytest.skip(f"the native library is not loaded: {ops.status().why_not}")
    with pytest.raises(ValueError, match="wrap the positions"):
        radius_shells(_positions(3) + 1e9, 3.0, 2, box=CUBIC)


@pytest.mark.parametrize("search", IMPLEMENTATIONS)
@pytest.mark.parametrize("cutoff", [1e30, 1e110, 1e200])
def test_cutoffs_beyond_any_distance(search, cutoff: float) -> None:
    pos = _positions(5)
    edge_index, _, _ = search(pos, torch.zeros(5, dtype=torch.int64), None, cutoff, 1, 0.0, 0)
    assert edge_index.shape == (2, 20)


@pytest.mark.parametrize("search", IMPLEMENTATIONS)
def test_positions_of_an_exploded_simulation_are_refused(search) -> None:
    pos = torch.tensor([[0.0, 0, 0], [1e20, 0, 0]])
    with pytest.raises(ValueError, match=r"beyond 1e.?16 angstrom"):
        search(pos, torch.zeros(2, dtype=torch.int64), None, 3.0, 1, 0.0, 0)


def test_nearly_flat_boxes_are_refused_instead_of_searched_for_hours() -> None:
    if not ops.status().native:
        pytest.skip(f"the native library is not loaded: {ops.status().why_not}")
    flat = torch.tensor([[5.0, 0, 0], [5.0, 1e-4, 0], [0, 0, 5.0]], dtype=torch.float64)
    with pytest.raises(ValueError, match="nearly flat"):
        radius_shells(_positions(5), 5.0, 1, box=flat)
