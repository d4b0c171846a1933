"""Puts an Amber system without water into a box of water, with ``openmm.app.Modeller``.

Modeller asks a force field for a System of whatever it has built; the Amber parameters know only the solute.
``SoluteInWater`` joins the two: the solute from its prmtop, water and ions from OpenMM's TIP3P files.
"""

from typing import Any, Dict, Tuple

import numpy as np
import openmm
from openmm import app, unit

# Force class -> (name of its terms in OpenMM's method names, how many leading parameters are particles)
_BONDED: Dict[type, Tuple[str, int]] = {
    openmm.HarmonicBondForce: ("Bond", 2),
    openmm.HarmonicAngleForce: ("Angle", 3),
    openmm.PeriodicTorsionForce: ("Torsion", 4),
}


class SoluteInWater:
    """Makes Systems of a solute (its prmtop), then water and ions: what Modeller needs of a force field.

    Args:
        prmtop: The solute.
    """

    def __init__(self, prmtop: app.AmberPrmtopFile) -> None:
        self.prmtop = prmtop
        self.water = app.ForceField("amber14/tip3p.xml")

    def createSystem(
        self, topology: app.Topology, residueTemplates: Any = None, **options: Any
    ) -> openmm.System:
        """The System of a topology whose first atoms are the solute's.

        Args:
            topology: Solute, then water and ions.
            residueTemplates: Unused (Modeller passes it).
            **options: ``constraints`` and ``hydrogenMass`` of the solute, as in OpenMM.
        """
        # The box, where there is one, is the topology's: the prmtop is of the solute alone.
        system = self.prmtop.createSystem(nonbondedMethod=app.NoCutoff, **options)
        modeller = app.Modeller(topology, np.zeros((topology.getNumAtoms(), 3)) * unit.nanometer)
        modeller.delete(list(topology.atoms())[: system.getNumParticles()])
        if modeller.topology.getNumAtoms():
            append(system, self.water.createSystem(modeller.topology, nonbondedMethod=app.NoCutoff))
        box = topology.getPeriodicBoxVectors()
        if box is not None:
            system.setDefaultPeriodicBoxVectors(*box)
            (nonbonded,) = [f for f in system.getForces() if isinstance(f, openmm.NonbondedForce)]
            nonbonded.setNonbondedMethod(openmm.NonbondedForce.PME)
            nonbonded.setCutoffDistance(0.9 * unit.nanometer)
        return system


def append(system: openmm.System, other: openmm.System) -> None:
    """Adds the particles, constraints and forces of ``other`` behind those of ``system``."""
    first = system.getNumParticles()
    forces = {type(force): force for force in system.getForces()}
    for index in range(other.getNumParticles()):
        system.addParticle(other.getParticleMass(index))
    for index in range(other.getNumConstraints()):
        left, right, distance = other.getConstraintParameters(index)
        system.addConstraint(first + left, first + right, distance)
    for force in other.getForces():
        if isinstance(force, openmm.NonbondedForce):
            target = forces[openmm.NonbondedForce]
            for index in range(force.getNumParticles()):
                target.addParticle(*force.getParticleParameters(index))
            for index in range(force.getNumExceptions()):
                left, right, *parameters = force.getExceptionParameters(index)
                target.addException(first + left, first + right, *parameters)
        elif type(force) in _BONDED:
            term, num_atoms = _BONDED[type(force)]
            for index in range(getattr(force, f"getNum{term}s")()):
                parameters = getattr(force, f"get{term}Parameters")(index)
                particles = [first + particle for particle in parameters[:num_atoms]]
                getattr(forces[type(force)], f"add{term}")(*particles, *parameters[num_atoms:])


def solvate(
    prmtop: app.AmberPrmtopFile,
    positions: np.ndarray,
    padding: float = 1.0,
    box_shape: str = "cube",
    **options: Any,
) -> Tuple[app.Topology, openmm.System, np.ndarray]:
    """A solute in a neutral box of TIP3P water, with particle-mesh Ewald.

    Args:
        prmtop: The solute.
        positions: (N, 3) in Å.
        padding: Least distance between the solute and the box's faces in nm.
        box_shape: ``cube``, ``dodecahedron`` or ``octahedron``.
        **options: ``constraints`` and ``hydrogenMass`` of the solute.

    Returns:
        Topology, System and positions in Å; the solute's atoms come first, in their order.
    """
    force_field = SoluteInWater(prmtop)
    modeller = app.Modeller(prmtop.topology, positions * unit.angstrom)
    modeller.addSolvent(force_field, model="tip3p", padding=padding * unit.nanometer, boxShape=box_shape)
    system = force_field.createSystem(modeller.topology, **options)
    solvated = np.array(modeller.positions.value_in_unit(unit.angstrom))
    return modeller.topology, system, solvated
