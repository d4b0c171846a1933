"""What OpenMM's PythonForce calls, with real States: on every stack, also where PythonForce is absent."""

import pickle

import numpy as np
import pytest
import torch

from dkmp_plugin.simulation.force_module import OpenMMEnergy
from dkmp_plugin.simulation.model_file import load_model_file
from dkmp_plugin.simulation.python_force import PythonForceComputation
from dkmp_plugin.simulation.stack import prepare_backend

prepare_backend()  # torch before openmm

import openmm  # noqa: E402


def test_filters_are_computed_once_and_pickling_changes_nothing(model_path, molecule):
    z, pos = molecule
    system = openmm.System()
    for _ in z:
        system.addParticle(1.0)
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(pos.numpy() / 10)
    state = context.getState(getPositions=True)

    model, info = load_model_file(model_path)
    module = torch.jit.script(OpenMMEnergy(model, info, z, None).eval())
    leaf = (pos / 10).requires_grad_(True)
    expected = module(leaf)
    (gradient,) = torch.autograd.grad(expected, leaf)
    computation = PythonForceComputation(module, periodic=False)
    # The radial basis is the only exponential in the model.
    assert "aten::exp(" not in str(computation.module.graph)
    for one in (computation, pickle.loads(pickle.dumps(computation))):
        energy, forces = one(state)
        assert energy == pytest.approx(expected.item(), abs=1e-9)
        np.testing.assert_allclose(forces, -gradient.numpy(), atol=1e-8)
