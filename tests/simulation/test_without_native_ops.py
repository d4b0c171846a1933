"""A model exported where the native ops are built runs where they are not, and the other way round."""

import os
import subprocess
import sys

import pytest

ENERGY = (
    "import sys, torch, openmm\n"
    "from openmm import app\n"
    "from openmmml import MLPotential\n"
    "topology = app.Topology()\n"
    "residue = topology.addResidue('M', topology.addChain())\n"
    "for n in (8, 1, 1, 6): topology.addAtom('A', app.Element.getByAtomicNumber(n), residue)\n"
    "system = MLPotential('dkmp', modelPath=sys.argv[1]).createSystem(topology)\n"
    "platform = openmm.Platform.getPlatformByName('Reference')\n"
    "context = openmm.Context(system, openmm.VerletIntegrator(0.0005), platform)\n"
    "context.setPositions([[0, 0, 0], [0.1, 0, 0], [0, 0.1, 0], [0.1, 0.2, 0.1]])\n"
    "context.getIntegrator().step(5)\n"
    "print(repr(context.getState(getEnergy=True).getPotentialEnergy()._value))\n"
)


def run(program, *arguments, native):
    environment = {**os.environ, "DKMP_PLUGIN_NATIVE": native}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_exported_with_and_without(model_path, checkpoint, tmp_path):
    expected = float(run(ENERGY, model_path, native="1").splitlines()[-1])
    assert float(run(ENERGY, model_path, native="0").splitlines()[-1]) == pytest.approx(expected, rel=1e-9)
    export = (
        "import sys; from dkmp_plugin.simulation import export_model; "
        "export_model(sys.argv[1], sys.argv[2], dtype='float64')"
    )
    run(export, checkpoint, tmp_path / "reference.pt", native="0")
    energy = float(run(ENERGY, tmp_path / "reference.pt", native="1").splitlines()[-1])
    assert energy == pytest.approx(expected, rel=1e-9)
