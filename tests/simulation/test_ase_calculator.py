"""The ASE calculator: against the exported model, ASE's finite differences, and bad input."""

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.md.verlet import VelocityVerlet

from dkmp_plugin.simulation import DKMPCalculator, load_model_file

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


def test_dynamics_conserves_energy(model_path, molecule):
    z, pos = molecule
    atoms = Atoms(z.numpy(), pos.numpy(), calculator=DKMPCalculator(model_path))
    atoms.set_momenta(np.random.default_rng(0).normal(scale=0.2, size=pos.shape))
    start, kinetic = atoms.get_total_energy(), atoms.get_kinetic_energy()
    VelocityVerlet(atoms, 0.1 * units.fs).run(50)
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
    broken = pos.clone()
    broken[3, 1] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        Atoms(z.numpy(), broken.numpy(), calculator=calculator).get_potential_energy()
    with pytest.raises(ValueError, match="no such file"):
        DKMPCalculator(tmp_path / "none.pt")
