"""DKMP^C in OpenMM: energies and forces against PyTorch, on every platform this machine has."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch

from dkmp_plugin.simulation.model_file import load_model_file
from dkmp_plugin.simulation.stack import prepare_backend

# The backend of the installed stack: TorchForce on `torchforce`, PythonForce on `latest`.
BACKEND = prepare_backend()

import openmm  # noqa: E402
from openmm import app, unit  # noqa: E402
from openmmml import MLPotential  # noqa: E402

KJ_PER_KCAL = 4.184
NAMES = {openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())}
# Energy and force tolerances in kJ/mol and kJ/mol/nm: OpenCL and CPU pass positions in single precision.
TOLERANCES = {"Reference": (1e-5, 1e-4), "CPU": (2e-3, 5e-2), "OpenCL": (2e-3, 5e-2)}


@pytest.fixture(params=["Reference", "CPU", "OpenCL"])
def platform(request):
    if request.param not in NAMES:
        pytest.skip(f"OpenMM has no {request.param} platform here (OpenCL: install pocl-opencl-icd)")
    return openmm.Platform.getPlatformByName(request.param)


def topology_of(z, box=None):
    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain())
    for number in z.tolist():
        topology.addAtom(f"A{number}", app.Element.getByAtomicNumber(number), residue)
    if box is not None:
        topology.setPeriodicBoxVectors((box.numpy() / 10).tolist() * unit.nanometer)
    return topology


def energy_and_forces(system, positions, platform, parameters=()):
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(np.asarray(positions) / 10)
    for name, value in parameters:
        context.setParameter(name, value)
    state = context.getState(getEnergy=True, getForces=True)
    energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    return energy, state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)


def torch_reference(model_path, z, pos, box=None):
    model, _ = load_model_file(model_path)
    pos = pos.double().clone().requires_grad_(True)
    energy = model(z, pos, box)
    (gradient,) = torch.autograd.grad(energy, pos)
    return energy.item() * KJ_PER_KCAL, -gradient.numpy() * KJ_PER_KCAL * 10


def assert_close(actual, expected, platform):
    energy_tolerance, force_tolerance = TOLERANCES[platform.getName()]
    assert actual[0] == pytest.approx(expected[0], abs=energy_tolerance)
    assert np.abs(expected[1]).max() > 1.0
    np.testing.assert_allclose(actual[1], expected[1], atol=force_tolerance)


@pytest.fixture(scope="module")
def host_guest():
    """CB7 and its guest B2 in vacuum: topology, Amber system, positions in Å, the guest's atoms, shuffled."""
    from openmmtools.testsystems import HostGuestVacuum

    test_system = HostGuestVacuum(constraints=None)
    guest = [atom.index for atom in list(test_system.topology.residues())[-1].atoms()]
    assert len(guest) == 30
    np.random.default_rng(0).shuffle(guest)
    positions = test_system.positions.value_in_unit(unit.angstrom)
    return test_system.topology, test_system.system, positions, guest


def test_whole_molecule(model_path, molecule, platform):
    z, pos = molecule
    system = MLPotential("dkmp", modelPath=str(model_path)).createSystem(topology_of(z))
    actual = energy_and_forces(system, pos, platform)
    assert_close(actual, torch_reference(model_path, z, pos), platform)


def test_forces_do_not_depend_on_the_distance_from_the_origin(checkpoint, molecule):
    """OpenMM passes double precision on the Reference platform; the model computes in single."""
    z, pos = molecule
    system = MLPotential("dkmp", modelPath=str(checkpoint)).createSystem(topology_of(z))
    reference = openmm.Platform.getPlatformByName("Reference")
    energy, forces = energy_and_forces(system, pos, reference)
    far = pos.double().numpy() + np.array([4000.0, 2800.0, -1600.0])
    far_energy, far_forces = energy_and_forces(system, far, reference)
    assert far_energy == pytest.approx(energy, abs=1e-3)
    np.testing.assert_allclose(far_forces, forces, atol=0.1)
    assert np.abs(forces).max() > 1.0


def test_periodic_triclinic_box_smaller_than_the_cutoff(model_path, molecule, platform):
    z, pos = molecule
    box = torch.tensor([[6.5, 0, 0], [1.0, 6.0, 0], [0.5, -0.8, 7.0]], dtype=torch.float64)
    system = MLPotential("dkmp", modelPath=str(model_path)).createSystem(topology_of(z, box))
    assert system.usesPeriodicBoundaryConditions()
    expected = torch_reference(model_path, z, pos, box)
    assert_close(energy_and_forces(system, pos, platform), expected, platform)
    moved = pos.clone()
    moved[2] += 2 * box[0] - box[2]  # the same crystal, another image of one atom
    assert_close(energy_and_forces(system, moved, platform), expected, platform)


def test_the_box_of_a_file_without_one(model_path, molecule):
    z, _ = molecule
    potential = MLPotential("dkmp", modelPath=str(model_path))
    with pytest.raises(ValueError, match=r"box is 1\.00 Å wide.*setPeriodicBoxVectors\(None\)"):
        potential.createSystem(topology_of(z, torch.eye(3)))


def test_subset_in_unsorted_order(model_path, host_guest, platform):
    topology, mm_system, positions, subset = host_guest
    mixed = MLPotential("dkmp", modelPath=str(model_path)).createMixedSystem(topology, mm_system, subset)
    (force,) = [force for force in mixed.getForces() if force.getName() == "DKMP"]
    force.setForceGroup(7)
    context = openmm.Context(mixed, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(positions / 10)
    state = context.getState(getEnergy=True, getForces=True, groups={7})
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
    z = torch.tensor([atom.element.atomic_number for atom in topology.atoms()])[subset]
    energy, subset_forces = torch_reference(model_path, z, torch.tensor(positions)[subset])
    expected = np.zeros_like(forces)
    expected[subset] = subset_forces
    actual = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole), forces
    assert_close(actual, (energy, expected), platform)


def test_lambda_endpoints_and_a_linear_path(model_path, host_guest, platform):
    topology, mm_system, positions, subset = host_guest
    potential = MLPotential("dkmp", modelPath=str(model_path))
    interpolated = potential.createMixedSystem(topology, mm_system, subset, interpolate=True)
    at = {
        scale: energy_and_forces(interpolated, positions, platform, [("lambda_interpolate", scale)])
        for scale in (0.0, 0.5, 1.0)
    }
    assert_close(at[0.0], energy_and_forces(mm_system, positions, platform), platform)
    plain = potential.createMixedSystem(topology, mm_system, subset)
    assert_close(at[1.0], energy_and_forces(plain, positions, platform), platform)
    middle = (at[0.0][0] + at[1.0][0]) / 2, (at[0.0][1] + at[1.0][1]) / 2
    assert_close(at[0.5], middle, platform)


@pytest.mark.parametrize("interpolate", [False, True])
def test_bonds_to_other_atoms(model_path, interpolate):
    """openmm-ml 1.4 leaves valences free, which is told; 1.8 caps them with hydrogens on virtual sites."""
    from openmmtools.testsystems import AlanineDipeptideVacuum

    alanine = AlanineDipeptideVacuum(constraints=None)
    methyl = [atom.index for atom in alanine.topology.atoms() if atom.name in ("CB", "HB1", "HB2", "HB3")]
    assert len(methyl) == 4
    potential = MLPotential("dkmp", modelPath=str(model_path))
    arguments = (alanine.topology, alanine.system, methyl)
    if BACKEND == "torchforce":
        with pytest.warns(UserWarning, match="bonded to others, at 1 bonds"):
            potential.createMixedSystem(*arguments, interpolate=interpolate)
        with pytest.raises(ValueError, match="unknown argument linkAtomDistances"):
            potential.createMixedSystem(*arguments, interpolate=interpolate, linkAtomDistances=[])
        return
    mixed = potential.createMixedSystem(
        *arguments, interpolate=interpolate, linkAtomDistances=[(8, 10, 0.12 * unit.nanometer)]
    )
    assert mixed.getVirtualSite(22).getLocalPosition()[0]._value == 0.12
    positions = np.zeros((23, 3))
    positions[:22] = alanine.positions.value_in_unit(unit.nanometer)
    context = openmm.Context(
        mixed, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )

    def evaluate(changed):
        context.setPositions(changed)
        context.computeVirtualSites()
        state = context.getState(getEnergy=True, getForces=True)
        return state.getPotentialEnergy()._value, state.getForces(asNumpy=True)._value

    _, forces = evaluate(positions)
    # The carbon of the cap, and the one beyond it, whose place its hydrogen follows.
    for atom in (8, 10):
        step = np.zeros((23, 3))
        step[atom, 0] = 1e-5
        difference = (evaluate(positions - step)[0] - evaluate(positions + step)[0]) / 2e-5
        assert forces[atom, 0] == pytest.approx(difference, rel=1e-4, abs=1e-2)


def test_clone_has_the_same_energy(model_path, molecule, platform):
    z, pos = molecule
    system = MLPotential("dkmp", modelPath=str(model_path)).createSystem(topology_of(z))
    first = energy_and_forces(system, pos, platform)
    second = energy_and_forces(copy.deepcopy(system), pos, platform)
    assert_close(second, first, platform)


def test_dynamics_conserves_energy(model_path, molecule):
    """A hundred steps with forces of the right sign and unit: the total energy stays."""
    z, pos = molecule
    potential = MLPotential("dkmp", modelPath=str(model_path))
    system = potential.createSystem(topology_of(z), removeCMMotion=False)
    integrator = openmm.VerletIntegrator(0.0002)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(pos.numpy() / 10)
    context.setVelocitiesToTemperature(300, 1)

    def energies():
        # The integrator's velocities lag half a step; kinetic energies of getState account for it.
        state = context.getState(getEnergy=True)
        kinetic = state.getKineticEnergy().value_in_unit(unit.kilojoule_per_mole)
        potential = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        return kinetic + potential, potential

    start, potential_before = energies()
    integrator.step(100)
    end, potential_after = energies()
    assert abs(potential_after - potential_before) > 0.05
    assert end == pytest.approx(start, abs=0.02 * abs(potential_after - potential_before) + 1e-3)


def run(program, *arguments):
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_xml_round_trip_in_a_fresh_process(model_path, molecule, tmp_path):
    z, pos = molecule
    system = MLPotential("dkmp", modelPath=str(model_path)).createSystem(topology_of(z))
    (tmp_path / "system.xml").write_text(openmm.XmlSerializer.serialize(system))
    np.save(tmp_path / "positions.npy", pos.numpy() / 10)
    energy, _ = energy_and_forces(system, pos, openmm.Platform.getPlatformByName("Reference"))
    program = (
        "import sys, numpy\n"
        "from dkmp_plugin.simulation import load_system\n"
        "system = load_system(sys.argv[1])\n"
        "import openmm\n"
        "platform = openmm.Platform.getPlatformByName('Reference')\n"
        "context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)\n"
        "context.setPositions(numpy.load(sys.argv[2]))\n"
        "print(repr(context.getState(getEnergy=True).getPotentialEnergy()._value))\n"
    )
    done = run(program, tmp_path / "system.xml", tmp_path / "positions.npy")
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) == pytest.approx(energy, abs=1e-9)

    if BACKEND == "pythonforce":
        return  # its pickle names dkmp_plugin, so the import happens by itself
    bare = run(
        "import sys, torch, openmm, openmmtorch\n"
        "openmm.XmlSerializer.deserialize(open(sys.argv[1]).read())\n",
        tmp_path / "system.xml",
    )
    assert bare.returncode == 1, bare.stderr
    assert "dkmp_plugin::" in bare.stderr  # the missing operators name the package to import


def test_openmm_may_be_imported_first(model_path, molecule, tmp_path):
    """The Torch plugin fails to load when openmm comes before torch; we load it again."""
    program = (
        "import sys, openmm\n"
        "from openmm import app\n"
        "from openmmml import MLPotential\n"
        "topology = app.Topology()\n"
        "residue = topology.addResidue('M', topology.addChain())\n"
        "for n in (8, 1, 1): topology.addAtom('A', app.Element.getByAtomicNumber(n), residue)\n"
        "system = MLPotential('dkmp', modelPath=sys.argv[1]).createSystem(topology)\n"
        "platform = openmm.Platform.getPlatformByName('CPU')\n"
        "context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)\n"
        "context.setPositions([[0, 0, 0], [0.1, 0, 0], [0, 0.1, 0]])\n"
        "print(context.getState(getEnergy=True).getPotentialEnergy()._value)\n"
    )
    done = run(program, model_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "imported",
    [
        "dkmp_plugin.simulation.potential import BUNDLED_MODEL",
        "dkmp_plugin.simulation.potential import DKMPPotentialImplFactory",
        "openmmml import MLPotential",
    ],
)
def test_what_is_imported_first_does_not_matter(imported):
    program = (
        f"from {imported}\n"
        "from openmmml import MLPotential\n"
        "from dkmp_plugin.simulation.potential import BUNDLED_MODEL, DKMPPotentialImpl\n"
        "implementation = MLPotential('dkmp')._impl\n"
        "assert isinstance(implementation, DKMPPotentialImpl)\n"
        "assert implementation.model_path == BUNDLED_MODEL and BUNDLED_MODEL.is_file()\n"
    )
    done = run(program)
    assert done.returncode == 0, done.stderr


def test_two_simulations_in_one_process(model_path, molecule):
    z, pos = molecule
    potential = MLPotential("dkmp", modelPath=str(model_path))
    platform = openmm.Platform.getPlatformByName("CPU")
    contexts = []
    for _ in range(2):
        system = potential.createSystem(topology_of(z))
        context = openmm.Context(system, openmm.VerletIntegrator(0.0005), platform)
        context.setPositions(pos.numpy() / 10)
        contexts.append(context)
    for _ in range(5):
        for context in contexts:
            context.getIntegrator().step(1)
    first, second = (context.getState(getEnergy=True).getPotentialEnergy()._value for context in contexts)
    assert first == pytest.approx(second, abs=1e-6)
