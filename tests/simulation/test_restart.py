"""Saved Systems, States and checkpoints go on in a fresh process as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from dkmp_plugin.simulation.stack import prepare_backend
from tests.simulation.test_openmm import topology_of

prepare_backend()

import openmm  # noqa: E402
from openmm import app, unit  # noqa: E402
from openmmml import MLPotential  # noqa: E402

# Written by the test: system.xml, verlet.xml (State), langevin.chk. Written by the fresh process: positions.
CONTINUE = """
import sys
from pathlib import Path
import numpy
from dkmp_plugin.simulation import load_system
folder = Path(sys.argv[1])
system = load_system(folder / "system.xml")
import openmm
platform = openmm.Platform.getPlatformByName("Reference")
def positions(context):
    return context.getState(getPositions=True).getPositions(asNumpy=True)._value
verlet = openmm.Context(system, openmm.VerletIntegrator(0.0005), platform)
verlet.setState(openmm.XmlSerializer.deserialize((folder / "verlet.xml").read_text()))
verlet.getIntegrator().step(20)
numpy.save(folder / "verlet.npy", positions(verlet))
langevin = openmm.Context(system, openmm.LangevinMiddleIntegrator(300, 5, 0.0005), platform)
langevin.loadCheckpoint((folder / "langevin.chk").read_bytes())
langevin.getIntegrator().step(20)
numpy.save(folder / "langevin.npy", positions(langevin))
"""

# A simulation as users write it: goes on from its checkpoint where there is one.
SIMULATION = """
import sys
from pathlib import Path
import numpy
from dkmp_plugin.simulation import load_system
folder, steps = Path(sys.argv[1]), int(sys.argv[2])  # +30: thirty more than the checkpoint has
system = load_system(folder / "system.xml")
import openmm
from openmm import app
topology = app.PDBFile(str(folder / "start.pdb")).topology
platform = openmm.Platform.getPlatformByName("Reference")
integrator = openmm.LangevinMiddleIntegrator(300, 5, 0.0005)
integrator.setRandomNumberSeed(7)
simulation = app.Simulation(topology, system, integrator, platform)
checkpoint = folder / "run.chk"
if checkpoint.exists():
    simulation.loadCheckpoint(str(checkpoint))
    print("resumed at", simulation.currentStep, flush=True)
else:
    simulation.loadState(str(folder / "start.xml"))
simulation.reporters.append(app.CheckpointReporter(str(checkpoint), 10))
simulation.step(steps)
state = simulation.context.getState(getPositions=True)
numpy.save(folder / "end.npy", state.getPositions(asNumpy=True)._value)
"""


def positions_of(context):
    return context.getState(getPositions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer)


def run(program, *arguments):
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture
def saved(model_path, molecule, tmp_path):
    """A folder with the System and a start in it; the System; positions in nm."""
    z, pos = molecule
    topology = topology_of(z)
    system = MLPotential("dkmp", modelPath=str(model_path)).createSystem(topology, removeCMMotion=False)
    (tmp_path / "system.xml").write_text(openmm.XmlSerializer.serialize(system))
    with open(tmp_path / "start.pdb", "w") as file:
        app.PDBFile.writeFile(topology, pos.numpy() * unit.angstrom, file)
    return tmp_path, system, pos.numpy() / 10


def context_of(system, positions, integrator):
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(positions)
    context.setVelocitiesToTemperature(300, 3)
    return context


def test_state_and_checkpoint_go_on_in_a_fresh_process(saved):
    folder, system, positions = saved
    verlet = context_of(system, positions, openmm.VerletIntegrator(0.0005))
    verlet.getIntegrator().step(20)
    state = verlet.getState(getPositions=True, getVelocities=True)
    (folder / "verlet.xml").write_text(openmm.XmlSerializer.serialize(state))
    langevin = context_of(system, positions, openmm.LangevinMiddleIntegrator(300, 5, 0.0005))
    langevin.getIntegrator().step(20)
    (folder / "langevin.chk").write_bytes(langevin.createCheckpoint())
    for context in (verlet, langevin):
        context.getIntegrator().step(20)

    done = run(CONTINUE, folder)
    assert done.returncode == 0, done.stderr
    assert np.abs(positions_of(verlet) - positions).max() > 1e-3
    # The State holds 15 digits or so; the checkpoint holds everything, random numbers included. Matrix
    # products may still differ in the last digit: their order of summing depends on where memory lies.
    np.testing.assert_allclose(np.load(folder / "verlet.npy"), positions_of(verlet), atol=1e-9)
    np.testing.assert_allclose(np.load(folder / "langevin.npy"), positions_of(langevin), atol=1e-12)


def test_a_killed_simulation_goes_on_from_its_checkpoint(saved):
    folder, system, positions = saved
    integrator = openmm.LangevinMiddleIntegrator(300, 5, 0.0005)
    integrator.setRandomNumberSeed(7)
    straight = context_of(system, positions, integrator)
    start = straight.getState(getPositions=True, getVelocities=True)
    (folder / "start.xml").write_text(openmm.XmlSerializer.serialize(start))
    # Far more steps than the process is given time for.
    process = subprocess.Popen([sys.executable, "-c", SIMULATION, str(folder), "1000000"])
    deadline = time.monotonic() + 240
    while not (folder / "run.chk").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    done = run(SIMULATION, folder, "+30")
    assert done.returncode == 0, done.stderr
    resumed_at = int(done.stdout.split("resumed at")[1])
    assert resumed_at >= 10 and resumed_at % 10 == 0
    straight.getIntegrator().step(resumed_at + 30)
    np.testing.assert_allclose(np.load(folder / "end.npy"), positions_of(straight), atol=1e-9)
