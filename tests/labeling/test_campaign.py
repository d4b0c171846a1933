import os
import resource
import signal

import numpy as np
import pytest

from dkmp_plugin.datasets.label_file import read_label_file, split_indices
from dkmp_plugin.labeling import campaign
from dkmp_plugin.labeling.campaign import plan_runs, run_campaign
from dkmp_plugin.labeling.executors import dask_cluster, in_this_process
from dkmp_plugin.labeling.molecule import Molecule

# Few steps: these tests are about which work is done when, not about the conformations.
SHORT = {"steps_between_frames": 5, "equilibration_steps": 5}


@pytest.fixture(scope="module")
def runs():
    frames = {"train": (3, 3), "val": (2,), "test": (2,)}
    return plan_runs(frames, temperatures=(300.0, 600.0), seed=5, **SHORT)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(campaign, "CHUNK_SIZE", 2)


class CountedTasks:
    """Runs tasks in this process, records them, and is interrupted after ``limit`` of them."""

    def __init__(self, limit=None):
        self.limit = limit
        self.done = []

    def __call__(self, function, arguments):
        for index, result in in_this_process(function, arguments):
            if len(self.done) == self.limit:
                raise KeyboardInterrupt
            self.done.append(function.__name__)
            yield index, result


def test_plan_gives_every_condition_to_every_split(runs):
    conditions = {"300 K", "600 K", "300 K strained"}
    for split in ("train", "val", "test"):
        assert {run.condition for run in runs if run.split == split} == conditions
    assert len({run.seed for run in runs}) == len(runs) == 12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames_per_run": {"train": (3,), "test": (0,)}}, r"test: runs of \[0\] frames were given"),
        ({"frames_per_run": {"train": (), "val": (2,)}}, r"train: runs of \[\] frames were given"),
        ({"temperatures": (300.0, -5.0)}, "positive numbers are expected"),
        ({"temperatures": ()}, "positive numbers are expected"),
        ({"seed": 2**31 - 1}, "seed: 2147483648 was given"),
    ],
)
def test_impossible_plans_are_refused_before_anything_is_sampled(changes, message):
    with pytest.raises(ValueError, match=message):
        plan_runs(**{"frames_per_run": {"train": (3,)}, "temperatures": (300.0,), "seed": 5, **changes})


# 12 runs are sampled; their 30 frames make 18 chunks of at most two.
@pytest.mark.parametrize("finished", [5, 20])
def test_campaign_goes_on_where_it_stopped(tmp_path, runs, water, finished):
    output = tmp_path / "labels.h5"
    with pytest.raises(KeyboardInterrupt):
        run_campaign(water, runs, output, task_map=CountedTasks(finished), progress=False)
    assert not output.exists()
    rest = CountedTasks()
    labels = run_campaign(water, runs, output, task_map=rest, progress=False)
    assert rest.done == (["sample_run"] * 12 + ["label_frames"] * 18)[finished:]
    assert [path.name for path in tmp_path.iterdir()] == ["labels.h5"]
    assert len(labels) == sum(run.num_frames for run in runs)

    straight = run_campaign(water, runs, tmp_path / "straight.h5", progress=False)
    read = read_label_file(output)
    np.testing.assert_array_equal(read.positions, straight.positions)
    np.testing.assert_array_equal(read.energies, straight.energies)
    np.testing.assert_array_equal(read.forces, straight.forces)


def test_file_says_how_it_was_made(tmp_path, runs, p_xylene_molecule):
    run_campaign(p_xylene_molecule, runs[:1] + runs[-6:], tmp_path / "labels.h5", progress=False)
    read = read_label_file(tmp_path / "labels.h5")
    assert read.sampling["description"] == p_xylene_molecule.source
    assert read.sampling["runs"][0]["temperature"] == 300.0
    assert read.sampling["runs"][0]["not_converged"] == 0
    assert read.level_of_theory.startswith("GFN2-xTB")
    assert read.energy_unit == "kcal/mol"
    training = split_indices(read)["train"]
    assert (read.energies - read.reference_energy)[training].mean() == pytest.approx(0.0, abs=1e-6)


def test_runs_planned_otherwise_and_other_molecules_are_done_again(tmp_path, runs, water):
    output = tmp_path / "labels.h5"
    with pytest.raises(KeyboardInterrupt):
        run_campaign(water, runs, output, task_map=CountedTasks(20), progress=False)
    other = plan_runs({"train": (3,), "val": (2,), "test": (2,)}, temperatures=(300.0,), seed=99, **SHORT)
    again = CountedTasks(limit=3)
    with pytest.raises(KeyboardInterrupt):
        run_campaign(water, other, output, task_map=again, progress=False)
    assert again.done == ["sample_run"] * 3
    moved = Molecule(
        water.name, water.atomic_numbers, water.conformers + 0.01, 0, water.force_field, water.source
    )
    again = CountedTasks()
    labels = run_campaign(moved, other, output, task_map=again, progress=False)
    assert again.done.count("sample_run") == len(other)
    assert sorted(entry["seed"] for entry in labels.sampling["runs"]) == [run.seed for run in other]


def test_a_second_campaign_for_the_same_file_is_kept_out(tmp_path, runs, water):
    """Its frames would replace those that this one has labelled."""
    output = tmp_path / "labels.h5"
    other = plan_runs({"train": (3,)}, temperatures=(300.0,), seed=99, **SHORT)

    def with_another(function, arguments):
        with pytest.raises(RuntimeError, match="another process works in"):
            run_campaign(water, other, output, progress=False)
        yield from in_this_process(function, arguments)

    labels = run_campaign(water, runs, output, task_map=with_another, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["labels.h5"]
    straight = run_campaign(water, runs, tmp_path / "straight.h5", progress=False)
    np.testing.assert_array_equal(labels.positions, straight.positions)


def test_a_folder_of_another_plan_that_cannot_be_removed_is_an_error(tmp_path, runs, water):
    """shutil.rmtree refuses links to folders, such as those of a faster disk."""
    elsewhere = tmp_path / "scratch"
    elsewhere.mkdir()
    np.save(elsewhere / "frames.npy", np.zeros((3, 3, 3)))
    (tmp_path / "labels.h5.runs").mkdir()
    (tmp_path / "labels.h5.runs" / "run_000").symlink_to(elsewhere)
    with pytest.raises(OSError, match="symbolic link"):
        run_campaign(water, runs, tmp_path / "labels.h5", progress=False)


def test_files_of_labels_are_closed_one_after_the_other(tmp_path, water):
    """A long run has more chunks than a process may have open files."""
    (run,) = plan_runs({"train": (300,)}, temperatures=(300.0,), seed=5, **SHORT)[:1]

    def at_once(function, arguments):
        for index, (first, *_) in enumerate(arguments):
            if function is campaign.sample_run:
                yield index, np.tile(first.conformers, (run.num_frames, 1, 1))
            else:
                yield index, (np.zeros(2), np.zeros((2, 3, 3)))

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 50, hard))
    try:
        labels = run_campaign(water, [run], tmp_path / "labels.h5", task_map=at_once, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(labels) == 300


def test_conformations_that_do_not_converge_are_left_out_or_too_many(tmp_path, runs, water, monkeypatch):
    """Coincident atoms among the frames, as a broken dynamics would leave them."""
    sample = campaign.sample_run
    broken = 1

    def with_coincident_atoms(molecule, run):
        frames = sample(molecule, run)
        if run.index == 0:
            frames[:broken, 1] = frames[:broken, 0]
        return frames

    monkeypatch.setattr(campaign, "sample_run", with_coincident_atoms)
    with pytest.raises(ValueError, match="did not converge for 1 of 3 conformations of the run at 300 K"):
        run_campaign(water, runs, tmp_path / "labels.h5", progress=False)
    monkeypatch.setattr(campaign, "MAX_FAILED", 0.5)
    labels = run_campaign(water, runs, tmp_path / "labels.h5", progress=False)
    assert len(labels) == sum(run.num_frames for run in runs) - 1
    assert labels.sampling["runs"][0]["not_converged"] == 1


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed", reason="the extra `bespoke` is not installed")
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster:
        yield cluster


class TestDask:
    def test_two_workers_give_the_same_labels(self, tmp_path, runs, water, cluster):
        straight = run_campaign(water, runs, tmp_path / "straight.h5", progress=False)
        with dask_cluster(cluster.scheduler_address) as task_map:
            labels = run_campaign(water, runs, tmp_path / "labels.h5", task_map=task_map, progress=False)
            (first, _), (second, _) = task_map(worker_process, [(0.5,), (0.5,)])
            processes = [result for _, result in task_map(worker_process, [(0.5,), (0.5,)])]
        assert {first, second} == {0, 1}
        assert len(set(processes)) == 2 and os.getpid() not in processes
        np.testing.assert_array_equal(labels.positions, straight.positions)
        np.testing.assert_array_equal(labels.energies, straight.energies)

    def test_a_dead_worker_costs_nothing_but_time(self, tmp_path, runs, water, cluster):
        straight = run_campaign(water, runs, tmp_path / "straight.h5", progress=False)
        with dask_cluster(cluster.scheduler_address) as task_map:
            ((_, victim),) = task_map(worker_process, [(0.0,)])

            def with_a_death(function, arguments):
                for count, result in enumerate(task_map(function, arguments)):
                    if count == 0 and function is campaign.sample_run:
                        os.kill(victim, signal.SIGKILL)
                    yield result

            labels = run_campaign(water, runs, tmp_path / "labels.h5", task_map=with_a_death, progress=False)
        np.testing.assert_array_equal(labels.energies, straight.energies)

    def test_no_scheduler(self):
        pytest.importorskip("distributed", reason="the extra `bespoke` is not installed")
        with (
            pytest.raises(ValueError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"),
            dask_cluster("tcp://127.0.0.1:9", timeout=0.5),
        ):
            pass


def worker_process(seconds):
    """Process number of the worker, which is busy for a while."""
    import time

    time.sleep(seconds)
    return os.getpid()
