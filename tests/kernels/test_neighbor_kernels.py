"""The CUDA kernels of the neighbour search and of edge_vectors, without a GPU: integers equal the CPU's.

Every check (emulator in random order, sanitizers, PTX interpreter) runs the same launches.
"""

import pytest
import torch

from dkmp_plugin import ops
from tests.kernels.checks import CHECKS, emulator, inlined, obstacle
from tests.kernels.emulate import sanitizer_obstacle
from tests.kernels.neighbor_launches import Launcher
from tests.kernels.sources import kernel_text

needs_emulator = pytest.mark.skipif(bool(sanitizer_obstacle(None)), reason=str(sanitizer_obstacle(None)))
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])

TRICLINIC = torch.tensor([[6.0, 0.0, 0.0], [2.5, 5.5, 0.0], [-1.5, 2.0, 5.0]])
CUBIC = torch.eye(3) * 7.0
BROKEN = torch.iinfo(torch.int32).min


def launcher(seed=1):
    return Launcher(lambda source: emulator(source, seed))


def system(count, dtype, scale=7.0, seed=0, systems=1):
    generator = torch.Generator().manual_seed(seed)
    pos = torch.rand(count, 3, generator=generator, dtype=torch.float64) * scale - 2.0
    return pos.to(dtype), torch.arange(count) * systems // count


def assert_same_graph(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


@needs_emulator
@both_dtypes
@pytest.mark.parametrize("overlap", [0.0, 0.7])
@pytest.mark.parametrize(
    "box, cutoff", [(None, 3.0), (CUBIC, 3.0), (TRICLINIC, 4.0), (CUBIC / 3, 4.0)], ids=str
)
def test_graph_equals_the_cpus(box, cutoff, overlap, dtype):
    pos, batch = system(21 if cutoff == 3.0 else 7, dtype)
    cell = None if box is None else box.to(dtype)
    settings = (pos, batch, cell, cutoff, 3, overlap, 0)
    assert_same_graph(launcher().radius_shells(*settings), ops.radius_shells(*settings))


@needs_emulator
def test_order_of_threads_and_blocks_changes_nothing():
    pos, batch = system(20, torch.float32, systems=3)
    box = torch.stack([TRICLINIC, CUBIC, TRICLINIC])
    settings = (pos, batch, box, 3.5, 4, 0.5, 0)
    for seed in (0, 2, 3):
        assert_same_graph(launcher(seed).radius_shells(*settings), ops.radius_shells(*settings))


@needs_emulator
def test_many_shells_and_a_shell_in_device_memory():
    pos, batch = system(6, torch.float64)
    settings = (pos, batch, None, 6.0, 200, 0.03, 0)
    assert_same_graph(launcher().radius_shells(*settings), ops.radius_shells(*settings))


@needs_emulator
def test_hard_positions():
    # Coincident atoms, atoms on the borders of shells and cells, atoms far away, one atom.
    pos = torch.tensor([[0, 0, 0], [0, 0, 0], [1, 0, 0], [3, 0, 0], [1e6, 0, 0], [1e6, 2, 0]]).double()
    for chosen, box in ((pos, None), (pos, CUBIC.double()), (pos[:1], CUBIC.double()), (pos[:1], None)):
        settings = (chosen, torch.zeros(len(chosen), dtype=torch.int64), box, 3.5, 7, 0.0, 0)
        assert_same_graph(launcher().radius_shells(*settings), ops.radius_shells(*settings))


@needs_emulator
@pytest.mark.parametrize("box", [None, TRICLINIC], ids=["open", "triclinic"])
def test_fixed_number_of_edges(box):
    pos, batch = system(9, torch.float32)
    settings = (pos, batch, box, 4.0, 3, 0.5, 0)
    found = ops.radius_shells(*settings)[0].shape[1]
    padded = launcher().radius_shells(*settings, found + 40)
    assert_same_graph(padded, ops.radius_shells(*settings, found + 40))
    for limit in ({"max_edges": found - 1}, {"max_edges": found + 40, "max_neighbors": 2}):
        edge_index, offsets, ptr = launcher().radius_shells(*settings[:-1], **limit)
        assert (offsets == BROKEN).all() and ptr[-1] <= limit["max_edges"]
        kept = edge_index[:, : ptr[-1]]
        assert ((kept >= 0) & (kept < 9)).all() and (edge_index[:, ptr[-1] :] == -1).all()
        assert launcher().edge_vectors(pos, edge_index, offsets, box, batch)[: ptr[-1]].isnan().all()


@needs_emulator
@pytest.mark.parametrize("box", [None, CUBIC], ids=["open", "cubic"])
def test_bad_input_is_marked(box):
    pos, batch = system(5, torch.float32)
    broken = pos.clone()
    broken[3, 1] = float("nan")
    for positions, systems, cell, flag in (
        (broken, batch, box, 1),
        (pos, torch.tensor([0, 1, 0, 1, 1]), box, 2),
        (pos, batch, None if box is None else box * torch.tensor([[1.0], [1.0], [0.0]]), 4),
        (pos, batch + 2, None if box is None else box.expand(2, 3, 3).contiguous(), 32),
    ):
        if cell is None and flag in (4, 32):
            continue
        assert int(launcher().grid(positions, systems, cell, 3.0).status[0]) & flag
        edge_index, offsets, ptr = launcher().radius_shells(positions, systems, cell, 3.0, 2, 0.0, 0, 30)
        # Nobody reads the status of a graph of fixed size: one edge brings the news.
        assert ptr.tolist() == [0, 1, 1] and edge_index[:, 0].tolist() == [0, 0] and offsets[0, 0] == BROKEN
        assert not launcher().edge_vectors(pos, edge_index, offsets, box, batch)[0].isfinite().any()
    flat = torch.tensor([[5.0, 0, 0], [5.0, 1e-3, 0], [0, 0, 5.0]])
    assert int(launcher().grid(pos, batch, flat, 5.0).status[0]) == 64
    # Of a search for ranks, too; a box that is merely skewed is searched.
    assert int(launcher().grid(pos, batch, flat, 0.0, 4).status[0]) == 64
    skewed = torch.tensor([[5.0, 0, 0], [5.0, 0.5, 0], [0, 0, 5.0]])
    assert int(launcher().grid(pos, batch, skewed, 5.0).status[0]) == 0
    assert int(launcher().grid(pos, batch, CUBIC, 300.0, 0, 1e4).status[0]) & 16
    assert int(launcher().grid(pos + 1e9, batch, CUBIC, 3.0).status[0]) & 8
    # Positions that are rounded by more than the box is wide.
    far, narrow = pos + torch.tensor([4e7, 0.0, 0.0]), torch.diag(torch.tensor([103.0, 1.0, 1.0]))
    assert int(launcher().grid(far, batch, narrow, 0.0, 1).status[0]) == 8
    assert int(launcher().grid(pos, batch, narrow, 0.0, 1).status[0]) == 0
    # An enormous cutoff does not make a box flat.
    assert int(launcher().grid(pos, batch, CUBIC, 1e15, 0, 1e4).status[0]) == 8 + 16


@needs_emulator
@both_dtypes
@pytest.mark.parametrize("box", [None, TRICLINIC, CUBIC / 2], ids=["open", "triclinic", "small"])
@pytest.mark.parametrize("count, capacity", [(5, 64), (30, 64), (30, 16), (5, 0)])
def test_ranks_equal_the_cpus(box, dtype, count, capacity):
    # A capacity of 16 or 0 leaves only the selection of one rank after the other.
    pos, batch = system(26, dtype, systems=2)
    cell = None if box is None else box.to(dtype)
    ranks = launcher().distance_ranks(pos, count, batch, cell, capacity)
    assert torch.equal(ranks, ops.distance_ranks(pos, count, batch, cell))


@needs_emulator
def test_ranks_with_ties_and_gaps():
    # A lattice (many ties), more atoms at one place than fit into shared memory, and two far away.
    lattice = torch.cartesian_prod(*[torch.arange(3.0)] * 3)
    together = torch.cat([torch.zeros(20, 3), torch.tensor([[900.0, 0, 0], [905.0, 1, 0]])])
    for pos, capacity in ((lattice, 32), (together, 16), (torch.zeros(1, 3), 16)):
        batch = torch.zeros(len(pos), dtype=torch.int64)
        ranks = launcher().distance_ranks(pos, 7, batch, None, capacity)
        assert torch.equal(ranks, ops.distance_ranks(pos, 7, batch))


@needs_emulator
@both_dtypes
@pytest.mark.parametrize("systems", [0, 1, 3])
def test_edge_vectors_and_their_transpose(systems, dtype):
    pos, batch = system(9, dtype, systems=max(systems, 1))
    boxes = torch.stack([TRICLINIC * (1 + 0.1 * k) for k in range(systems)]).to(dtype) if systems else None
    edge_index, offsets, _ = ops.radius_shells(pos, batch, boxes, 3.0, 2, 0.3, 0)
    vector = launcher().edge_vectors(pos, edge_index, offsets, boxes, batch)
    assert torch.equal(vector, ops.edge_vectors(pos, edge_index, offsets, boxes, batch))
    grad = torch.randn_like(vector) * torch.logspace(-6, 3, len(vector), dtype=dtype)[:, None]
    results = [launcher(s).edge_vectors_backward(grad, edge_index, offsets, batch, systems) for s in range(3)]
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    shape = list(boxes.shape) if systems else []
    expected = torch.ops.dkmp_plugin.edge_vectors_backward(grad.double(), edge_index, offsets, batch, shape)
    scale = float(grad.abs().max()) * torch.finfo(dtype).eps * len(grad)
    assert (results[0][0] - expected[0]).abs().max() <= scale
    if systems:
        assert (results[0][1].view(shape) - expected[1]).abs().max() <= 8 * scale


@needs_emulator
def test_edges_of_atoms_that_do_not_exist():
    """The CPU raises an error, for which a GPU would have to wait: vectors are NaN, no more is touched."""
    pos, batch = system(4, torch.float32)
    edge_index = torch.tensor([[0, 4, -1, 1, -2, -1], [1, 2, 2, 99, -2, -1]])
    offsets = torch.zeros(6, 3, dtype=torch.int32)
    for box in (None, TRICLINIC):
        vector = launcher().edge_vectors(pos, edge_index, offsets, box, batch)
        assert torch.equal(vector[0], pos[1] - pos[0]) and vector[1:5].isnan().all() and not vector[5].any()
        by_pos, _ = launcher().edge_vectors_backward(vector, edge_index, offsets, batch, int(box is not None))
        assert by_pos.isfinite().tolist() == [[True] * 3, [False] * 3, [False] * 3, [True] * 3]
    boxes = TRICLINIC.expand(2, 3, 3).contiguous()
    vector = launcher().edge_vectors(pos, edge_index, offsets, boxes, torch.tensor([0, 2, 2, 2]))
    assert vector[0].isfinite().all() and vector[3].isnan().all()


@needs_emulator
def test_gradients_of_padding_and_of_huge_and_broken_values():
    edge_index, batch = torch.tensor([[0, 1, -1, -1], [1, 2, -1, -1]]), torch.zeros(3, dtype=torch.int64)
    grad = torch.tensor([[1e-38, 3e38, 1.0], [0.0, -3e37, 2.0], [7.0, 7.0, 7.0], [7.0, 7.0, 7.0]])
    by_pos, _ = launcher().edge_vectors_backward(grad, edge_index, edge_index, batch, 0)
    expected = torch.stack([-grad[0], grad[0] - grad[1], grad[1]]).double()
    # The error is relative to an atom's largest term.
    assert ((by_pos - expected).abs() <= 1e-7 * expected.abs().amax(1, keepdim=True)).all()
    grad[1, 1] = float("inf")
    by_pos, _ = launcher().edge_vectors_backward(grad, edge_index, edge_index, batch, 0)
    assert by_pos[0].isfinite().all() and by_pos[1:].isnan().all()


def verify(run_of, texts=None):
    """One small case through every kernel; raises where a check or a comparison does."""
    launch = Launcher(run_of, texts)
    pos, batch = system(5, torch.float32, systems=2)
    settings = (pos, batch, TRICLINIC, 3.5, 2, 0.5, 0, 60)
    graph = launch.radius_shells(*settings)
    assert_same_graph(graph, ops.radius_shells(*settings))
    many, together = system(14, torch.float32, scale=4.0)
    ranks = launch.distance_ranks(many, 3, together, None, 4)
    assert torch.equal(ranks, ops.distance_ranks(many, 3, together)), "ranks"
    ranks = launch.distance_ranks(pos, 3, batch, TRICLINIC, 0)
    assert torch.equal(ranks, ops.distance_ranks(pos, 3, batch, TRICLINIC)), "ranks of images"
    edge_index, offsets, _ = graph
    vector = launch.edge_vectors(pos, edge_index, offsets, TRICLINIC, batch)
    assert torch.equal(vector, ops.edge_vectors(pos, edge_index, offsets, TRICLINIC, batch)), "vectors"
    by_pos, by_box = launch.edge_vectors_backward(vector, edge_index, offsets, batch, 1)
    expected = torch.ops.dkmp_plugin.edge_vectors_backward(vector, edge_index, offsets, batch, [3, 3])
    assert (by_pos - expected[0]).abs().max() < 1e-4, "gradient of the positions"
    assert (by_box.view(3, 3) - expected[1]).abs().max() < 1e-3, "gradient of the box"


@pytest.mark.parametrize("check", CHECKS)
def test_all_checks(check):
    if obstacle(check):
        pytest.skip(obstacle(check))
    verify(CHECKS[check])


# Each planted fault must be found by the check beside it: a test of the tests.
FAULTS = [
    ("radius_shells.cu", "atomicAdd(mine + l, 1)", "mine[l] += 1", "thread"),
    ("radius_shells.cu", "senders[other] < sender ||", "senders[other] <= sender ||", "emulator"),
    ("distance_ranks.cu", "if (slot >= capacity) return;", "", "address"),
    ("distance_ranks.cu", "(a & run) == 0", "true", "emulator"),
    ("distance_ranks.cu", "from_lane_xor(best_squared, distance)", "from_lane_xor(best_squared, 1)", "ptx"),
    (
        "neighbor_grid.cu",
        "+ atomicAdd(left + cell_of[i], -1) - 1",
        "+ atomicAdd(left + cell_of[i], -1)",
        "address",
    ),
    (
        "neighbor_grid.cu",
        "if (i >= num_atoms || first[i] != i) return;",
        "if (first[i] != i) return;",
        "address",
    ),
    ("edge_vectors.cu", "const Scalar total = fixed.number(", "const Scalar total = (Scalar)(", "ptx"),
    (
        "edge_vectors.cu",
        "partial[threadIdx.x] = sum;\n  __syncthreads();",
        "partial[threadIdx.x] = sum;",
        "thread",
    ),
]


@pytest.mark.parametrize("file, old, new, check", FAULTS, ids=lambda x: str(x)[:24])
def test_fault_is_found(file, old, new, check):
    if obstacle(check):
        pytest.skip(obstacle(check))
    text = inlined(kernel_text(file))
    assert old in text
    with pytest.raises(AssertionError):
        verify(CHECKS[check], {file: text.replace(old, new)})
