import numpy as np
import pytest

from dkmp_plugin.datasets.label_file import read_label_file, split_indices
from dkmp_plugin.labeling.campaign import label_run, plan_runs, run_campaign


@pytest.fixture(scope="module")
def runs():
    return plan_runs({"train": (3, 3), "val": (2,), "test": (2,)}, temperatures=(300.0, 600.0), seed=5)


@pytest.fixture(scope="module")
def label(p_xylene):
    system, numbers, positions = p_xylene
    return lambda run: label_run(run, system, numbers, positions, charge=0)


def test_plan_gives_every_condition_to_every_split(runs):
    conditions = {"300 K", "600 K", "300 K strained"}
    for split in ("train", "val", "test"):
        assert {run.condition for run in runs if run.split == split} == conditions
    assert len({run.seed for run in runs}) == len(runs) == 12


def test_campaign_goes_on_where_it_stopped(tmp_path, runs, label):
    output = tmp_path / "labels.h5"
    labelled = []

    def interrupted(run):
        if len(labelled) == 2:
            raise KeyboardInterrupt
        labelled.append(run.index)
        return label(run)

    with pytest.raises(KeyboardInterrupt):
        run_campaign(runs, output, interrupted, "p-xylene")
    assert not output.exists()

    def resumed(run):
        labelled.append(run.index)
        return label(run)

    labels = run_campaign(runs, output, resumed, "p-xylene")
    assert labelled == [run.index for run in runs]
    assert [path.name for path in tmp_path.iterdir()] == ["labels.h5"]
    assert len(labels) == sum(run.num_frames for run in runs)

    read = read_label_file(output)
    np.testing.assert_array_equal(read.energies, labels.energies)
    assert read.sampling["description"] == "p-xylene"
    assert read.sampling["runs"][1]["temperature"] == 600.0
    assert read.level_of_theory.startswith("GFN2-xTB")
    assert read.energy_unit == "kcal/mol"
    training = split_indices(read)["train"]
    assert (read.energies - read.reference_energy)[training].mean() == pytest.approx(0.0, abs=1e-6)


def test_runs_planned_otherwise_are_labelled_again(tmp_path, runs, label):
    output = tmp_path / "labels.h5"
    seeds = []

    def stop_after_first(run):
        if seeds:
            raise KeyboardInterrupt
        seeds.append(run.seed)
        return label(run)

    with pytest.raises(KeyboardInterrupt):
        run_campaign(runs, output, stop_after_first, "p-xylene")
    other = plan_runs({"train": (2,), "val": (1,), "test": (1,)}, temperatures=(300.0,), seed=99)
    labels = run_campaign(other, output, label, "p-xylene")
    assert sorted(entry["seed"] for entry in labels.sampling["runs"]) == [run.seed for run in other]
