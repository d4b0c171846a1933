"""Boxes that move, molecules that are wrapped, and a modelled ligand in explicit water."""

import sys

import numpy as np
import pytest
import torch

from dkmp_plugin.simulation.export import export_model
from dkmp_plugin.simulation.stack import prepare_backend
from tests.conftest import ROOT, shared_data
from tests.simulation.conftest import write_checkpoint
from tests.simulation.test_openmm import topology_of, torch_reference

prepare_backend()

import openmm  # noqa: E402
from openmm import app, unit  # noqa: E402
from openmmml import MLPotential  # noqa: E402

ML_GROUP = 5


def state_of(context):
    """Energy in kJ/mol, positions and box in Å."""
    state = context.getState(getEnergy=True, getPositions=True)
    return (
        state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole),
        state.getPositions(asNumpy=True).value_in_unit(unit.angstrom),
        state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.angstrom),
    )


@pytest.fixture(scope="module")
def water_box():
    folder = shared_data() / "water192"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent; set DKMP_DATA to the folder of the shared data sets")
    (first, *_) = sorted(folder.rglob("coord.npy"))
    numbers = {"O": 8, "H": 1}
    raw = first.parent.parent / "type.raw"
    kinds = [int(kind) for kind in raw.read_text().split()]
    names = (raw.parent / "type_map.raw").read_text().split()
    z = torch.tensor([numbers[names[kind]] for kind in kinds])
    positions = torch.tensor(np.load(first)[0].reshape(-1, 3), dtype=torch.float64)
    box = torch.tensor(np.load(first.with_name("box.npy"))[0].reshape(3, 3), dtype=torch.float64)
    return z, positions, box


def test_barostat_changes_the_box_of_a_system_that_is_all_modelled(water_box, tmp_path):
    """192 atoms, a box of 12 Å, cutoff beyond half of it; steps until the barostat's third box."""
    z, positions, box = water_box
    write_checkpoint(tmp_path / "model.ckpt", trained_elements=(1, 8), num_layers=2, cutoff_upper=7.0)
    export_model(tmp_path / "model.ckpt", tmp_path / "model.pt", dtype="float64")
    assert float(box[0, 0]) < 2 * 7.0
    system = MLPotential("dkmp", modelPath=str(tmp_path / "model.pt")).createSystem(topology_of(z, box))
    barostat = openmm.MonteCarloBarostat(1 * unit.bar, 300 * unit.kelvin, 1)
    barostat.setRandomNumberSeed(4)
    system.addForce(barostat)
    integrator = openmm.LangevinMiddleIntegrator(300, 1, 0.0002)
    integrator.setRandomNumberSeed(4)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(positions.numpy() / 10)
    volumes = set()
    for _ in range(100):  # trials may be refused, and OpenMM's random numbers differ between versions
        integrator.step(1)
        energy, moved, moved_box = state_of(context)
        volumes.add(round(abs(np.linalg.det(moved_box)), 6))
        expected, _ = torch_reference(
            tmp_path / "model.pt", z, torch.tensor(moved), torch.tensor(moved_box, dtype=torch.float64)
        )
        assert energy == pytest.approx(expected, abs=1e-3)
        if len(volumes) == 3:
            break
    assert len(volumes) == 3


@pytest.fixture(scope="module")
def solvated_p_xylene(p_xylene_files):
    """p-xylene in a box of water: context of the mixed System, the ligand's energy is group ML_GROUP."""
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        from explicit_solvent import solvate
    finally:
        sys.path.remove(str(ROOT / "examples"))
    folder = p_xylene_files[0].parent
    prmtop = app.AmberPrmtopFile(str(folder / "ligand.prmtop"))
    crd = app.AmberInpcrdFile(str(folder / "ligand.crd"))
    positions = crd.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    topology, system, positions = solvate(prmtop, positions, padding=1.0)
    ligand = list(range(18))
    mixed = MLPotential("dkmp").createMixedSystem(topology, system, ligand, forceGroup=ML_GROUP)
    barostat = openmm.MonteCarloBarostat(1 * unit.bar, 300 * unit.kelvin, 1)
    barostat.setRandomNumberSeed(1)
    mixed.addForce(barostat)
    integrator = openmm.LangevinMiddleIntegrator(300, 5, 0.0005)
    integrator.setRandomNumberSeed(1)
    context = openmm.Context(mixed, integrator, openmm.Platform.getPlatformByName("CPU"))
    return topology, mixed, context, positions


def ml_energy(context, positions):
    context.setPositions(positions / 10)
    state = context.getState(getEnergy=True, groups={ML_GROUP})
    return state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)


def test_solute_keeps_its_place_and_its_parameters(solvated_p_xylene, p_xylene_molecule_energy):
    topology, mixed, context, positions = solvated_p_xylene
    waters = [residue for residue in topology.residues() if residue.name == "HOH"]
    assert len(waters) > 150 and topology.getNumAtoms() == 18 + 3 * len(waters)
    assert mixed.usesPeriodicBoundaryConditions()
    assert mixed.getNumConstraints() == 3 * len(waters)
    # The model sees the ligand alone, wherever it is and however it is wrapped.
    assert ml_energy(context, positions) == pytest.approx(p_xylene_molecule_energy, abs=1e-2)


@pytest.fixture(scope="module")
def p_xylene_molecule_energy(p_xylene_files):
    """Energy of the bundled model for the same structure without a box, in kJ/mol."""
    folder = p_xylene_files[0].parent
    topology = app.AmberPrmtopFile(str(folder / "ligand.prmtop")).topology
    system = MLPotential("dkmp").createSystem(topology)
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(app.AmberInpcrdFile(str(folder / "ligand.crd")).getPositions())
    return context.getState(getEnergy=True).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)


def test_wrapping_does_not_matter(solvated_p_xylene):
    _, _, context, positions = solvated_p_xylene
    energy = ml_energy(context, positions)
    box = context.getState().getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.angstrom)
    broken = positions.copy()
    broken[3] += box[0]
    broken[7] -= 2 * box[1] + box[2]
    assert ml_energy(context, broken) == pytest.approx(energy, abs=1e-2)
    whole = positions.copy()
    whole[:18] += 3 * box[2] - box[0]
    assert ml_energy(context, whole) == pytest.approx(energy, abs=1e-2)


def test_modelled_atoms_stay_one_molecule_to_openmm(solvated_p_xylene, water_box):
    """Which decides how frames are wrapped and what a barostat moves."""
    _, _, context, positions = solvated_p_xylene
    assert context.getMolecules()[0] == tuple(range(18))
    box = context.getState().getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.angstrom)
    # The border of the box through the middle of the ligand.
    context.setPositions((positions - positions[:18].mean(axis=0) + 5 * box.sum(axis=0)) / 10)
    wrapped = context.getState(getPositions=True, enforcePeriodicBox=True).getPositions(asNumpy=True)
    ligand = wrapped.value_in_unit(unit.angstrom)[:18]
    np.testing.assert_allclose(ligand - ligand[0], positions[:18] - positions[0], atol=1e-4)


def test_ligand_in_water_with_a_barostat(solvated_p_xylene):
    _, _, context, positions = solvated_p_xylene
    context.setPositions(positions / 10)
    openmm.LocalEnergyMinimizer.minimize(context, maxIterations=20)
    context.setVelocitiesToTemperature(300, 1)
    before = abs(np.linalg.det(state_of(context)[2]))
    context.getIntegrator().step(10)
    energy, moved, box = state_of(context)
    assert np.isfinite(energy) and np.isfinite(moved).all()
    assert abs(np.linalg.det(box)) != before
