"""The ASE calculator: against the exported model, ASE's finite differences, and bad input."""

import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from ase import Atom, Atoms, units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import (
    FiniteDifferenceCalculator,
    calculate_numerical_forces,
    calculate_numerical_stress,
)
from ase.calculators.test import gradient_test
from ase.md.verlet import VelocityVerlet

from dkmp_plugin.simulation import DKMPCalculator, export_model, load_model_file, read_model_info
from dkmp_plugin.simulation.model_source import load_model
from tests.simulation.conftest import DATASET, executed_operators, write_checkpoint

ELECTRONVOLT_PER_KCAL = units.kcal / units.mol


@pytest.fixture
def crystal(molecule):
    z, pos = molecule
    cell = [[6.5, 0, 0], [1.0, 6.0, 0], [0.5, -0.8, 7.0]]
    return Atoms(z.numpy(), pos.numpy(), cell=cell, pbc=True)


def test_molecule_equals_the_exported_model(model_path, molecule):
    z, pos = molecule
    atoms = Atoms(z.numpy(), pos.numpy(), calculator=DKMPCalculator(model_path))
    model, _ = load_model_file(model_path)
    leaf = pos.clone().requires_grad_(True)
    energy = model(z, leaf, None)
    energy.backward()
    assert atoms.get_potential_energy() == pytest.approx(energy.item() * ELECTRONVOLT_PER_KCAL)
    np.testing.assert_allclose(atoms.get_forces(), -leaf.grad.numpy() * ELECTRONVOLT_PER_KCAL, atol=1e-12)


def test_energies_in_electronvolt_are_the_model_s(tmp_path, molecule):
    z, pos = molecule
    write_checkpoint(tmp_path / "model.ckpt", dataset={**DATASET, "energy_unit": "eV"}, precision=64)
    atoms = Atoms(z.numpy(), pos.numpy(), calculator=DKMPCalculator(tmp_path / "model.ckpt"))
    model, _ = load_model(tmp_path / "model.ckpt")
    places = pos.double() - pos.double()[:1]
    assert atoms.get_potential_energy() == pytest.approx(model(z, places, None).item(), rel=1e-13)


def test_forces_and_stress_are_derivatives_of_the_energy(model_path, crystal):
    crystal.calc = DKMPCalculator(model_path)
    forces, stress = crystal.get_forces(), crystal.get_stress()
    assert np.abs(forces).max() > 1e-3
    assert np.abs(stress).max() > 1e-5
    np.testing.assert_allclose(forces, calculate_numerical_forces(crystal, eps=1e-4), atol=1e-6)
    np.testing.assert_allclose(stress, calculate_numerical_stress(crystal, eps=1e-4), atol=1e-7)


def test_a_checkpoint_works_as_well(checkpoint, model_path, molecule):
    z, pos = molecule
    atoms = Atoms(z.numpy(), pos.numpy())
    energies = []
    for path in (checkpoint, model_path):
        atoms.calc = DKMPCalculator(path)
        energies.append(atoms.get_potential_energy())
    assert energies[0] == pytest.approx(energies[1], abs=1e-5)  # float32 and float64


@pytest.mark.parametrize("precision", [32, 64])
def test_a_checkpoint_keeps_its_precision(tmp_path, precision):
    write_checkpoint(tmp_path / "model.ckpt", precision=precision)
    calculator = DKMPCalculator(tmp_path / "model.ckpt")
    assert calculator.info.dtype == f"float{precision}"
    assert {weight.dtype for weight in load_model(tmp_path / "model.ckpt")[0].parameters()} == {
        getattr(torch, f"float{precision}")
    }


@pytest.mark.parametrize("skin", [0.0, 1.0])
def test_naming_the_cpu_changes_nothing(model_path, crystal, skin):
    results = []
    for device in ("cpu", None):
        crystal.calc = DKMPCalculator(model_path, skin=skin, device=device)
        results.append((crystal.get_potential_energy(), crystal.get_forces(), crystal.get_stress()))
    assert crystal.calc.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    for named, chosen in zip(*results, strict=True):
        np.testing.assert_allclose(named, chosen, rtol=0, atol=1e-9 if torch.cuda.is_available() else 0)


def test_impossible_devices(model_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device: 'cuda' was given, but torch sees no GPU"):
        DKMPCalculator(model_path, device="cuda")
    with pytest.raises(ValueError, match="device: 'gpu' was given, one of cpu"):
        DKMPCalculator(model_path, device="gpu")


def test_dynamics_conserves_energy(model_path, molecule):
    z, pos = molecule
    atoms = Atoms(z.numpy(), pos.numpy(), calculator=DKMPCalculator(model_path))
    atoms.set_momenta(np.random.default_rng(0).normal(scale=0.2, size=pos.shape))
    start, kinetic = atoms.get_total_energy(), atoms.get_kinetic_energy()
    VelocityVerlet(atoms, 0.1 * units.fs).run(200)
    assert abs(atoms.get_kinetic_energy() - kinetic) > 1e-4
    assert atoms.get_total_energy() == pytest.approx(start, abs=1e-5)


def test_results_are_reused_until_something_changes(model_path, molecule, monkeypatch):
    z, pos = molecule
    calculator = DKMPCalculator(model_path)
    atoms = Atoms(z.numpy(), pos.numpy(), calculator=calculator)
    calls = []
    calculate = calculator.calculate
    monkeypatch.setattr(calculator, "calculate", lambda *a, **k: (calls.append(1), calculate(*a, **k)))
    atoms.get_potential_energy()
    atoms.get_forces()
    assert len(calls) == 1
    atoms.positions[0, 0] += 0.01
    atoms.get_forces()
    assert len(calls) == 2


def test_bad_input(model_path, molecule, tmp_path):
    z, pos = molecule
    calculator = DKMPCalculator(model_path)
    with pytest.raises(ValueError, match="Cl"):
        Atoms("HCl", [[0, 0, 0], [0, 0, 1.3]], calculator=calculator).get_potential_energy()
    slab = Atoms(z.numpy(), pos.numpy(), cell=[9, 9, 9], pbc=[True, True, False], calculator=calculator)
    with pytest.raises(ValueError, match="pbc"):
        slab.get_potential_energy()
    for cell in (None, [9, 0, 0], [[9, 0, 0], [18, 0, 0], [0, 0, 9]]):
        flat = Atoms(z.numpy(), pos.numpy(), cell=cell, pbc=True, calculator=calculator)
        with pytest.raises(ValueError, match=r"cell: .* was given with pbc"):
            flat.get_potential_energy()
    placeholder = Atoms(z.numpy(), pos.numpy(), cell=[1, 1, 1], pbc=True, calculator=calculator)
    with pytest.raises(ValueError, match=r"box is 1\.00 Å wide"):
        placeholder.get_potential_energy()
    broken = pos.clone()
    broken[3, 1] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        Atoms(z.numpy(), broken.numpy(), calculator=calculator).get_potential_energy()
    with pytest.raises(ValueError, match="no such file"):
        DKMPCalculator(tmp_path / "none.pt")


def test_filters_are_computed_once(model_path, molecule):
    """What depends on the weights alone is not computed again at each step; the results stay the same."""
    z, pos = molecule
    frozen, loaded = DKMPCalculator(model_path).model, load_model_file(model_path)[0]
    # The radial basis is the only exponential in the model.
    assert "aten::exp" in executed_operators(lambda: loaded(z, pos, None))
    assert "aten::exp" not in executed_operators(lambda: frozen(z, pos, None))
    assert torch.equal(frozen(z, pos, None), loaded(z, pos, None))


@pytest.fixture(params=["molecule", "crystal"])
def atoms(request, molecule, crystal, model_path):
    """What ASE's own calculator checks run on."""
    z, pos = molecule
    atoms = crystal if request.param == "crystal" else Atoms(z.numpy(), pos.numpy())
    atoms.calc = DKMPCalculator(model_path)
    return atoms


def test_ase_finite_difference_calculator(crystal, model_path):
    """As ase/test/calculator/test_fd.py does for ASE's own calculators."""
    calculator = crystal.calc = DKMPCalculator(model_path)
    energy, forces, stress = crystal.get_potential_energy(), crystal.get_forces(), crystal.get_stress()
    crystal.calc = FiniteDifferenceCalculator(calculator, eps_disp=1e-4, eps_strain=1e-4)
    assert crystal.get_potential_energy() == energy
    numerical = crystal.get_forces()
    assert np.any(numerical != forces)
    np.testing.assert_allclose(numerical, forces, atol=1e-6)
    np.testing.assert_allclose(crystal.get_stress(), stress, atol=1e-7)


def test_ase_gradient_test(atoms):
    """ASE's gradient_test prints the difference for smaller and smaller steps and returns the last."""
    analytical, numerical = gradient_test(atoms, indices=[0, 3])
    np.testing.assert_allclose(numerical, analytical, atol=1e-5)


def test_every_change_of_the_atoms_is_noticed(atoms, model_path):
    """One calculator through a series of changes equals one that forgets everything before each."""

    def displace():
        atoms.positions[2] += [0.05, 0.0, -0.03]

    def replace():
        atoms.numbers[2] = 7

    def remove():
        del atoms[-1]

    def add():
        atoms.append(Atom("H", (4.0, 1.0, 1.5)))

    def strain():
        atoms.set_cell(np.array([[7.0, 0, 0], [0.5, 6.5, 0], [0, 0, 7.5]]), scale_atoms=atoms.pbc.all())

    def toggle_pbc():
        atoms.set_cell(np.array([[7.0, 0, 0], [0.5, 6.5, 0], [0, 0, 7.5]]))
        atoms.pbc = not atoms.pbc.all()

    shared, forgetful = atoms.calc, DKMPCalculator(model_path)
    last = atoms.get_potential_energy()
    for change in (displace, replace, remove, add, strain, toggle_pbc):
        change()
        copy = atoms.copy()
        assert copy.calc is None
        forgetful.reset()
        copy.calc = forgetful
        assert atoms.get_potential_energy() == pytest.approx(copy.get_potential_energy(), abs=1e-12)
        np.testing.assert_allclose(atoms.get_forces(), copy.get_forces(), atol=1e-12)
        if change not in (strain, toggle_pbc):
            assert atoms.get_potential_energy() != last
        last = atoms.get_potential_energy()
    assert atoms.calc is shared


def test_reset_and_properties(atoms):
    """As ASE documents: results vanish with reset, and nothing is computed where that was not allowed."""
    calculator = atoms.calc
    assert calculator.get_property("forces", atoms, allow_calculation=False) is None
    energy = atoms.get_potential_energy()
    assert not calculator.calculation_required(atoms, ["energy", "forces"])
    calculator.reset()
    assert calculator.results == {}
    assert calculator.calculation_required(atoms, ["energy"])
    assert atoms.get_potential_energy(force_consistent=True) == energy
    # The arrays are copies: a user's change does not reach the cache.
    forces = atoms.get_forces()
    forces[:] = 0.0
    assert np.abs(atoms.get_forces()).max() > 1e-3
    assert set(calculator.results) <= set(calculator.implemented_properties)
    if not atoms.pbc.any():
        with pytest.raises(PropertyNotImplementedError):
            atoms.get_stress()


@pytest.fixture(scope="module")
def single_precision(tmp_path_factory):
    path = tmp_path_factory.mktemp("single") / "model.ckpt"
    write_checkpoint(path, precision=32)
    return path


def test_forces_do_not_depend_on_the_distance_from_the_origin(single_precision, crystal):
    for atoms in (crystal, Atoms(crystal.numbers, crystal.positions)):
        atoms.calc = DKMPCalculator(single_precision)
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.positions += [4000.0, 2800.0, -1600.0]
        assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-5)
        np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-4)


def energy_of(atoms):
    return atoms.get_potential_energy()


@pytest.mark.parametrize("skin", [0.0, 1.0])
def test_atoms_travel_to_other_processes_with_their_calculator(model_path, crystal, skin):
    crystal.calc = DKMPCalculator(model_path, skin=skin)
    energy = crystal.get_potential_energy()
    moved = pickle.loads(pickle.dumps(crystal))
    assert moved.calc.results["energy"] == energy
    moved.positions[0, 0] += 0.1
    crystal.positions[0, 0] += 0.1
    assert moved.get_potential_energy() == crystal.get_potential_energy() != energy
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(energy_of, moved).result() == pytest.approx(moved.get_potential_energy())


def test_charges_that_the_model_was_not_trained_at(model_path, molecule):
    z, pos = molecule
    with pytest.raises(ValueError, match=r"charge: 1 was given, but model\.pt was trained on neutral"):
        DKMPCalculator(model_path, charge=1)
    ion = Atoms(z.numpy(), pos.numpy(), info={"charge": 1}, calculator=DKMPCalculator(model_path))
    with pytest.raises(ValueError, match=r'atoms\.info\["charge"\] gives the atoms the charge \+1'):
        ion.get_potential_energy()
    del ion.info["charge"]
    ion.set_initial_charges([1.0] + [0.0] * (len(z) - 1))
    with pytest.raises(ValueError, match=r"initial_charges give the atoms the charge \+1"):
        ion.get_potential_energy()
    # Who names the model's charge wants it all the same; partial charges that cancel say the same.
    ion.calc = DKMPCalculator(model_path, charge=0)
    energy = ion.get_potential_energy()
    ion.calc = DKMPCalculator(model_path)
    ion.set_initial_charges([0.4, -0.4] + [0.0] * (len(z) - 2))
    assert ion.get_potential_energy() == energy
    # ASE does not notice that this changes, and would give the energy it knows.
    for charge, message in (
        (1, r"gives the atoms the charge \+1"),
        ("neutral", r"a number \(elementary"),
        (float("nan"), "the charge nan, a number"),
    ):
        ion.info["charge"] = charge
        with pytest.raises(ValueError, match=message):
            ion.get_potential_energy()
    for charge in ("0", 0.5, True, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=rf"charge: {charge!r} was given, a whole number"):
            DKMPCalculator(model_path, charge=charge)


def test_molecules_that_the_model_was_not_trained_on(tmp_path, molecule):
    z, pos = molecule
    known = {str(number): int((z == number).sum()) for number in z.unique().tolist()}
    write_checkpoint(tmp_path / "model.ckpt", dataset={**DATASET, "compositions": [known]})
    export_model(tmp_path / "model.ckpt", tmp_path / "model.pt")
    assert read_model_info(tmp_path / "model.pt").compositions == [known]
    atoms = Atoms(z.numpy(), pos.numpy(), calculator=DKMPCalculator(tmp_path / "model.pt"))
    atoms.get_potential_energy()
    del atoms[0]
    with pytest.warns(UserWarning, match=r"the atoms are \w+, but model\.pt was trained on \w+ alone"):
        atoms.get_potential_energy()
    # Not at every step of a simulation.
    atoms.rattle()
    atoms.get_potential_energy()


def test_skewed_vectors_of_a_lattice_are_no_placeholder(model_path, molecule):
    z, pos = molecule
    cube = 6.0 * np.eye(3)
    skewed = np.array([[1, 3, 0], [0, 1, -2], [0, 0, 1]]) @ cube
    energies = [
        Atoms(
            z.numpy(), pos.numpy(), cell=cell, pbc=True, calculator=DKMPCalculator(model_path)
        ).get_potential_energy()
        for cell in (cube, skewed)
    ]
    assert energies[0] == pytest.approx(energies[1], abs=1e-9)


def test_unknown_arguments_are_refused(model_path):
    with pytest.raises(ValueError, match="unknown argument Device"):
        DKMPCalculator(model_path, Device="cuda")
    with pytest.raises(ValueError, match="set: charge, skin was given, but nothing"):
        DKMPCalculator(model_path).set(skin=1.0, charge=1)


def test_within_inference_mode_and_without_gradients(atoms):
    forces = atoms.get_forces()
    for mode in (torch.no_grad, torch.inference_mode):
        atoms.calc.reset()
        with mode():
            np.testing.assert_array_equal(atoms.get_forces(), forces)


def test_a_molecule_has_no_stress_of_the_crystal_before(model_path, molecule, crystal):
    z, pos = molecule
    calculator = DKMPCalculator(model_path)
    calculator.calculate(crystal)
    calculator.calculate(Atoms(z.numpy(), pos.numpy()))
    assert "stress" not in calculator.results


def test_what_a_file_is_its_content_says(checkpoint, model_path, molecule, tmp_path, monkeypatch):
    z, pos = molecule
    monkeypatch.setenv("HOME", str(tmp_path))
    energies = []
    for name, source in (("checkpoint.pth", checkpoint), ("model", model_path)):
        (tmp_path / name).write_bytes(source.read_bytes())
        atoms = Atoms(z.numpy(), pos.numpy(), calculator=DKMPCalculator(f"~/{name}"))
        energies.append(atoms.get_potential_energy())
    assert energies[0] == pytest.approx(energies[1], abs=1e-5)
