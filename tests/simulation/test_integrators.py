"""Ways to run a simulation: several time steps, heavy hydrogens, constraints, virtual sites, minimisation."""

import subprocess
import sys

import numpy as np
import pytest

from dkmp_plugin.simulation.stack import prepare_backend
from tests.conftest import ROOT
from tests.simulation.test_openmm import topology_of, torch_reference

BACKEND = prepare_backend()

import openmm  # noqa: E402
from openmm import app, unit  # noqa: E402
from openmmml import MLPotential  # noqa: E402

REFERENCE = "Reference"


@pytest.fixture(scope="module")
def p_xylene_alone(p_xylene_files):
    """Topology, force-field System and positions in nm of p-xylene, relaxed by the bundled model."""
    folder = p_xylene_files[0].parent
    prmtop = app.AmberPrmtopFile(str(folder / "ligand.prmtop"))
    mm_system = prmtop.createSystem(nonbondedMethod=app.NoCutoff, constraints=None)
    context = context_of(MLPotential("dkmp").createSystem(prmtop.topology), openmm.VerletIntegrator(0.001))
    context.setPositions(app.AmberInpcrdFile(str(folder / "ligand.crd")).getPositions())
    openmm.LocalEnergyMinimizer.minimize(context, maxIterations=100)
    positions = context.getState(getPositions=True).getPositions(asNumpy=True)._value
    return prmtop.topology, mm_system, positions


def context_of(system, integrator):
    return openmm.Context(system, integrator, openmm.Platform.getPlatformByName(REFERENCE))


def total_energies(context, steps, interval=10):
    """Kinetic + potential energy in kJ/mol every ``interval`` steps."""
    energies = []
    for _ in range(steps // interval):
        context.getIntegrator().step(interval)
        state = context.getState(getEnergy=True)
        energies.append((state.getPotentialEnergy() + state.getKineticEnergy())._value)
    return np.array(energies)


@pytest.mark.parametrize("inner_steps", [1, 3])
def test_own_force_group_and_multiple_time_steps(p_xylene_alone, inner_steps):
    """The model once per outer step, a tether of every atom more often; without friction energy stays."""
    topology, _, positions = p_xylene_alone
    system = MLPotential("dkmp").createSystem(topology, removeCMMotion=False)
    system.getForce(0).setForceGroup(1)
    tether = openmm.CustomExternalForce("2000*((x-x0)^2+(y-y0)^2+(z-z0)^2)")
    for name in ("x0", "y0", "z0"):
        tether.addPerParticleParameter(name)
    for index, position in enumerate(positions):
        tether.addParticle(index, position)
    system.addForce(tether)
    integrator = openmm.MTSLangevinIntegrator(300, 0, 0.0005, [(1, 1), (0, inner_steps)])
    context = context_of(system, integrator)
    context.setPositions(positions)
    context.setVelocitiesToTemperature(300, 1)
    energies = total_energies(context, 60, 5)
    state = context.getState(getEnergy=True, groups={0})
    assert state.getPotentialEnergy()._value > 3  # the tether takes part
    kinetic = 1.5 * 18 * 8.314e-3 * 300
    assert np.ptp(energies) < 0.02 * kinetic


def test_heavy_hydrogens_at_two_femtoseconds(p_xylene_alone):
    """Hydrogen masses of 4 Da, taken from the carbons: 2 fs conserve energy, better than with 1 Da."""
    topology, _, positions = p_xylene_alone
    spread = {}
    for heavy in (False, True):
        system = MLPotential("dkmp").createSystem(topology, removeCMMotion=False)
        if heavy:
            for first, second in _bonds_to_hydrogen(topology, positions):
                system.setParticleMass(second, 4.0)
                system.setParticleMass(first, system.getParticleMass(first)._value - 2.992)
        context = context_of(system, openmm.VerletIntegrator(0.002))
        context.setPositions(positions)
        context.setVelocitiesToTemperature(300, 2)
        context.getIntegrator().step(20)
        spread[heavy] = np.std(total_energies(context, 150, 3))
    kinetic = 1.5 * 18 * 8.314e-3 * 300
    assert spread[True] < 0.02 * kinetic
    assert spread[True] < spread[False]


def _bonds_to_hydrogen(topology, positions):
    """(carbon, hydrogen) of every hydrogen: the nearest carbon."""
    elements = np.array([atom.element.atomic_number for atom in topology.atoms()])
    carbons = np.flatnonzero(elements == 6)
    for hydrogen in np.flatnonzero(elements == 1):
        distances = np.linalg.norm(positions[carbons] - positions[hydrogen], axis=1)
        yield int(carbons[distances.argmin()]), int(hydrogen)


@pytest.mark.parametrize("keep", [False, True])
def test_constraints(model_path, keep):
    """openmm-ml frees the modelled atoms; on request their bonds stay constrained, and hold."""
    from openmmtools.testsystems import HostGuestVacuum

    test_system = HostGuestVacuum(constraints=app.HBonds)
    guest = {atom.index for atom in list(test_system.topology.residues())[-1].atoms()}
    potential = MLPotential("dkmp", modelPath=str(model_path))
    mixed = potential.createMixedSystem(
        test_system.topology, test_system.system, sorted(guest), removeConstraints=not keep
    )
    constraints = [mixed.getConstraintParameters(index) for index in range(mixed.getNumConstraints())]
    inside = [(i, j, distance._value) for i, j, distance in constraints if i in guest and j in guest]
    assert len(constraints) > len(inside) and bool(inside) == keep
    context = context_of(mixed, openmm.VerletIntegrator(0.0005))
    context.setPositions(test_system.positions)
    openmm.LocalEnergyMinimizer.minimize(context, maxIterations=10)
    context.applyConstraints(1e-8)
    context.setVelocitiesToTemperature(300, 1)
    context.getIntegrator().step(10)
    positions = context.getState(getPositions=True).getPositions(asNumpy=True)._value
    for i, j, distance in inside:
        assert np.linalg.norm(positions[i] - positions[j]) == pytest.approx(distance, abs=1e-5)


class TestVirtualSites:
    # Before it asks the potential, openmm-ml 1.8 reads the element of every particle of the topology.
    fails_in_openmmml = pytest.mark.xfail(
        BACKEND == "pythonforce",
        raises=AttributeError,
        strict=True,
        reason="openmm-ml 1.8 makes no mixed system of a topology with virtual sites",
    )

    @pytest.fixture(scope="class")
    @staticmethod
    def four_site_water():
        """Two molecules of TIP4P-Ew: topology, System, positions in nm."""
        topology = app.Topology()
        chain = topology.addChain()
        for _ in range(2):
            residue = topology.addResidue("HOH", chain)
            atoms = [
                topology.addAtom(name, app.Element.getBySymbol(name[0]), residue)
                for name in ("O", "H1", "H2")
            ]
            for hydrogen in atoms[1:]:
                topology.addBond(atoms[0], hydrogen)
        one = np.array([[0.0, 0.0, 0.0], [0.0957, 0.0, 0.0], [-0.024, 0.0927, 0.0]])
        modeller = app.Modeller(topology, np.concatenate([one, one + 0.35]) * unit.nanometer)
        force_field = app.ForceField("tip4pew.xml")
        modeller.addExtraParticles(force_field)
        system = force_field.createSystem(modeller.topology, nonbondedMethod=app.NoCutoff)
        return modeller.topology, system, np.array(modeller.positions.value_in_unit(unit.nanometer))

    @fails_in_openmmml
    def test_beside_the_modelled_atoms(self, model_path, molecule, four_site_water):
        """Four-site water around a modelled ethanol: forces reach the right particles."""
        z, pos = molecule
        topology, system, water = four_site_water
        ethanol = topology_of(z)
        modeller = app.Modeller(topology, water * unit.nanometer)
        modeller.add(ethanol, (pos.numpy() / 10 + 0.8) * unit.nanometer)
        nonbonded = next(force for force in system.getForces() if isinstance(force, openmm.NonbondedForce))
        for atom in ethanol.atoms():
            system.addParticle(atom.element.mass)
            nonbonded.addParticle(0.0, 0.3, 0.1)
        atoms = list(range(8, 17))
        mixed = MLPotential("dkmp", modelPath=str(model_path)).createMixedSystem(
            modeller.topology, system, atoms, forceGroup=3
        )
        context = context_of(mixed, openmm.LangevinMiddleIntegrator(300, 1, 0.0005))
        context.setPositions(modeller.positions)
        context.computeVirtualSites()
        state = context.getState(getEnergy=True, getForces=True, groups={3})
        energy, forces = torch_reference(model_path, z, pos + 8.0)
        assert state.getPotentialEnergy()._value == pytest.approx(energy, abs=1e-4)
        np.testing.assert_allclose(state.getForces(asNumpy=True)._value[8:], forces, atol=1e-3)
        context.getIntegrator().step(10)
        assert np.isfinite(context.getState(getPositions=True).getPositions(asNumpy=True)._value).all()

    @fails_in_openmmml
    def test_among_the_modelled_atoms(self, model_path, four_site_water):
        topology, system, _ = four_site_water
        potential = MLPotential("dkmp", modelPath=str(model_path))
        with pytest.raises(ValueError, match=r"has no element.*virtual sites cannot be modelled"):
            potential.createMixedSystem(topology, system, range(4))
        with pytest.raises(ValueError, match="has no element"):
            potential.createSystem(topology)

    def test_with_an_element(self, model_path, four_site_water):
        """A topology that calls the virtual site a hydrogen: its position follows others, it has no force."""
        topology, system, _ = four_site_water
        disguised = app.Topology()
        residue = disguised.addResidue("HOH", disguised.addChain())
        for atom in list(topology.atoms())[:4]:
            disguised.addAtom(atom.name, atom.element or app.element.hydrogen, residue)
        other = openmm.System()
        for index in range(4):
            other.addParticle(system.getParticleMass(index))
        other.setVirtualSite(3, openmm.ThreeParticleAverageSite(0, 1, 2, 0.8, 0.1, 0.1))
        potential = MLPotential("dkmp", modelPath=str(model_path))
        with pytest.raises(ValueError, match="particle 3 is a virtual site"):
            potential.createMixedSystem(disguised, other, range(4))


class CountIterations(openmm.MinimizationReporter):
    def __init__(self):
        super().__init__()
        self.iterations = 0

    def report(self, iteration, positions, gradient, values):
        self.iterations += 1
        return False


def test_minimisation_takes_no_more_iterations_than_the_force_field(p_xylene_alone):
    """A rough surface makes the minimiser search (openmm-ml issue 94): counted, not timed.

    TorchForce cannot be called by a minimiser that has a reporter (torch: "The autograd engine was called
    while holding the GIL"), so the model gets as many iterations as the force field took.
    """
    topology, mm_system, positions = p_xylene_alone
    distorted = positions + 0.005 * np.random.default_rng(0).standard_normal(positions.shape)
    tolerance = 10.0  # kJ/mol/nm, root mean square
    counter = CountIterations()
    context = context_of(mm_system, openmm.VerletIntegrator(0.001))
    context.setPositions(distorted)
    openmm.LocalEnergyMinimizer.minimize(context, tolerance, reporter=counter)
    assert counter.iterations > 5

    context = context_of(MLPotential("dkmp").createSystem(topology), openmm.VerletIntegrator(0.001))
    context.setPositions(distorted)
    before = _energy_and_root_mean_square_force(context)
    openmm.LocalEnergyMinimizer.minimize(context, tolerance, maxIterations=2 * counter.iterations)
    after = _energy_and_root_mean_square_force(context)
    assert before[0] - after[0] > 10 and before[1] > 100
    assert after[1] < 1.05 * tolerance


def _energy_and_root_mean_square_force(context):
    state = context.getState(getEnergy=True, getForces=True)
    return state.getPotentialEnergy()._value, np.sqrt(np.square(state.getForces(asNumpy=True)._value).mean())


def test_soak_in_short():
    """The script that nobody has time to run in full for every change: 100,000 steps."""
    script = [sys.executable, str(ROOT / "scripts" / "soak.py"), "--platform", REFERENCE]
    done = subprocess.run([*script, "--steps", "200", "--warm-up", "100"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout and len(done.stdout.split("energy kJ/mol")[1].splitlines()) == 12


@pytest.mark.parametrize(
    ("growth", "energy", "healthy"), [(4.9, -1.0, True), (5.1, -1.0, False), (0.0, float("nan"), False)]
)
def test_verdict_of_the_soak(growth, energy, healthy):
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from soak import is_healthy
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    assert is_healthy(growth, 5.0, [-2.0, energy]) == healthy
