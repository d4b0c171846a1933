"""A model exported where the native ops are built runs where they are not, and the other way round."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from dkmp_plugin import ops
from dkmp_plugin.ops import fallback
from dkmp_plugin.ops import native as native_ops
from dkmp_plugin.simulation import export_propagator
from tests.displacement_checkpoint import write_checkpoint

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


def test_exported_files_hold_the_native_ops_alone(model_path, tmp_path):
    """With the reference beside every op OpenMM took seconds to make a System."""
    propagator = tmp_path / "propagator.pt"
    export_propagator(write_checkpoint(tmp_path / "epoch=0.ckpt"), propagator)
    for path in (model_path, propagator):
        with zipfile.ZipFile(path) as archive:
            code = {name: archive.read(name).decode() for name in archive.namelist() if name.endswith(".py")}
        assert any("ops.dkmp_plugin." in text for text in code.values())
        beside = "".join(text for name, text in code.items() if "ops/reference" in name)
        assert not [name for name in fallback._SCHEMAS if f"def {name}(" in beside]


FRAME = (
    "import sys, torch; from dkmp_plugin.simulation import load_propagator\n"
    "model = load_propagator(sys.argv[1])[0]\n"
    "z = torch.tensor([7, 6, 6, 8] * 2)\n"
    "pos = torch.rand(8, 3, generator=torch.Generator().manual_seed(0)) * 6\n"
    "print(repr(model(z, pos, model.ranks(pos)).double().square().sum().item()))\n"
)


def test_propagator_exported_with_native_ops(tmp_path):
    path = tmp_path / "propagator.pt"
    export_propagator(write_checkpoint(tmp_path / "epoch=0.ckpt"), path)
    expected = float(run(FRAME, path, native="1").splitlines()[-1])
    assert float(run(FRAME, path, native="0").splitlines()[-1]) == pytest.approx(expected, rel=1e-4)


def test_every_op_of_the_native_library_has_a_stand_in():
    called = re.findall(r"torch\.ops\.dkmp_plugin\.(\w+)\(", Path(native_ops.__file__).read_text())
    assert called and set(called) <= set(fallback._SCHEMAS)


@pytest.mark.skipif(not ops.status().native, reason="compares with the native library")
@pytest.mark.parametrize("name", fallback._SCHEMAS)
def test_stand_ins_have_the_schemas_of_the_native_library(name):
    # Symbolic sizes are for torch.export, which the stand-ins do not serve.
    schema = str(getattr(torch.ops.dkmp_plugin, name).default._schema).replace("SymInt", "int")
    assert schema == f"dkmp_plugin::{name}{fallback._SCHEMAS[name]}"
