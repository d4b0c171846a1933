"""``dkmp evaluate``: errors of a potential on labelled structures of any file."""

import json

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from dkmp_plugin import cli
from dkmp_plugin.datasets.label_file import LabelledConformations, write_label_file
from dkmp_plugin.datasets.labelled_file import read_labelled
from dkmp_plugin.evaluation.labelled_errors import evaluate_labelled
from dkmp_plugin.simulation import DKMPCalculator
from dkmp_plugin.units import energy_factor
from tests.conftest import ethanol
from tests.simulation.conftest import DATASET, checkpoint, model_path, write_checkpoint

__all__ = ["checkpoint", "model_path"]
KCAL = energy_factor("kcal/mol", "eV")


def reference_energy(atoms):
    """What training subtracted, in eV."""
    return KCAL * sum(DATASET["reference_energies"][str(number)] for number in atoms.numbers)


def molecules():
    """Ethanol, distorted, and without its last atom: other sizes and compositions."""
    z, pos = ethanol()
    whole = [Atoms(z.numpy(), pos.numpy() + 0.01 * step * np.sin(pos.numpy())) for step in range(3)]
    return [*whole, whole[0][:-1]]


def labelled(model_path, frames, energy_offsets, force_offset, stress_offset=None):
    """The frames with labels that the model misses by the offsets, in eV."""
    calculator = DKMPCalculator(model_path)
    found = []
    for atoms, offset in zip(frames, energy_offsets, strict=True):
        atoms.calc = calculator
        values = {
            "energy": atoms.get_potential_energy() + reference_energy(atoms) - offset,
            "forces": atoms.get_forces() - force_offset,
        }
        if stress_offset is not None:
            values["stress"] = atoms.get_stress() - stress_offset
        copy = atoms.copy()
        copy.calc = SinglePointCalculator(copy, **values)
        found.append(copy)
    return found


@pytest.mark.filterwarnings("ignore:.*composition")
def test_errors_are_those_of_the_labels(model_path, tmp_path, capsys):
    frames = labelled(model_path, molecules(), [0.1, -0.3, 0.2, 0.2], np.array([0.0, 0.3, 0.0]))
    write(tmp_path / "labels.xyz", frames, format="extxyz")
    command = ["evaluate", str(model_path), f"{tmp_path / 'labels.xyz'}@:4"]
    assert cli.main([*command, "--output", str(tmp_path / "errors.json")]) == 0
    text = capsys.readouterr().out
    assert "4 structures, 35 atoms" in text
    assert "force, eV/Å" in text
    assert "stress" not in text
    errors = json.loads((tmp_path / "errors.json").read_text())
    assert errors["energy"]["mae"] == pytest.approx(0.2, abs=1e-5)
    assert errors["energy"]["rmse"] == pytest.approx(np.sqrt(0.18 / 4), abs=1e-5)
    assert errors["energy"]["mean"] == pytest.approx(0.05, abs=1e-5)
    assert errors["energy_per_atom"]["mae"] == pytest.approx((0.6 / 9 + 0.2 / 8) / 4, abs=1e-6)
    assert errors["force"]["mae"] == pytest.approx(0.1, abs=1e-5)
    assert errors["force"]["rmse"] == pytest.approx(0.3 / np.sqrt(3), abs=1e-5)
    assert errors["stress"] is None
    # A selection, and the same numbers in another unit.
    first = evaluate_labelled(model_path, read_labelled(f"{tmp_path / 'labels.xyz'}@:1"))
    assert first.structures == 1
    assert first.energy.mean == pytest.approx(0.1, abs=1e-5)


def test_labels_in_the_units_and_arrays_of_other_formats(checkpoint, tmp_path):
    """The same molecule as .npz and as a label file, in kcal/mol; a checkpoint is a model, too."""
    frames = labelled(checkpoint, molecules()[:3], [KCAL, KCAL, -KCAL], 0.0)
    energies = np.array([atoms.get_potential_energy() / KCAL for atoms in frames])
    forces = np.array([atoms.get_forces() / KCAL for atoms in frames])
    positions = np.array([atoms.positions for atoms in frames])
    numbers = frames[0].numbers
    np.savez(tmp_path / "labels.npz", z=numbers, R=positions, E=energies, F=forces)
    write_label_file(
        tmp_path / "labels.h5",
        LabelledConformations(numbers, positions, energies, forces, np.zeros(3, int), "kcal/mol", "model", 0),
    )
    for structures in (
        read_labelled(tmp_path / "labels.npz", "kcal/mol"),
        read_labelled(tmp_path / "labels.h5"),
    ):
        errors = evaluate_labelled(checkpoint, structures)
        assert errors.energy_unit == "kcal/mol"
        assert errors.energy.mae == pytest.approx(1.0, abs=1e-3)
        assert errors.energy.mean == pytest.approx(1 / 3, abs=1e-3)
        assert errors.force.mae < 1e-4


@pytest.mark.filterwarnings("ignore:.*composition")
def test_stresses_of_periodic_structures(model_path, tmp_path):
    box = Atoms("HOCH", [[0, 0, 0], [1, 0, 0], [3, 3, 3], [3, 3, 4]], cell=[6.5, 6.0, 7.0], pbc=True)
    frames = labelled(model_path, [box], [0.0], 0.0, stress_offset=0.02)
    write(tmp_path / "labels.extxyz", frames, format="extxyz")
    structures = read_labelled(tmp_path / "labels.extxyz", stress_key="stress")
    errors = evaluate_labelled(model_path, structures)
    assert errors.stress.mean == pytest.approx(0.02, abs=1e-5)
    assert errors.force.mae < 1e-5
    assert "eV/Å^3" in errors.table()


def test_what_does_not_fit_is_an_error(model_path, tmp_path, capsys):
    frame = labelled(model_path, molecules()[:1], [0.0], 0.0)
    write(tmp_path / "labels.xyz", frame, format="extxyz")
    np.savez(tmp_path / "labels.npz", z=[1])
    for name in ("labels.txt", "labels.h5"):
        (tmp_path / name).touch()
    cases = {
        "is expected; convert it": [tmp_path / "labels.txt"],
        "do not say the unit": [tmp_path / "labels.npz"],
        "energy_key was given": [tmp_path / "labels.npz", "--energy-key", "REF_energy"],
        "REF_energy": [tmp_path / "labels.xyz", "--energy-key", "REF_energy"],
        "has its own": [tmp_path / "labels.h5", "--energy-unit", "eV"],
        "start:stop": [f"{tmp_path / 'labels.xyz'}@3"],
        "no such file": [tmp_path / "none.xyz"],
    }
    for message, arguments in cases.items():
        assert cli.main(["evaluate", str(model_path), *map(str, arguments)]) == 2, message
        assert message in capsys.readouterr().err


def test_labels_of_another_charge_are_refused(tmp_path):
    write_checkpoint(tmp_path / "model.ckpt")
    frame = labelled(tmp_path / "model.ckpt", molecules()[:1], [0.0], 0.0)[0]
    frame.info["charge"] = -1
    write(tmp_path / "labels.xyz", frame, format="extxyz")
    with pytest.raises(ValueError, match="charge"):
        evaluate_labelled(tmp_path / "model.ckpt", read_labelled(tmp_path / "labels.xyz"))
