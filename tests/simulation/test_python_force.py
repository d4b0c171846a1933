"""What OpenMM's PythonForce calls, with real States: on every stack, also where PythonForce is absent."""

import contextlib
import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from dkmp_plugin.simulation import python_force, torchscript
from dkmp_plugin.simulation.cuda_graph import CapturedGradient, energy_and_gradient
from dkmp_plugin.simulation.force_module import OpenMMEnergy, scripted
from dkmp_plugin.simulation.model_file import load_model_file
from dkmp_plugin.simulation.neighbor_reuse import ReusingModel
from dkmp_plugin.simulation.python_force import PythonForceComputation
from dkmp_plugin.simulation.stack import prepare_backend
from tests.simulation.conftest import executed_operators

BACKEND = prepare_backend()  # torch before openmm

import openmm  # noqa: E402


@pytest.fixture
def module(model_path, molecule):
    model, info = load_model_file(model_path)
    return torch.jit.script(OpenMMEnergy(model, info, molecule[0], None).eval())


def state_at(pos):
    """An OpenMM State with positions (N, 3) in Å."""
    system = openmm.System()
    for _ in pos:
        system.addParticle(1.0)
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(pos.numpy() / 10)
    return context.getState(getPositions=True)


def test_filters_are_computed_once_and_pickling_changes_nothing(module, molecule):
    pos = molecule[1]
    state = state_at(pos)
    leaf = (pos / 10).requires_grad_(True)
    expected = module(leaf)
    (gradient,) = torch.autograd.grad(expected, leaf)
    computation = PythonForceComputation(module, periodic=False, device="cpu")
    for one in (computation, pickle.loads(pickle.dumps(computation))):
        # The radial basis is the only exponential in the model.
        assert "aten::exp" not in executed_operators(lambda one=one: one(state))
        energy, forces = one(state)
        assert energy == pytest.approx(expected.item(), abs=1e-9)
        np.testing.assert_allclose(forces, -gradient.numpy(), atol=1e-8)


def test_contexts_in_threads_do_not_share_a_neighbor_list(model_path, molecule):
    """Contexts of one System call one object; a list that two of them wrote to once ended the process."""
    model, info = load_model_file(model_path)
    module = scripted(OpenMMEnergy(ReusingModel(model, info, 1.0), info, molecule[0], None))
    computation = PythonForceComputation(module, periodic=False, device="cpu")
    # Too far apart for one list: every call that follows another thread's searches.
    states = [state_at(molecule[1] * scale) for scale in (0.95, 1.0, 1.6, 2.5)]
    expected = [computation(state)[0] for state in states]

    def energies(which):
        return [computation(states[which])[0] for _ in range(100)]

    with ThreadPoolExecutor(4) as pool:
        for found, energy in zip(pool.map(energies, range(4)), expected, strict=True):
            np.testing.assert_allclose(found, energy, atol=1e-8)
    assert pickle.loads(pickle.dumps(computation))(states[0])[0] == pytest.approx(expected[0], abs=1e-8)


def test_naming_the_cpu_changes_nothing(module, molecule):
    state = state_at(molecule[1])
    results = [
        PythonForceComputation(module, periodic=False, device=device)(state)
        for device in ("cpu", torch.device("cpu"))
    ]
    if not torch.cuda.is_available():
        results.append(PythonForceComputation(module, periodic=False)(state))
    for energy, forces in results:
        assert energy == results[0][0] and np.array_equal(forces, results[0][1])


def test_a_pickle_goes_where_it_can(module, molecule, monkeypatch):
    """One made for a GPU, read where there is none; the wish for the GPU stays in it."""
    state = state_at(molecule[1])
    monkeypatch.setattr(python_force, "resolve_device", lambda device: torch.device("cpu"))
    computation = PythonForceComputation(module, periodic=False, device="cuda:7")
    contents = pickle.dumps(computation)
    for _ in range(2):
        with pytest.warns(UserWarning, match="'cuda:7' was given, but torch sees"):
            computation_here = pickle.loads(contents)
        assert computation_here(state)[0] == pytest.approx(computation(state)[0], rel=1e-6)
        contents = pickle.dumps(computation_here)
    assert computation_here.__getstate__()["device"] == "cuda:7"


def test_pickles_of_earlier_versions(module, molecule):
    """They held a frozen module, and knew no device."""
    state = state_at(molecule[1])
    computation = PythonForceComputation(module, periodic=False, device="cpu")
    buffer = io.BytesIO()
    torchscript.save(computation.module, buffer)
    old = PythonForceComputation.__new__(PythonForceComputation)
    old.__setstate__({"module": buffer.getvalue(), "periodic": False})
    for one in (old, pickle.loads(pickle.dumps(old))):
        assert one(state)[0] == pytest.approx(computation(state)[0], abs=1e-9)


def test_refusals(module, monkeypatch):
    with pytest.raises(ValueError, match="device: 'gpu' was given"):
        PythonForceComputation(module, periodic=False, device="gpu")
    with pytest.raises(ValueError, match=r"the model runs on the CPU \(with device='cpu'\)"):
        PythonForceComputation(module, periodic=False, device="cpu", cuda_graphs=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device: 'cuda' was given, but torch sees no GPU"):
        PythonForceComputation(module, periodic=False, device="cuda")


def test_nan_is_an_error(module, molecule, monkeypatch):
    """Where no op can look at the values, as on a GPU, the energy still tells."""
    computation = PythonForceComputation(module, periodic=False, device="cpu")
    nan = torch.tensor(float("nan"))
    monkeypatch.setattr(python_force, "energy_and_gradient", lambda *_: (nan, torch.zeros(9, 3)))
    with pytest.raises(RuntimeError, match="the model's energy is NaN: positions"):
        computation(state_at(molecule[1]))


class ReplayedOnTheCPU(CapturedGradient):
    """The same buffers; replaying computes."""

    def __init__(self, module, positions, box, device):
        self._module, self._device = module, device
        self._positions, self._box = positions.clone(), None if box is None else box.clone()
        self._graph = self
        self.replay()

    def replay(self):
        self._energy, self._gradient = energy_and_gradient(self._module, self._positions, self._box)


def test_a_replayed_graph_sees_positions_and_box_of_its_call(module, molecule, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
    pos = molecule[1] / 10
    boxes = [torch.eye(3, dtype=torch.float64) * 1.5, torch.eye(3, dtype=torch.float64) * 0.5]
    graph = ReplayedOnTheCPU(module, pos, boxes[0], torch.device("cpu"))
    for scale, box in ((1.0, boxes[0]), (1.1, boxes[0]), (1.1, boxes[1])):
        for found, expected in zip(
            graph(scale * pos, box), energy_and_gradient(module, scale * pos, box), strict=True
        ):
            assert torch.equal(found, expected)
    # One atom copied into the buffer of nine would be all nine of them.
    for bad, box in ((pos[:1], boxes[0]), (pos, None)):
        with pytest.raises(ValueError, match="the CUDA graph was captured with 9 with one"):
            graph(bad, box)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_on_a_gpu(model_path, molecule, cuda_graphs):
    from dkmp_plugin.simulation.force_module import fix_shapes, scripted

    z, pos = molecule
    model, info = load_model_file(model_path)
    assert fix_shapes(model, len(z))
    module = scripted(OpenMMEnergy(model, info, z, None))
    there = PythonForceComputation(module, False, "cuda", cuda_graphs)
    here = PythonForceComputation(module, False, "cpu")
    for one in (there, pickle.loads(pickle.dumps(there))):
        for scale in (1.0, 1.05, 2.0):
            (energy, forces), (expected, expected_forces) = (c(state_at(scale * pos)) for c in (one, here))
            assert energy == pytest.approx(expected, abs=1e-6)
            np.testing.assert_allclose(forces, expected_forces, atol=1e-5)


@pytest.mark.parametrize("arguments", [{"device": "cpu"}, {"device": None}])
def test_argument_of_the_potential(model_path, molecule, arguments):
    from openmmml import MLPotential

    from tests.simulation.test_openmm import energy_and_forces, topology_of

    z, pos = molecule
    with pytest.raises(ValueError, match="device was given, but as in openmm-ml"):
        MLPotential("dkmp", modelPath=str(model_path), device="cpu")
    potential = MLPotential("dkmp", modelPath=str(model_path))
    if BACKEND == "torchforce" and arguments["device"]:
        with pytest.raises(ValueError, match=r"device: 'cpu' was given, but .*: the platform decides"):
            potential.createSystem(topology_of(z), **arguments)
        return
    reference = openmm.Platform.getPlatformByName("Reference")
    energies = [
        energy_and_forces(potential.createSystem(topology_of(z), **given), pos, reference)[0]
        for given in ({}, arguments)
    ]
    assert energies[1] == pytest.approx(energies[0], abs=1e-6)
    if BACKEND == "pythonforce":
        with pytest.raises(ValueError, match="device: 'gpu' was given, one of cpu"):
            potential.createSystem(topology_of(z), device="gpu")
