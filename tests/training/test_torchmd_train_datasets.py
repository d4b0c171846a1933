"""``torchmd-train`` trains on an extended XYZ file, with reference energies fitted to its training part."""

import subprocess
import sys
from pathlib import Path

import ase
import ase.io
import pytest
import torch
import yaml
from ase.calculators.singlepoint import SinglePointCalculator

from dkmp_plugin.datasets.label_file import read_label_file, split_indices
from tests.conftest import ROOT


def test_trains_on_extended_xyz(label_folder, tmp_path):
    """By the example for a user's own data, smaller."""
    labels = read_label_file(label_folder / "ethanol.h5")
    frames = []
    for pos, energy, forces in zip(labels.positions, labels.energies, labels.forces, strict=True):
        frame = ase.Atoms(labels.atomic_numbers, pos)
        frame.calc = SinglePointCalculator(frame, energy=energy, forces=forces)
        frames.append(frame)
    ase.io.write(tmp_path / "ethanol.xyz", frames, format="extxyz")
    values = yaml.safe_load((ROOT / "examples" / "dkmp_own_data.yaml").read_text())
    assert values["splits"] is None
    sizes = {"num_epochs": 1, "embedding_dimension": 16}
    values.update(sizes, dataset_root=str(tmp_path), log_dir=str(tmp_path / "log"))
    parts = {"train": "ethanol.xyz@:24", "val": "ethanol.xyz@24:32", "test": "ethanol.xyz@32:"}
    values["dataset_arg"].update(parts, energy_unit="kcal/mol", level_of_theory=labels.level_of_theory)
    path = tmp_path / "extxyz.yaml"
    path.write_text(yaml.safe_dump(values))

    command = [str(Path(sys.executable).with_name("torchmd-train")), "--conf", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "split by the dataset: train 24, val 8, test 8" in done.stdout
    (checkpoint,) = Path(values["log_dir"]).glob("epoch=*.ckpt")
    recorded = torch.load(checkpoint, weights_only=True)["dkmp_plugin"]["dataset"]
    assert recorded["energy_unit"] == "kcal/mol"
    assert recorded["total_charge"] == 0
    assert recorded["level_of_theory"] == labels.level_of_theory
    assert recorded["elements"] == [1, 6, 8]
    assert recorded["compositions"] == [{"1": 6, "6": 2, "8": 1}]
    # A split named twice is refused, not one of the two taken.
    path.write_text(yaml.safe_dump({**values, "splits": str(label_folder / "splits.npz")}))
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert "dataset_arg names the parts too (train, val, test)" in done.stderr
    # Ethanol: the references add up to the mean energy of the training structures.
    reference = sum(recorded["reference_energies"][int(number)] for number in labels.atomic_numbers)
    training = labels.energies[split_indices(labels)["train"]]
    assert reference == pytest.approx(training.mean(), abs=1e-4)
