"""What ``torchmd-train`` makes of its command line and configuration, before it trains."""

import re
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml
from torchmdnet.scripts import train

from tests.training.commands import data_module


def test_a_size_of_the_training_part_does_not_go_with_parts_of_the_dataset(configuration):
    """The label file's runs are its parts; with ``splits`` torchmd-net takes those."""
    with pytest.raises(ValueError, match="train_size: 2 was given, but the dataset DKMPHDF5 brings its own"):
        data_module(configuration, splits=None, train_size=2, val_size=30, test_size=8).setup("fit")
    data = data_module(configuration, splits=None)
    data.setup("fit")
    assert len(data.train_dataset) == 24


# torchmd-net's save_argparse leaves the file open.
@pytest.mark.filterwarnings("ignore:unclosed file.*input.yaml:ResourceWarning")
@pytest.mark.parametrize(
    "text", ['{"files": "a.xyz", "energy_unit": "eV"}', "{files: a.xyz, energy_unit: eV}"]
)
def test_arguments_of_a_dataset_on_the_command_line(configuration, monkeypatch, text):
    expected = {"files": "a.xyz", "energy_unit": "eV"}
    flag = ["--log-dir", str(configuration().parent), "--dataset-arg", text]
    for arguments in (flag, ["--conf", str(configuration(dataset_arg=text, log_dir=flag[1]))]):
        monkeypatch.setattr(sys, "argv", ["torchmd-train", *arguments])
        assert train.get_args().dataset_arg == expected
        assert yaml.safe_load((Path(flag[1]) / "input.yaml").read_text())["dataset_arg"] == expected


@pytest.mark.parametrize("text", ["a.xyz", "[a.xyz]", "{1: a.xyz}", "{files"])
def test_arguments_of_a_dataset_that_are_no_mapping(configuration, monkeypatch, capsys, text):
    with pytest.raises(SystemExit):
        train.get_argparse().parse_args(["--dataset-arg", text])
    assert f"dataset_arg: {text!r} was given, a mapping of names to values" in capsys.readouterr().err
    with pytest.raises(ValueError, match=re.escape(f"{text!r} was given, a mapping")):
        train.get_argparse().parse_args(["--conf", str(configuration(dataset_arg=text))])


@pytest.mark.filterwarnings("ignore:unclosed file.*input.yaml:ResourceWarning")
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"neighbor_embedding": True, "aggr": "mean"}, "dkmp-c .* neighbor_embedding, aggr: ignored"),
        ({"canonical_frame": "mean", "memory": True}, "dkmp-c .* canonical_frame, memory: ignored"),
        (
            {"model": "dkmp-r", "shell_overlap": 0.5, "displacement_scale": 0.1, "revision": 1},
            "dkmp-r has no use for num_shells, shell_overlap: ignored",
        ),
        (
            {"model": "tensornet", "optimizer": "muon", "lr_schedule": "cosine", "energy_unit": "kcal/mol"},
            "tensornet has no use for num_shells, lr_schedule, optimizer: ignored",
        ),
        ({"model": "tensornet", "num_shells": None, "aggr": "mean"}, None),
    ],
)
def test_keys_without_a_meaning_are_named(configuration, monkeypatch, changes, expected):
    monkeypatch.setattr(sys, "argv", ["torchmd-train", "--conf", str(configuration(**changes))])
    with nullcontext() if expected is None else pytest.warns(UserWarning, match=expected):
        train.get_args()
