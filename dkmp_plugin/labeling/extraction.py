"""Cuts one molecule out of an OpenMM System, force-field terms and all."""

from typing import Any, Dict, List, Optional, Sequence

import openmm
from openmm import app, unit

from dkmp_plugin.force_field_charge import CHARGE_ROUNDING, force_field_charge

# In Da, where masses are repartitioned.
_HEAVIEST_HYDROGEN = 4.5


def residue_atoms(topology: app.Topology, residue_name: str) -> List[int]:
    """Indices of the atoms of the one residue called ``residue_name``, ascending.

    Raises:
        ValueError: no residue, or several, have that name.
    """
    residues = [residue for residue in topology.residues() if residue.name == residue_name]
    if len(residues) != 1:
        names = sorted({residue.name for residue in topology.residues()})
        raise ValueError(
            f"{len(residues)} residues are called {residue_name!r}, expected exactly one; "
            f"the topology has {', '.join(names)}"
        )
    return sorted(atom.index for atom in residues[0].atoms())


def atomic_numbers(topology: app.Topology, atoms: Sequence[int]) -> List[int]:
    """Atomic numbers of the given atoms, in the given order.

    Raises:
        ValueError: an atom has no element (a virtual site).
    """
    all_atoms = list(topology.atoms())
    without = [all_atoms[index].name for index in atoms if all_atoms[index].element is None]
    if without:
        raise ValueError(f"the atoms {', '.join(without)} have no element; virtual sites cannot be labelled")
    return [all_atoms[index].element.atomic_number for index in atoms]


def complete_elements(topology: app.Topology, system: openmm.System) -> List[str]:
    """Sets elements that a topology lacks from the masses, in place.

    Amber files without the section ATOMIC_NUMBER leave OpenMM to guess from atom names, which fails for
    some. Virtual sites (mass 0) stay without an element, and so do atoms whose mass is no element's.

    Args:
        topology: of the whole system.
        system: its masses, before hydrogen masses are repartitioned.

    Returns:
        Names of the atoms that were given an element.
    """
    completed = []
    for atom in topology.atoms():
        mass = system.getParticleMass(atom.index).value_in_unit(unit.dalton)
        if atom.element is not None or mass == 0:
            continue
        element = _element_of_mass(mass)
        if element is not None:
            atom.element = element
            completed.append(atom.name)
    return completed


def correct_guessed_elements(topology: app.Topology, system: openmm.System) -> List[str]:
    """Replaces elements that OpenMM guessed from atom names and the masses contradict, in place.

    For Amber files without the section ATOMIC_NUMBER: there BR1 is boron to OpenMM, SE1 sulfur and a nitrogen
    called NA sodium. Where hydrogen masses are repartitioned, only atoms that are too heavy are replaced: of
    the others some have the mass of another element.

    Args:
        topology: of the whole system.
        system: its masses.

    Returns:
        Names of the atoms that were given another element.
    """
    guessed = [
        (atom, system.getParticleMass(atom.index).value_in_unit(unit.dalton))
        for atom in topology.atoms()
        if atom.element is not None
    ]
    repartitioned = any(
        atom.element is app.element.hydrogen and 1.5 < mass < _HEAVIEST_HYDROGEN for atom, mass in guessed
    )
    corrected = []
    for atom, mass in guessed:
        too_heavy = mass - atom.element.mass.value_in_unit(unit.dalton) > _HEAVIEST_HYDROGEN
        element = _element_of_mass(mass) if too_heavy or not repartitioned else None
        if element not in (None, atom.element):
            atom.element = element
            corrected.append(atom.name)
    return corrected


def _element_of_mass(mass: float) -> Optional[app.Element]:
    element = app.Element.getByMass(mass)
    if element is None or abs(element.mass.value_in_unit(unit.dalton) - mass) >= 0.1:
        return None
    return element


def total_charge(system: openmm.System, atoms: Sequence[int]) -> int:
    """Sum of the force field's charges of the given atoms, as a whole number of elementary charges.

    Raises:
        ValueError: the System has no charges, or they do not add up to a whole number: the atoms are not a
            whole molecule.
    """
    charge = force_field_charge(system, atoms)
    if charge is None:
        raise ValueError(
            "the System has no NonbondedForce, which tells the molecule's charge; make it from the "
            "topology's force field, charges included"
        )
    if abs(charge - round(charge)) > CHARGE_ROUNDING:
        raise ValueError(
            f"the atoms carry a total charge of {charge:.3f}, a whole number is expected; take all atoms of "
            "the molecule"
        )
    return round(charge)


def extract_molecule(system: openmm.System, atoms: Sequence[int]) -> openmm.System:
    """A System of the given atoms alone: in vacuum, flexible, with all force-field terms among them.

    Constraints are left out: make ``system`` with ``constraints=None``, so that every bond has its term.

    Args:
        system: where the molecule comes from; bonded forces, NonbondedForce, and forces that only
            describe the surroundings (implicit solvent, barostat, centre-of-mass remover, CMAP terms of a
            protein).
        atoms: the molecule's atoms; atom i of the result is ``atoms[i]``.

    Raises:
        ValueError: a bonded term or constraint connects the molecule with other atoms, a CMAP term
            touches it, or the System has a kind of force that this function does not know.
    """
    molecule = openmm.System()
    new_index = {atom: index for index, atom in enumerate(atoms)}
    for atom in atoms:
        molecule.addParticle(system.getParticleMass(atom))
    for index in range(system.getNumConstraints()):
        constrained = [atom for atom in system.getConstraintParameters(index)[:2] if atom in new_index]
        if constrained:
            raise ValueError(
                f"atom {constrained[0]} is constrained; make the System with constraints=None "
                "and rigidWater=False"
            )
    for force in system.getForces():
        if isinstance(force, tuple(_BONDED)):
            molecule.addForce(_bonded_terms(force, new_index))
        elif isinstance(force, openmm.NonbondedForce):
            molecule.addForce(_nonbonded_terms(force, new_index))
        elif isinstance(force, openmm.CMAPTorsionForce):
            _check_no_cmap_terms(force, new_index)
        elif not isinstance(force, _SURROUNDINGS):
            raise ValueError(
                f"the System has a {force.getName()}, which extract_molecule does not know; "
                f"expected {', '.join(kind.__name__ for kind in _BONDED)}, NonbondedForce, or a "
                "CMAPTorsionForce of other atoms"
            )
    return molecule


_SURROUNDINGS = (openmm.GBSAOBCForce, openmm.CMMotionRemover, openmm.MonteCarloBarostat, openmm.CustomGBForce)

# Force class -> (its terms' name in OpenMM's method names, how many leading parameters are atoms)
_BONDED: Dict[type, Any] = {
    openmm.HarmonicBondForce: ("Bond", 2),
    openmm.HarmonicAngleForce: ("Angle", 3),
    openmm.PeriodicTorsionForce: ("Torsion", 4),
}


def _bonded_terms(force: Any, new_index: Dict[int, int]) -> Any:
    term, num_atoms = _BONDED[type(force)]
    selected = type(force)()
    for index in range(getattr(force, f"getNum{term}s")()):
        parameters = getattr(force, f"get{term}Parameters")(index)
        atoms = parameters[:num_atoms]
        inside = [atom in new_index for atom in atoms]
        if all(inside):
            getattr(selected, f"add{term}")(*(new_index[atom] for atom in atoms), *parameters[num_atoms:])
        elif any(inside):
            raise ValueError(
                f"a {term.lower()} connects the molecule with other atoms ({atoms}); take all of them"
            )
    return selected


def _check_no_cmap_terms(force: openmm.CMAPTorsionForce, new_index: Dict[int, int]) -> None:
    for index in range(force.getNumTorsions()):
        atoms = force.getTorsionParameters(index)[1:]
        if any(atom in new_index for atom in atoms):
            raise ValueError(
                f"a term of the CMAPTorsionForce ({atoms}) touches the molecule, which extract_molecule "
                "does not know; take a molecule without such terms, as ligands are"
            )


def _nonbonded_terms(force: openmm.NonbondedForce, new_index: Dict[int, int]) -> openmm.NonbondedForce:
    selected = openmm.NonbondedForce()
    selected.setNonbondedMethod(openmm.NonbondedForce.NoCutoff)
    for atom in new_index:
        selected.addParticle(*force.getParticleParameters(atom))
    for index in range(force.getNumExceptions()):
        first, second, *parameters = force.getExceptionParameters(index)
        if first in new_index and second in new_index:
            selected.addException(new_index[first], new_index[second], *parameters)
    return selected
