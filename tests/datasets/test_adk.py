"""Adenylate kinase: the real files where they are, the messages where they are not."""

import importlib.util

import numpy as np
import pytest

from dkmp_plugin.datasets import DKMPAdK
from dkmp_plugin.datasets.adk import chronological_parts
from dkmp_plugin.datasets.run import Run
from tests.conftest import shared_data

RUN_3 = shared_data() / "adk" / "dims_002.dcd"
needs_run_3 = pytest.mark.skipif(
    not RUN_3.is_file() or importlib.util.find_spec("MDAnalysisTests") is None,
    reason="needs the package MDAnalysisTests and adk/dims_002.dcd in the folder DKMP_DATA",
)


@needs_run_3
def test_dims_runs_and_the_persistence_error_of_the_issue():
    data = DKMPAdK(str(RUN_3.parent), lag=20)
    assert [len(run.positions) for run in data.runs] == [98, 102, 92]
    assert [len(part) for part in data.split_indices] == [78 + 82, 72, 0]
    assert len(data[0].z) == 3341
    run = data.runs[2].positions.astype(np.float64)
    assert np.square(run[20:] - run[:-20]).mean() == pytest.approx(1.63, abs=0.005)
    assert np.square(run[1:] - run[:-1]).mean() == pytest.approx(0.122, abs=0.0005)


@needs_run_3
def test_backbone_and_held_out_training_run():
    data = DKMPAdK(str(RUN_3.parent), selection="backbone", val=("run2",), test=("dims_002.dcd",))
    assert len(data[0].z) == 855
    assert [run.name for run in data.runs] == ["adk_dims.dcd", "adk_dims2.dcd", "dims_002.dcd"]
    assert [len(part) for part in data.split_indices] == [97, 101, 91]


@needs_run_3
def test_one_name_as_text_and_what_a_checkpoint_records():
    data = DKMPAdK(str(RUN_3.parent), selection="name CA", val="run2", superpose="runs")
    assert [run.name for run in data.runs] == ["adk_dims.dcd", "adk_dims2.dcd"]
    assert data.metadata["superpose"] == "runs"


@needs_run_3
def test_one_run_in_two_parts_is_refused():
    with pytest.raises(ValueError, match=r"val and test share 102 frames of adk_dims2\.dcd"):
        DKMPAdK(str(RUN_3.parent), selection="name CA", val="run2", test="run2")


@needs_run_3
def test_splits_of_another_kind_are_refused(tmp_path):
    """They would divide runs, and augment validation items."""
    from torchmdnet.data import DataModule

    splits = str(tmp_path / "own.npz")
    np.savez(splits, idx_train=np.arange(50), idx_val=np.arange(50, 90), idx_test=np.arange(90, 99))
    values = {"dataset": "DKMPAdK", "dataset_root": str(RUN_3.parent), "model": "dkmp-r", "seed": 1}
    values.update(dataset_arg={"selection": "name CA", "augment_noise": 1.0}, log_dir=str(tmp_path))
    values.update(precision=32, standardize=False, splits=splits, train_size=None, val_size=9, test_size=9)
    with pytest.raises(ValueError, match=r"own\.npz was given, but DKMPAdK splits by whole runs"):
        DataModule(values).setup("fit")


def test_equilibrium_says_where_the_files_are(tmp_path):
    with pytest.raises(ValueError, match=r"adk4AKE\.psf: no such file; download it from https://"):
        DKMPAdK(str(tmp_path), protocol="equilibrium")
    with pytest.raises(ValueError, match="protocol: 'md'"):
        DKMPAdK(str(tmp_path), protocol="md")


def test_chronological_split_of_the_benchmark():
    run = Run("equilibrium", np.ones(1, dtype=np.int64), np.arange(4187.0).reshape(-1, 1, 1) * np.ones(3))
    parts = chronological_parts(run)
    assert [len(part.positions) for part in parts] == [2512, 838, 837]
    assert np.array_equal(np.concatenate([part.positions for part in parts]), run.positions)
