"""Trajectory files to frame pairs: real formats, replicas, selections, and the input that is refused."""

import re
import tracemalloc
from itertools import product

import mdtraj
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dkmp_plugin.datasets import DKMPTrajectory
from dkmp_plugin.datasets.crossing import Crossing
from dkmp_plugin.datasets.frame_pairs import FramePairs, random_rotation
from dkmp_plugin.datasets.run import Run
from dkmp_plugin.datasets.run_borders import find_borders
from dkmp_plugin.datasets.sampling import Sampling
from dkmp_plugin.datasets.trajectory_files import load_topology, select_atoms
from dkmp_plugin.datasets.trajectory_runs import load_runs
from dkmp_plugin.datasets.unwrapping import gather, unwrap
from dkmp_plugin.ops.reference.ranks import distance_ranks
from dkmp_plugin.superposition import superpose
from tests.datasets.trajectory_fixtures import GLYCINES, dcd_bytes, topology, walk, write


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "top.pdb", GLYCINES[None])
    write(tmp_path / "first.dcd", walk(12, 1))
    write(tmp_path / "second.xtc", walk(9, 2))
    write(tmp_path / "third.dcd", walk(7, 3))
    return tmp_path


def pairs(folder, **arguments):
    defaults = {"topology": "top.pdb", "train": ["first.dcd"]}
    return DKMPTrajectory(str(folder), **{**defaults, **arguments})


def test_pairs_of_whole_runs(folder):
    data = pairs(folder, train=["first.dcd", "second.xtc"], val=["third.dcd"], lag=3)
    assert len(data) == 9 + 6 + 4
    assert [len(part) for part in data.split_indices] == [15, 4, 0]
    for idx, (start, run) in ((0, (0, walk(12, 1))), (8, (8, walk(12, 1))), (18, (3, walk(7, 3)))):
        item = data[idx]
        assert item.z.tolist() == [7, 6, 6, 8] * 2
        assert np.allclose(item.pos, run[start], atol=1e-5)
        assert np.allclose(item.y, run[start + 3] - run[start], atol=1e-5)
    # XTC stores 0.01 Å.
    assert np.allclose(data[9].pos, walk(9, 2)[0], atol=0.011)
    assert data.metadata["lag"] == 3


def test_selections(folder):
    assert len(pairs(folder, selection="backbone")[0].z) == 8
    assert pairs(folder, selection="name CA")[0].z.tolist() == [6, 6]
    assert len(pairs(folder, selection="heavy")[0].z) == 8
    water = mdtraj.Topology()
    residue = water.add_residue("HOH", water.add_chain())
    water.add_atom("O", mdtraj.element.oxygen, residue)
    assert len(select_atoms(topology().join(water), "protein+ligand")) == 8
    for selection, message in (("name XX", "matches none of the 8 atoms"), ("name (", "neither one of full")):
        with pytest.raises(ValueError, match=message):
            pairs(folder, selection=selection)


def test_replicas_in_one_file_are_never_paired(folder):
    """Three replicas back to back: the first border by time, the second by a jump of the atoms."""
    frames = np.concatenate([walk(6, 1), walk(5, 2), walk(7, 3, shift=30.0)])
    times = np.concatenate([np.arange(6.0), np.arange(5.0), np.arange(5.0, 12.0)])
    write(folder / "all.xtc", frames, times)
    data = pairs(folder, train=["all.xtc#0", "all.xtc#2"], val=["all.xtc#1"], lag=2)
    assert [run.name for run in data.runs] == ["all.xtc#0", "all.xtc#2", "all.xtc#1"]
    assert [len(run.positions) for run in data.runs] == [6, 7, 5]
    assert [len(part) for part in data.split_indices] == [9, 3, 0]
    assert len(pairs(folder, train=["all.xtc"], lag=2)) == 4 + 3 + 5
    assert max(float(data[i].y.abs().max()) for i in range(len(data))) < 1
    with pytest.raises(ValueError, match="#0 to #2"):
        pairs(folder, train=["all.xtc#3"])


@pytest.mark.parametrize(
    "parts, message",
    [
        ({"train": ["first.dcd"], "val": ["first.dcd"]}, "train and val share 12 frames of first.dcd"),
        ({"train": ["all.xtc"], "test": ["./all.xtc#1"]}, "train and test share 5 frames of all.xtc#1"),
        (
            {"val": "all.xtc#0", "test": ["all.xtc#1", "all.xtc#0"]},
            "val and test share 6 frames of all.xtc#0",
        ),
        ({"val": ["first.dcd#0"]}, "train and val share 12 frames of first.dcd"),
    ],
)
def test_runs_in_two_parts_are_refused(folder, parts, message):
    write(folder / "all.xtc", np.concatenate([walk(6, 1), walk(5, 2, shift=30.0)]))
    with pytest.raises(ValueError, match=message):
        pairs(folder, **parts)


@pytest.mark.parametrize("copy", ["first.dcd", "copy.dcd", "copy.xtc", "piece.pdb", "longer.dcd"])
@pytest.mark.parametrize("part", ["train", "val"])
def test_copies_of_runs_are_refused(folder, copy, part):
    """Whatever they are called; that all replicas start from one frame is no reason."""
    write(folder / "copy.dcd", walk(12, 1))
    write(folder / "copy.xtc", walk(12, 1))
    write(folder / "piece.pdb", walk(12, 1)[4:9])
    write(folder / "longer.dcd", np.concatenate([walk(4, 5)[::-1], walk(12, 1)[1:]]))
    files = {"train": ["first.dcd", "second.xtc"], "val": ["third.dcd"]}
    pairs(folder, **files)
    files[part].append(copy)
    with pytest.raises(ValueError, match=r"first\.dcd.* hold the same frames|share 12 frames of first\.dcd"):
        pairs(folder, **files)


def test_unknown_arguments_are_refused(folder):
    with pytest.raises(ValueError, match=r"'lagg' .* DKMPTrajectory.* topology, train, .*stride.*, lag, "):
        pairs(folder, lagg=3)


def test_number_signs_in_names_of_files_and_folders(folder):
    (folder / "run#1").mkdir()
    frames = np.concatenate([walk(6, 1), walk(5, 2, shift=30.0)])
    for name in ("run#1/all.dcd", "first#of.dcd"):
        write(folder / name, frames)
        assert len(pairs(folder, train=[name])) == 5 + 4
        assert len(pairs(folder, train=[f"{name}#1"])) == 4
    with pytest.raises(ValueError, match=r"first#of\.dcd.*#0 to #1"):
        pairs(folder, train=["first#of.dcd#2"])
    with pytest.raises(ValueError, match=r"first\.dcd#x: no such file"):
        pairs(folder, train=["first.dcd#x"])


@settings(deadline=None, max_examples=20)
@given(lengths=st.lists(st.integers(3, 12), min_size=1, max_size=4), seed=st.integers(0, 1000))
def test_jumps_are_where_replicas_meet(lengths, seed):
    parts = [walk(length, seed + index, shift=20.0 * index) for index, length in enumerate(lengths)]
    borders = np.cumsum(lengths)[:-1].tolist()
    steps = np.sqrt(np.square(np.diff(np.concatenate(parts), axis=0)).mean((1, 2)))
    assert find_borders(steps, np.arange(sum(lengths))) == borders


def test_ranks_come_from_the_first_frame_or_the_interval(folder):
    run = walk(12, 1).astype(np.float32)
    ranks = [distance_ranks(torch.from_numpy(run[t]), 4).int() for t in range(12)]
    data = pairs(folder, num_neighbors=4)
    assert all(torch.equal(data[t].neighbors, ranks[0]) for t in range(11))
    again = pairs(folder, num_neighbors=4, rerank_interval=5)
    assert all(torch.equal(again[t].neighbors, ranks[t - t % 5]) for t in range(11))
    assert any(not torch.equal(ranks[0], other) for other in ranks)
    assert "neighbors" not in pairs(folder)[0]


def test_superposition(folder):
    turned = walk(12, 1) @ random_rotation().numpy().T + 5.0
    write(folder / "turned.dcd", turned)
    moved = pairs(folder, train=["first.dcd"], val=["turned.dcd"], superpose="runs")
    assert np.allclose(moved[11].pos, moved[0].pos, atol=1e-3)
    assert np.allclose(moved[15].y, moved[4].y, atol=1e-3)
    still = superpose(turned.astype(np.float32), GLYCINES, each_frame=True)
    assert np.abs(still - GLYCINES).mean() < np.abs(walk(12, 1) - GLYCINES).mean()
    with pytest.raises(ValueError, match="superpose: 'all'"):
        pairs(folder, superpose="all")


def test_drift_is_removed_from_training_runs_only(folder):
    """Tumbling and translation go, internal motion stays, and consecutive frames are at their closest."""
    turns = np.cumsum(np.full(12, 0.2))
    tumbling = [
        frame @ np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]) + a
        for a, frame in zip(turns, walk(12, 1), strict=True)
    ]
    runs = {
        "train": [write(folder / "train.dcd", np.array(tumbling))],
        "val": [write(folder / "val.dcd", np.array(tumbling[::-1]))],
    }
    data = pairs(folder, **runs, remove_drift=True)
    plain = pairs(folder, **runs)
    still = np.mean([float(data[i].y.square().mean()) for i in range(11)])
    assert still < 0.1 * np.mean([float(plain[i].y.square().mean()) for i in range(11)])
    assert torch.allclose(data[0].pos, plain[0].pos)
    for i in range(11):
        assert torch.allclose(torch.pdist(data[i].pos), torch.pdist(plain[i].pos), atol=1e-3)
        assert data[i].y.mean(0).abs().max() < 1e-4
        assert torch.equal(data[11 + i].pos, plain[11 + i].pos)


def test_augmentation_is_for_training_items_and_keeps_the_target(folder):
    arguments = {"val": ["third.dcd"], "augment_noise": 0.1, "augment_rotation": True}
    data, plain = pairs(folder, **arguments), pairs(folder, val=["third.dcd"])
    item, original = data[2], plain[2]
    assert not torch.allclose(item.pos, original.pos)
    # The target frame is the original one, turned about the centroid of the noisy input.
    target, expected = item.pos + item.y, original.pos + original.y
    assert torch.allclose(torch.pdist(target), torch.pdist(expected), atol=1e-4)
    assert torch.equal(data[13].pos, plain[13].pos) and torch.equal(data[13].y, plain[13].y)
    matrix = random_rotation()
    assert torch.allclose(matrix @ matrix.T, torch.eye(3), atol=1e-5)
    assert torch.det(matrix) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("options", [{"previous": True}, {"pushforward": True}], ids=str)
def test_noise_moves_the_stand_in_for_a_frame_before_the_first(folder, options):
    """Otherwise items without an earlier frame seemed to have one, of noise."""
    data = pairs(folder, lag=2, augment_noise=0.1, augment_rotation=True, **options)
    item = data[1]
    assert torch.equal(item.previous, item.pos)
    assert not torch.allclose(item.pos, torch.from_numpy(data.runs[0].positions[1]), atol=1e-3)
    later = data[3]
    assert torch.allclose(
        torch.pdist(later.previous), torch.pdist(torch.tensor(data.runs[0].positions[1])), atol=1e-4
    )


def test_smoothing_averages_training_data_only(folder):
    run = walk(12, 1)
    data = pairs(folder, val=["third.dcd"], augment_smoothing=2)
    inputs = {"plain": run[4], "averaged": run[2:7].mean(0)}
    seen = set()
    torch.manual_seed(0)
    for _ in range(20):
        item = data[4]
        (which,) = (name for name, frame in inputs.items() if np.allclose(item.pos, frame, atol=1e-4))
        seen.add(which)
        assert np.allclose(item.pos + item.y, run[3:8].mean(0), atol=1e-4)
    assert seen == {"plain", "averaged"}
    # At the end of a run the window shrinks.
    assert np.allclose(data[10].pos + data[10].y, run[11], atol=1e-4)
    assert np.allclose(data[11].y, walk(7, 3)[1] - walk(7, 3)[0], atol=1e-4)


def test_periodic_boxes(folder):
    write(folder / "boxed.xtc", walk(5), box=30.0)
    assert torch.allclose(pairs(folder, train=["boxed.xtc"], periodic=True)[0].box, 30 * torch.eye(3)[None])
    with pytest.raises(ValueError, match="no periodic box"):
        pairs(folder, periodic=True)


@pytest.mark.parametrize(
    "option",
    [
        {"augment_rotation": True},
        {"augment_crossing": 0.5},
        {"superpose": "runs"},
        {"superpose": "frames"},
        {"remove_drift": True},
    ],
)
def test_what_turns_structures_is_refused_with_boxes(folder, option):
    """A box that stays where it is would join atoms that were never neighbours."""
    for name, seed in (("one.xtc", 1), ("two.xtc", 2)):
        write(folder / name, walk(5, seed), box=30.0)
    arguments = {"train": ["one.xtc", "two.xtc"], "periodic": True}
    assert pairs(folder, **arguments).metadata["periodic"] is True
    with pytest.raises(ValueError, match=f"{next(iter(option))}: .* was given with periodic boxes"):
        pairs(folder, **arguments, **option)
    assert pairs(folder, **{**arguments, "periodic": False}, **option).metadata["periodic"] is False


def test_files_that_do_not_belong_together(folder):
    mdtraj.Trajectory(np.zeros((3, 5, 3)), None).save_dcd(str(folder / "five.dcd"))
    with pytest.raises(ValueError, match=r"five\.dcd cannot be read with a topology of 8 atoms"):
        pairs(folder, train=["five.dcd"])


def test_truncated_dcd(folder):
    content = (folder / "first.dcd").read_bytes()
    (folder / "cut.dcd").write_bytes(content[: len(content) - 40])
    with pytest.raises(ValueError, match=r"cut\.dcd is truncated: its last frame has"):
        pairs(folder, train=["cut.dcd"])
    (folder / "empty.dcd").write_bytes(b"")
    with pytest.raises(ValueError, match="is empty"):
        pairs(folder, train=["empty.dcd"])


@pytest.mark.parametrize(
    "content",
    [
        b"T",
        b"\0\0\0\0",
        b"ATOM" + 500 * b" ",
        bytes(500),
        dcd_bytes(walk(3))[:60],
        dcd_bytes(walk(3))[:150],
        # Lengths of records that cannot be.
        dcd_bytes(walk(3))[:92] + b"\xff" * 400,
        dcd_bytes(walk(3), length="<q")[:100] + b"\xff" * 7 + b"\x7f" + bytes(400),
        dcd_bytes(walk(3), num_fixed=10),
    ],
    ids=lambda content: f"{len(content)} bytes",
)
def test_files_that_are_no_dcd(folder, content):
    (folder / "damaged.dcd").write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged\.dcd is no DCD trajectory"):
        pairs(folder, train=["damaged.dcd"])


@pytest.mark.parametrize(
    "layout",
    [
        {"box": True},
        {"charmm": False},
        {"fourth_dimension": True},
        {"fourth_dimension": True, "box": True},
        {"num_fixed": 3},
        {"num_fixed": 3, "box": True},
        {"length": ">i"},
        {"length": "<q", "box": True},
    ],
    ids=str,
)
def test_dcd_files_of_other_programs(folder, layout):
    positions = walk(12, 1)
    positions[1:, 8 - layout.get("num_fixed", 0) :] = positions[0, 8 - layout.get("num_fixed", 0) :]
    content = dcd_bytes(positions, **layout)
    (folder / "other.dcd").write_bytes(content)
    (run,) = pairs(folder, train=["other.dcd"]).runs
    np.testing.assert_allclose(run.positions, positions, atol=1e-5)
    for size in (len(content) - 4, len(dcd_bytes(positions[:1], **layout)) - 4):
        (folder / "cut.dcd").write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"cut\.dcd is truncated: its last frame has"):
            pairs(folder, train=["cut.dcd"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lag": 12}, "first.dcd has 12 frames, lag 12 needs at least 13"),
        ({"lag": 0}, "lag: 0"),
        ({"train": ["absent.dcd"]}, "absent.dcd: no such file"),
        ({"topology": "absent.pdb"}, "absent.pdb: no such file"),
        ({"train": []}, "train: no run was given"),
    ],
)
def test_bad_arguments(folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        pairs(folder, **arguments)


def test_bad_positions(folder):
    """Å written as nm and the other way round, NaN, and a molecule cut by the box."""
    for name, positions, message in (
        ("angstrom.dcd", 10 * walk(4), "mixes nm and Å"),
        ("nanometer.dcd", 0.1 * walk(4), "mixes nm and Å"),
        ("nan.dcd", np.where(np.arange(4)[:, None, None] == 2, np.nan, walk(4)), "frame 2 holds NaN"),
        ("cut.dcd", walk(4) + 20.0 * (np.arange(8) > 5)[None, :, None], "make molecules whole"),
    ):
        write(folder / name, positions)
        with pytest.raises(ValueError, match=message):
            pairs(folder, train=[name])


def test_selections_without_bonds_are_checked_by_their_molecules(folder):
    """Alpha carbons are not bonded to each other; what they belong to must be whole, and in Å."""
    write(folder / "nanometer.dcd", 0.1 * walk(5))
    cut = walk(5)
    cut[4:, 4:] += 20.0
    write(folder / "cut.dcd", cut)
    for name, message in (("nanometer.dcd", "mixes nm and Å"), ("cut.dcd", "in frame 4 .*make mol")):
        with pytest.raises(ValueError, match=message):
            pairs(folder, train=[name], selection="name CA")
    assert len(pairs(folder, selection="name CA")) == 11


TRICLINIC = np.array([[12.0, 0, 0], [5.0, 11.0, 0], [-4.0, 3.0, 9.0]])


def waters(num_frames: int, seed: int = 0):
    """Topology of five waters, and their walk (T, 15, 3) in Å through a triclinic box, free and wrapped."""
    top = mdtraj.Topology()
    chain = top.add_chain()
    for _ in range(5):
        residue = top.add_residue("HOH", chain)
        for name in ("O", "H1", "H2"):
            top.add_atom(name, mdtraj.element.get_by_symbol(name[0]), residue)
    top.create_standard_bonds()
    generator = np.random.default_rng(seed)
    centers = generator.uniform(0, 10, (5, 3)) + np.cumsum(generator.normal(size=(num_frames, 5, 3)), axis=0)
    shape = np.array([[0, 0, 0], [0.957, 0, 0], [-0.24, 0.927, 0]])
    images = np.floor(centers @ np.linalg.inv(TRICLINIC)) @ TRICLINIC
    free, wrapped = (np.repeat(x, 3, axis=1) + np.tile(shape, (5, 1)) for x in (centers, centers - images))
    return top, free, wrapped


def write_boxed(path, top, positions, times=None, box=TRICLINIC):
    trajectory = mdtraj.Trajectory(positions / 10, top, times)
    trajectory.unitcell_vectors = np.repeat(box[None] / 10, len(positions), 0)
    trajectory.save(str(path))
    return path.name


@pytest.mark.parametrize("selection", ["full", "element O"])
@pytest.mark.parametrize("periodic", [True, False])
def test_molecules_are_followed_across_the_box(tmp_path, periodic, selection):
    """Wrapped one by one, molecules hop by a box vector; displacements are those of the free walk."""
    top, free, wrapped = waters(40)
    assert np.abs(np.diff(wrapped, axis=0)).max() > 6
    write_boxed(tmp_path / "top.pdb", top, wrapped[:1])
    write_boxed(tmp_path / "wrapped.dcd", top, wrapped)
    data = pairs(
        tmp_path, train=["wrapped.dcd"], lag=2, periodic=periodic, selection=selection, previous=True
    )
    (run,) = data.runs
    atoms = select_atoms(top, selection)
    expected = (free - free[0] + wrapped[0])[:, atoms]
    np.testing.assert_allclose(run.positions, expected, atol=1e-3)
    item = data[20]
    np.testing.assert_allclose(item.y, expected[22] - expected[20], atol=1e-3)
    np.testing.assert_allclose(item.previous, expected[18], atol=1e-3)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000))
def test_unwrapping_stays_on_the_lattice_of_boxes_that_change(seed):
    _, free, _ = waters(10, seed)
    generator = np.random.default_rng(seed)
    boxes = TRICLINIC * (1 + 0.01 * generator.normal(size=(10, 1, 1)))
    molecules = np.repeat(np.arange(5), 3)
    images = generator.integers(-2, 3, (10, 5, 3))[:, molecules] @ boxes
    unwrapped = free + images
    unwrap(unwrapped, boxes, molecules)
    offsets = (unwrapped - free) @ np.linalg.inv(boxes)
    np.testing.assert_allclose(offsets, np.rint(offsets), atol=1e-9)
    assert np.abs(np.diff(unwrapped, axis=0)).max() < 6


def test_an_ion_that_hops_to_its_image_starts_no_run_and_a_replica_does(tmp_path):
    """Each replica begins with the ion beside the molecule, not in the images of the one before."""
    top = topology()
    top.add_atom("ZN", mdtraj.element.zinc, top.add_residue("ZN", top.add_chain()))
    box = 30.0 * np.eye(3)
    ion = np.array([29.5, 10, 10]) + 0.2 * np.arange(10)[:, None] * np.array([1.0, 0, 0])
    hopping = np.concatenate([walk(10, 1) + 8.0, ion[:, None] % 30.0], axis=1)
    replica = hopping + 14.0
    replica[:, 8] = 1.0 + 0.1 * np.arange(10)[:, None]
    write_boxed(tmp_path / "top.pdb", top, hopping[:1], box=box)
    write_boxed(tmp_path / "all.dcd", top, np.concatenate([hopping, replica]), box=box)
    first, second = pairs(tmp_path, train=["all.dcd"]).runs
    assert (len(first.positions), len(second.positions)) == (10, 10)
    np.testing.assert_allclose(first.positions[:, 8], ion - [30.0, 0, 0], atol=1e-3)
    replica[:, 8] += 30.0
    np.testing.assert_allclose(second.positions, replica, atol=1e-3)
    (first, second) = pairs(tmp_path, train=["all.dcd"], periodic=True).runs
    np.testing.assert_allclose(first.positions[:, 8], ion, atol=1e-3)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000))
def test_molecules_gather_around_the_largest(seed):
    """Whatever the images of a ligand and of single atoms, they come back to where they are in contact."""
    generator = np.random.default_rng(seed)
    molecules = np.array([3] * 3 + [0] * 8 + [7] + [5])
    ligand = GLYCINES[:3] + np.array([0, 4.0, 1.0])
    ions = GLYCINES[[0, 7]] + np.array([[0, -2.5, 0], [2.0, 0, 0]])
    together = np.concatenate([ligand, GLYCINES, ions])
    box = 2.0 * TRICLINIC
    images = generator.integers(-2, 3, (8, 3)) @ box
    images[0] = 0
    frame = together + images[molecules]
    gather(frame, box, molecules)
    np.testing.assert_allclose(frame, together, atol=1e-9)
    alone = waters(1, seed)[2][0]
    gathered = alone.copy()
    gather(gathered, TRICLINIC, np.repeat(np.arange(5), 3))
    assert np.array_equal(gathered, alone)


def test_ligands_without_bonds_are_not_torn(tmp_path):
    """Halfway between two images of the protein, its atoms go to one of them together."""
    top = topology()
    ligand = top.add_residue("LIG", top.add_chain())
    for name in ("C1", "C2", "C3"):
        top.add_atom(name, mdtraj.element.carbon, ligand)
    middle = GLYCINES.mean(axis=0) + np.array([[14.0, 0, 0], [15.5, 0, 0], [17.0, 0, 0]])
    frames = np.concatenate([walk(5, 1), np.repeat(middle[None], 5, axis=0)], axis=1)
    write_boxed(tmp_path / "top.pdb", top, frames[:1], box=30.0 * np.eye(3))
    write_boxed(tmp_path / "run.dcd", top, frames, box=30.0 * np.eye(3))
    (run,) = pairs(tmp_path, train=["run.dcd"]).runs
    np.testing.assert_allclose(np.diff(run.positions[:, 8:, 0]), 1.5, atol=1e-3)
    # Nor are chains of residues that have no bonds at all.
    top._bonds = []
    long = frames * np.array([3.0, 1.0, 1.0])
    write_boxed(tmp_path / "long.dcd", top, long, box=30.0 * np.eye(3))
    (run,) = load_runs(tmp_path / "long.dcd", top)
    np.testing.assert_allclose(run.positions[0], long[0], atol=1e-3)


def test_boxes_of_no_volume_are_none(folder):
    write(folder / "vacuum.dcd", walk(5), box=1.0)
    assert pairs(folder, train=["vacuum.dcd"], selection="name CA").metadata["periodic"] is False
    with pytest.raises(ValueError, match="no periodic box"):
        pairs(folder, train=["vacuum.dcd"], periodic=True)


def test_a_box_that_some_frames_lack_is_named(folder):
    trajectory = mdtraj.Trajectory(walk(5) / 10, topology())
    lengths = np.full((5, 3), 3.0)
    lengths[2] = 0
    trajectory.unitcell_lengths, trajectory.unitcell_angles = lengths, np.full((5, 3), 90.0)
    trajectory.save(str(folder / "some.dcd"))
    with pytest.warns(UserWarning, match=r"some\.dcd: frame 2 has no box, others have"):
        (run,) = pairs(folder, train=["some.dcd"]).runs
    assert len(run.positions) == 5 and run.boxes is None


def test_unreadable_topology(folder):
    (folder / "broken.psf").write_text("no topology\n")
    with pytest.raises(ValueError, match=r"broken\.psf cannot be read as a topology"):
        load_topology(folder / "broken.psf")


def test_superposing_different_systems():
    runs = [Run(str(n), np.full(n, 6), np.zeros((4, n, 3), dtype=np.float32)) for n in (5, 6)]
    assert len(FramePairs((runs, [], []), Sampling(lag=1))) == 6
    from dkmp_plugin.datasets.trajectory import superpose_runs

    with pytest.raises(ValueError, match="different systems"):
        superpose_runs(runs, runs[0], "runs")


def test_crossing_blends_frames_and_futures_of_two_runs():
    numbers = np.array([6, 7, 8, 6])
    rng = np.random.default_rng(0)
    start, step = rng.normal(size=(4, 3)) * 3, rng.normal(size=(4, 3)) * 0.03
    first = np.stack([start + t * step for t in range(8)]).astype(np.float32)
    # The same path, seen from elsewhere and half a step ahead: it never meets a frame of the first run.
    turn = random_rotation().numpy()
    second = np.stack([(start + (t + 0.5) * step) @ turn.T + 5.0 for t in range(8)]).astype(np.float32)
    runs = [Run("first", numbers, first, None), Run("second", numbers, second, None)]
    crossing = Crossing(runs, lag=2)
    torch.manual_seed(0)
    seen = []
    for _ in range(10):
        pos, target, previous = crossing(0, 3)
        seen.append(pos)
        # In the orientation of the first run, within a step of its path; the future is two frames on.
        assert np.abs(pos.numpy() - first[3]).max() < 0.04
        assert np.abs(target.numpy() - first[5]).max() < 0.04
        assert previous is not None and np.abs(previous.numpy() - first[1]).max() < 0.04
    assert torch.stack(seen).std(0).max() > 0.002
    assert crossing(0, 1)[2] is None
    with pytest.raises(ValueError, match="two or more training runs of one system"):
        Crossing(runs[:1], lag=2)


def test_crossing_keeps_no_frames():
    """Only which frames match: blends of all frames with all runs would outgrow the trajectories."""
    frames = np.random.default_rng(0).normal(size=(3, 20, 200, 3)).astype(np.float32)
    runs = [Run(str(number), np.full(200, 6), run) for number, run in enumerate(frames)]
    crossing = Crossing(runs, lag=2)
    tracemalloc.start()
    for _ in range(4):
        for number, frame in product(range(3), range(18)):
            crossing(number, frame)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 0.5 * frames.nbytes


def test_references_and_previous_frames(folder):
    files = {"train": ["first.dcd", "second.xtc"], "val": ["third.dcd"]}
    first = pairs(folder, **files, reference="first", previous=True, lag=2)
    for idx in (0, 1, 4, 10, 12, 18):
        number, frame = first._items[idx]
        positions, item = first.runs[number].positions, first[idx]
        assert np.array_equal(item.reference, positions[0])
        assert np.array_equal(item.previous, positions[frame - 2 if frame >= 2 else frame])
    mean = pairs(folder, **files, reference="mean")
    assert torch.equal(mean[0].reference, mean[len(mean) - 1].reference) and "previous" not in mean[0]
    # Of the training runs alone, every frame superposed.
    runs = [superpose(run.positions, mean[0].reference.numpy(), True) for run in mean.runs[:2]]
    assert np.allclose(mean[0].reference, np.concatenate(runs).mean(axis=0), atol=1e-3)
    with pytest.raises(ValueError, match="reference: 'last'"):
        pairs(folder, reference="last")
    with pytest.raises(ValueError, match="pushforward: true was given with previous: true"):
        pairs(folder, previous=True, pushforward=True)
    others = [Run(str(n), np.full(n, 6), np.zeros((4, n, 3), dtype=np.float32)) for n in (5, 6)]
    with pytest.raises(ValueError, match="use reference: first"):
        FramePairs((others, [], []), Sampling(reference="mean"))


def test_crossing_is_for_training_items(folder):
    data = pairs(folder, train=["first.dcd", "third.dcd"], val=["second.xtc"], augment_crossing=1.0)
    plain = pairs(folder, train=["first.dcd", "third.dcd"], val=["second.xtc"])
    assert not torch.equal(data[2].pos, plain[2].pos)
    assert torch.equal(data[len(data) - 1].pos, plain[len(data) - 1].pos)
    for wrong in ({"augment_crossing": 1.5}, {"lag": 0}, {"num_neighbors": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            pairs(folder, **wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"stride": 2.5},
        {"stride": 0},
        {"stride": -1},
        {"lag": True},
        {"augment_smoothing": 1.5},
        {"augment_noise": "0.1"},
        {"augment_rotation": "false"},
        {"remove_drift": "no"},
        {"periodic": "false"},
        {"num_neighbors": "16"},
        {"num_neighbors": 16.0},
        {"rerank_interval": 2.5},
        {"selection": [0, 1, 2]},
        {"topology": ["top.pdb", "other.pdb"]},
        {"train": [1]},
        {"val": {"third.dcd": 1}},
    ],
    ids=str,
)
def test_values_of_another_type(folder, wrong):
    (name, value), *_ = wrong.items()
    with pytest.raises(ValueError, match=rf"^{name}: .*{re.escape(str(value))}.* was given, "):
        pairs(folder, **wrong)


@pytest.mark.parametrize("suffix", [".xtc", ".trr", ".nc"])
def test_no_pair_bridges_missing_frames(folder, suffix):
    """Times at 2 µs, where single precision knows them to 0.1 ps only."""
    times = 2.0e6 + 2.5 * np.delete(np.arange(20.0), [7, 8, 9])
    name = write(folder / f"gap{suffix}", np.delete(walk(20, 1), [7, 8, 9], axis=0), times)
    data = pairs(folder, train=[name])
    assert [len(run.positions) for run in data.runs] == [7, 10]
    assert data.metadata["picoseconds_per_frame"] == pytest.approx(2.5)
    twice = pairs(folder, train=[name], stride=2)
    assert [len(run.positions) for run in twice.runs] == [4, 5]
    assert twice.metadata["picoseconds_per_frame"] == pytest.approx(5.0)


def test_files_of_different_spacing_are_not_mixed(folder):
    for seed, name, spacing in ((10, "fine.xtc", 2.0), (11, "coarse.xtc", 20.0), (12, "rounded.xtc", 2.001)):
        write(folder / name, walk(9, seed), spacing * (1 + np.arange(9)))
    message = r"fine\.xtc has 2 ps between frames, coarse\.xtc has 20: lag would mean different times"
    with pytest.raises(ValueError, match=message):
        pairs(folder, train=["fine.xtc"], val=["coarse.xtc"])
    # DCD files have no times, and 0, 1, 2 ... only count the frames (second.xtc).
    names = ["first.dcd", "second.xtc", "coarse.xtc"]
    assert pairs(folder, train=names).metadata["picoseconds_per_frame"] == 20.0
    assert len(pairs(folder, train=["fine.xtc"], val=["rounded.xtc"])) == 16
    assert "picoseconds_per_frame" not in pairs(folder).metadata


def test_times_that_never_advance_say_nothing(folder):
    write(folder / "still.xtc", walk(9, 1), np.zeros(9))
    assert len(pairs(folder, train=["still.xtc"])) == 8


def test_runs_that_are_too_short_are_left_out_with_a_warning(folder):
    frames = np.concatenate([walk(8, 1), walk(3, 2, shift=30.0), walk(7, 3)])
    write(folder / "all.dcd", frames)
    with pytest.warns(UserWarning, match=r"1 of its 3 runs .* the 5 frames .*: all\.dcd#1 \(3\)$"):
        data = pairs(folder, train=["all.dcd"], lag=4)
    assert [run.name for run in data.runs] == ["all.dcd#0", "all.dcd#2"]
    with pytest.raises(ValueError, match=r"all\.dcd#1 has 3 frames, lag 4 needs at least 5"):
        pairs(folder, train=["all.dcd#1"], lag=4)
    with pytest.raises(
        ValueError, match=r"interrupted 2 times, and its longest run has 8 frames, at least 9"
    ):
        pairs(folder, train=["all.dcd"], lag=8)


def test_elements_are_declared(folder):
    assert pairs(folder).metadata["elements"] == [6, 7, 8]


@pytest.mark.parametrize("removed", [1, 20, 40, 300, 700])
def test_truncated_xyz(folder, removed):
    write(folder / "whole.xyz", walk(12, 1))
    content = (folder / "whole.xyz").read_bytes()
    assert len(pairs(folder, train=["whole.xyz"])) == 11
    (folder / "cut.xyz").write_bytes(content[: len(content) - removed])
    if removed == 1:
        # The end of the last line alone.
        assert len(pairs(folder, train=["cut.xyz"])) == 11
        return
    with pytest.raises(ValueError, match=r"cut\.xyz is truncated: its last frame has"):
        pairs(folder, train=["cut.xyz"])


def test_files_that_are_no_xyz(folder):
    for content in ("", "a b\n", "0\n\n"):
        (folder / "other.xyz").write_text(content)
        with pytest.raises(ValueError, match=r"other\.xyz is no XYZ trajectory"):
            pairs(folder, train=["other.xyz"])


@pytest.mark.parametrize("removed", [1, 100, 1000, 1300])
def test_truncated_netcdf(folder, removed):
    write(folder / "whole.nc", walk(12, 1))
    content = (folder / "whole.nc").read_bytes()
    assert len(pairs(folder, train=["whole.nc"])) == 11
    (folder / "cut.nc").write_bytes(content[: len(content) - removed])
    with pytest.raises(ValueError, match=r"cut\.nc is truncated or damaged"):
        pairs(folder, train=["cut.nc"])


@pytest.mark.parametrize("suffix", [".pdb", ".gro", ".xyz"])
def test_trajectories_that_name_their_atoms_keep_to_the_order_of_the_topology(folder, suffix):
    write(folder / f"same{suffix}", walk(5, 1))
    assert len(pairs(folder, train=[f"same{suffix}"])) == 4
    other_order = [0, 1, 3, 2, 4, 5, 7, 6]  # N, CA, O, C
    swapped = mdtraj.Topology()
    chain = swapped.add_chain()
    for residue in topology().residues:
        copy = swapped.add_residue(residue.name, chain)
        for name in ("N", "CA", "O", "C"):
            swapped.add_atom(name, mdtraj.element.get_by_symbol(name[0]), copy)
    mdtraj.Trajectory(walk(5, 1)[:, other_order] / 10.0, swapped).save(str(folder / f"swapped{suffix}"))
    with pytest.raises(ValueError, match=r"atom 2 is O, in the topology it is C: .* in another order"):
        pairs(folder, train=[f"swapped{suffix}"])
    # Of the atoms that are left all are where they should be.
    assert len(pairs(folder, train=[f"swapped{suffix}"], selection="name CA")) == 4


def test_truncated_gro(folder):
    write(folder / "whole.gro", walk(12, 1))
    (folder / "cut.gro").write_bytes((folder / "whole.gro").read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cut\.gro cannot be read with a topology of 8 atoms"):
        pairs(folder, train=["cut.gro"])


def test_patterns_are_not_expanded(folder):
    with pytest.raises(
        ValueError, match=r"\*\.dcd: no such file.*patterns are not expanded, name every file"
    ):
        pairs(folder, train="*.dcd")


def test_hdf5_without_pytables(folder, monkeypatch):
    from dkmp_plugin import optional

    (folder / "run.h5").write_bytes(b"")
    monkeypatch.setattr(optional, "find_spec", lambda name: None if name == "tables" else True)
    with pytest.raises(optional.MissingPackageError, match=r"run\.h5 needs tables, .* pip install tables"):
        load_runs(folder / "run.h5", topology())


@pytest.mark.parametrize(
    "option",
    [{"reference": "mean"}, {"superpose": "frames"}, {"superpose": "runs"}, {"remove_drift": True}],
    ids=str,
)
def test_one_atom(folder, option):
    data = pairs(folder, selection="index 0", **option)
    assert all(torch.isfinite(value).all() for idx in range(11) for _, value in data[idx])
