import importlib.util
from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import app, unit

from dkmp_plugin.labeling.extraction import (
    atomic_numbers,
    complete_elements,
    correct_guessed_elements,
    extract_molecule,
    residue_atoms,
    total_charge,
)


def energy_and_forces(system: openmm.System, positions: np.ndarray):
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(positions * unit.angstrom)
    state = context.getState(getEnergy=True, getForces=True)
    return (
        state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole),
        state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer),
    )


def test_molecule_equals_the_ligand_that_openmmtools_prepared_alone(p_xylene):
    """The package also ships the ligand's own prmtop: the same molecule, by another way."""
    system, numbers, positions = p_xylene
    package = importlib.util.find_spec("openmmtools")
    folder = Path(package.submodule_search_locations[0]) / "data" / "T4-lysozyme-L99A-implicit"
    prmtop = app.AmberPrmtopFile(str(folder / "ligand.prmtop"))
    alone = prmtop.createSystem(nonbondedMethod=app.NoCutoff, constraints=None)
    assert numbers == [atom.element.atomic_number for atom in prmtop.topology.atoms()]
    energy, forces = energy_and_forces(system, positions)
    expected_energy, expected_forces = energy_and_forces(alone, positions)
    assert energy == pytest.approx(expected_energy, abs=1e-6)
    # Forces reach 1,000 kJ/mol/nm; the two prmtop files round Lennard-Jones parameters differently.
    np.testing.assert_allclose(forces, expected_forces, atol=1e-3)


def test_atom_order_is_the_given_one(t4_lysozyme):
    shuffled = list(np.random.default_rng(0).permutation(t4_lysozyme.ligand))
    molecule = extract_molecule(t4_lysozyme.system, shuffled)
    energy, _ = energy_and_forces(molecule, t4_lysozyme.positions[shuffled])
    in_order = extract_molecule(t4_lysozyme.system, t4_lysozyme.ligand)
    expected, _ = energy_and_forces(in_order, t4_lysozyme.positions[t4_lysozyme.ligand])
    assert energy == pytest.approx(expected, abs=1e-6)


def test_composition_and_charge(t4_lysozyme):
    numbers = atomic_numbers(t4_lysozyme.topology, t4_lysozyme.ligand)
    assert sorted(numbers) == [1] * 10 + [6] * 8
    assert total_charge(t4_lysozyme.system, t4_lysozyme.ligand) == 0


def test_part_of_a_molecule_is_refused(t4_lysozyme):
    with pytest.raises(ValueError, match="connects the molecule with other atoms"):
        extract_molecule(t4_lysozyme.system, t4_lysozyme.ligand[:5])
    with pytest.raises(ValueError, match="whole number"):
        total_charge(t4_lysozyme.system, t4_lysozyme.ligand[:5])


def test_unknown_and_repeated_residue_names_are_refused(t4_lysozyme):
    with pytest.raises(ValueError, match="0 residues are called 'XYZ'"):
        residue_atoms(t4_lysozyme.topology, "XYZ")
    with pytest.raises(ValueError, match="expected exactly one"):
        residue_atoms(t4_lysozyme.topology, "ALA")


def test_elements_from_masses():
    """As in Amber files without atomic numbers; masses there are rounded."""
    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain())
    system = openmm.System()
    for name, mass in (("N1", 14.01), ("CL1", 35.45), ("EP", 0.0), ("X", 7.5), ("HMR", 3.02)):
        topology.addAtom(name, None, residue)
        system.addParticle(mass)
    assert complete_elements(topology, system) == ["N1", "CL1"]
    symbols = [atom.element and atom.element.symbol for atom in topology.atoms()]
    assert symbols == ["N", "Cl", None, None, None]


@pytest.mark.parametrize("hydrogen_mass", [1.008, 3.024])
def test_elements_that_openmm_guessed_from_names(hydrogen_mass):
    """The first letter, as a rule; repartitioned masses of hydroxyl oxygen and amide nitrogen mislead."""
    taken = hydrogen_mass - 1.008
    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain())
    system = openmm.System()
    for name, guessed, mass in (
        ("BR1", "B", 79.90),
        ("SE1", "S", 78.96),
        ("O1", "O", 16.00 - taken),
        ("N1", "N", 14.01 - taken),
        ("H1", "H", hydrogen_mass),
        ("X1", None, 12.01),
        ("NA", "Na", 14.01),
    ):
        topology.addAtom(name, guessed and app.Element.getBySymbol(guessed), residue)
        system.addParticle(mass)
    corrected = ["BR1", "SE1"] + (["NA"] if taken == 0 else [])
    assert correct_guessed_elements(topology, system) == corrected
    symbols = [atom.element and atom.element.symbol for atom in topology.atoms()]
    assert symbols == ["Br", "Se", "O", "N", "H", None, "N" if taken == 0 else "Na"]


def test_cmap_terms_of_the_surroundings_are_left_out():
    """As in Amber's ff19SB: backbone corrections of the protein beside the ligand."""
    system = openmm.System()
    for _ in range(8):
        system.addParticle(12.0)
    bonds = openmm.HarmonicBondForce()
    bonds.addBond(6, 7, 0.15, 1000.0)
    system.addForce(bonds)
    force = openmm.CMAPTorsionForce()
    force.addMap(2, [1.0, 2.0, 3.0, 4.0])
    force.addTorsion(0, 0, 1, 2, 3, 1, 2, 3, 4)
    system.addForce(force)
    molecule = extract_molecule(system, [6, 7])
    assert [type(force) for force in molecule.getForces()] == [openmm.HarmonicBondForce]
    with pytest.raises(ValueError, match=r"CMAPTorsionForce.*touches the molecule"):
        extract_molecule(system, [4, 5, 6, 7])


def test_constrained_and_unknown_forces_are_refused():
    system = openmm.System()
    system.addParticle(1.0)
    system.addParticle(1.0)
    system.addForce(openmm.CustomBondForce("r"))
    with pytest.raises(ValueError, match="CustomBondForce"):
        extract_molecule(system, [0, 1])
    system.addConstraint(0, 1, 0.1)
    with pytest.raises(ValueError, match="constraints=None"):
        extract_molecule(system, [0, 1])
