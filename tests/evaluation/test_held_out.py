"""Errors on held-out runs: units, elements and charge of the checkpoint against those of the labels."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dkmp_plugin.datasets.label_file import LabelledConformations, write_label_file
from dkmp_plugin.evaluation.held_out import evaluate_held_out
from dkmp_plugin.units import energy_factor
from tests.conftest import ethanol, hyper_parameters
from tests.strong_potential import strong_potential

REFERENCES = {1: -13.0, 6: -1030.0, 8: -2040.0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint in eV, and labels in eV that are exactly what it predicts."""
    z, pos = ethanol()
    torch.manual_seed(3)
    settings = hyper_parameters()
    model = strong_potential(settings)
    model.representation_model.trained_elements[z] = True
    positions = pos + 0.1 * torch.randn(6, *pos.shape, dtype=pos.dtype)
    model.eval()
    energies, forces = model(z.repeat(6), positions.view(-1, 3), torch.arange(6).repeat_interleave(len(z)))
    labels = LabelledConformations(
        atomic_numbers=z.numpy(),
        positions=positions.numpy(),
        energies=energies.detach().flatten().numpy() + sum(REFERENCES[int(number)] for number in z),
        forces=forces.detach().view(positions.shape).numpy(),
        run=np.arange(6) // 2,
        energy_unit="eV",
        level_of_theory="the model itself",
        total_charge=0,
        sampling={
            "runs": [
                {"index": index, "split": split, "condition": "300 K"}
                for index, split in enumerate(("train", "val", "test"))
            ]
        },
        reference_energies=REFERENCES,
    )
    contents = {
        "hyper_parameters": settings,
        "state_dict": {"model." + name: value for name, value in model.state_dict().items()},
        "dkmp_plugin": {
            "dataset": {
                "energy_unit": "eV",
                "level_of_theory": labels.level_of_theory,
                "total_charge": 0,
                "elements": labels.elements,
                "reference_energies": REFERENCES,
            }
        },
    }
    checkpoint = tmp_path_factory.mktemp("checkpoint") / "eV.ckpt"
    torch.save(contents, checkpoint)
    return checkpoint, labels


def evaluate(checkpoint, labels, tmp_path):
    write_label_file(tmp_path / "labels.h5", labels)
    return evaluate_held_out(checkpoint, tmp_path / "labels.h5")


def changed(checkpoint, tmp_path, **declared):
    """The checkpoint with another description of its data; None leaves an entry out."""
    contents = torch.load(checkpoint, weights_only=True)
    dataset = {**contents["dkmp_plugin"]["dataset"], **declared}
    contents["dkmp_plugin"]["dataset"] = {key: value for key, value in dataset.items() if value is not None}
    torch.save(contents, tmp_path / "changed.ckpt")
    return tmp_path / "changed.ckpt"


def in_unit(labels, unit):
    factor = energy_factor("eV", unit)
    return replace(
        labels,
        energies=labels.energies * factor,
        forces=labels.forces * factor,
        energy_unit=unit,
        reference_energies={number: factor * value for number, value in labels.reference_energies.items()},
    )


def assert_exact(evaluation):
    errors = evaluation["errors"]["all held-out runs"]
    assert errors["model"]["conformations"] == 2
    assert errors["model"]["energy_rmse"] < 1e-8 and errors["model"]["force_rmse"] < 1e-8
    assert errors["baseline"]["force_mae"] > 0.01


@pytest.mark.parametrize("unit", ["eV", "kcal/mol"])
def test_predictions_are_compared_in_the_unit_of_the_labels(trained, tmp_path, unit):
    checkpoint, labels = trained
    evaluation = evaluate(checkpoint, in_unit(labels, unit), tmp_path)
    assert evaluation["energy_unit"] == unit
    assert evaluation["labels"] == {"train": 2, "val": 2, "test": 2}
    assert_exact(evaluation)


def test_the_unit_of_the_configuration_counts_where_the_data_declared_none(trained, tmp_path):
    checkpoint, labels = trained
    contents = torch.load(checkpoint, weights_only=True)
    contents["hyper_parameters"]["energy_unit"] = "eV"
    contents["dkmp_plugin"]["dataset"] = {}
    torch.save(contents, tmp_path / "undeclared.ckpt")
    assert_exact(evaluate(tmp_path / "undeclared.ckpt", in_unit(labels, "kcal/mol"), tmp_path))


def test_total_energies_are_compared(trained, tmp_path):
    """Reference energies are fitted to the training runs: those of other labels of the molecule differ."""
    checkpoint, labels = trained
    other = replace(labels, reference_energies={1: -14.0, 6: -1031.0, 8: -2039.0})
    assert_exact(evaluate(checkpoint, other, tmp_path))
    assert_exact(evaluate(checkpoint, replace(labels, reference_energies={}), tmp_path))


def test_checkpoints_that_declare_nothing_are_taken_at_the_word_of_the_labels(trained, tmp_path):
    """torchmd-net's own models carry no description of their data."""
    checkpoint, labels = trained
    contents = torch.load(checkpoint, weights_only=True)
    del contents["dkmp_plugin"]
    torch.save(contents, tmp_path / "bare.ckpt")
    assert_exact(evaluate(tmp_path / "bare.ckpt", labels, tmp_path))


def test_elements_that_the_model_has_not_seen_are_refused(trained, tmp_path):
    checkpoint, labels = trained
    numbers = labels.atomic_numbers.copy()
    numbers[2] = 7
    strange = replace(labels, atomic_numbers=numbers, reference_energies={})
    with pytest.raises(ValueError, match=r"holds N, but .*eV\.ckpt was trained on H, C, O only"):
        evaluate(checkpoint, strange, tmp_path)


def test_another_charge_is_refused(trained, tmp_path):
    checkpoint, labels = trained
    with pytest.raises(ValueError, match=r"eV\.ckpt .*charge 0, .*labels\.h5 .*charge -1"):
        evaluate(checkpoint, replace(labels, total_charge=-1), tmp_path)
    unknown = changed(checkpoint, tmp_path, total_charge=None)
    assert_exact(evaluate(unknown, replace(labels, total_charge=-1), tmp_path))


def test_what_is_no_checkpoint_of_a_potential_is_refused(trained, tmp_path):
    checkpoint, labels = trained
    contents = torch.load(checkpoint, weights_only=True)
    contents["hyper_parameters"]["model"] = "dkmp-r"
    torch.save(contents, tmp_path / "propagator.ckpt")
    with pytest.raises(ValueError, match=r"propagator\.ckpt holds a 'dkmp-r' model"):
        evaluate(tmp_path / "propagator.ckpt", labels, tmp_path)
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"other\.ckpt is not a torchmd-train checkpoint"):
        evaluate(tmp_path / "other.ckpt", labels, tmp_path)


def test_runs_are_grouped_by_their_condition(trained, tmp_path):
    checkpoint, labels = trained
    splits = ("train", "val", "test", "test", "test")
    runs = [{"index": index, "split": split, "condition": "300 K"} for index, split in enumerate(splits)]
    runs[4] = {"index": 4, "split": "test"}
    several = replace(labels, run=np.array([0, 1, 2, 2, 3, 4]), sampling={"runs": runs})
    errors = evaluate(checkpoint, several, tmp_path)["errors"]
    counts = {name: errors[name]["model"]["conformations"] for name in errors}
    assert counts == {"all held-out runs": 4, "held-out run at 300 K": 3, "held-out run": 1}
