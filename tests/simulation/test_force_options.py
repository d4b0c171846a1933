"""Skin, fixed shapes and CUDA graphs: the forces stay what they are, and what excludes itself is refused."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dkmp_plugin.simulation.force_module import OpenMMEnergy, scripted
from dkmp_plugin.simulation.model_file import load_model_file
from dkmp_plugin.simulation.neighbor_reuse import ReusingModel
from dkmp_plugin.simulation.stack import prepare_backend
from tests.conftest import ROOT, ethanol
from tests.simulation.test_openmm import topology_of

BACKEND = prepare_backend()

import openmm  # noqa: E402
from openmm import unit  # noqa: E402
from openmmml import MLPotential  # noqa: E402

BOX = torch.tensor([[6.5, 0, 0], [1.0, 6.0, 0], [0.5, -0.8, 7.0]], dtype=torch.float64)
SKIN = 1.0
PLATFORMS = {openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())}
torchforce_only = pytest.mark.skipif(BACKEND != "torchforce", reason="PythonForce needs a GPU for it")


@pytest.fixture(scope="module")
def modules(model_path):
    """What OpenMM evaluates, frozen as TorchForce freezes it: with a skin and without."""
    frozen = []
    for skin in (SKIN, 0.0):
        model, info = load_model_file(model_path)
        module = OpenMMEnergy(ReusingModel(model, info, skin) if skin else model, info, ethanol()[0], None)
        frozen.append(torch.jit.freeze(scripted(module)))
    return frozen


def energy_and_gradient(module, pos, box):
    pos = (pos / 10).requires_grad_(True)
    energy = module(pos, None if box is None else box / 10)
    return energy.item(), torch.autograd.grad(energy, pos)[0]


@settings(max_examples=15, deadline=None)
@given(
    periodic=st.booleans(),
    steps=st.lists(st.tuples(st.floats(0.0, 0.7), st.sampled_from([1.0, 1.0, 1.0, 1.02])), max_size=6),
    seed=st.integers(0, 1000),
)
def test_searches_exactly_when_an_atom_has_moved_by_half_the_skin(modules, periodic, steps, seed):
    """One atom moves at each step, now and then the box changes; the forces are those of a fresh search."""
    generator = torch.Generator().manual_seed(seed)
    with_skin, fresh = modules
    pos = ethanol()[1]
    box = BOX.clone() if periodic else None
    energy_and_gradient(with_skin, 3.0 * pos, box)  # the list of the last example is of no use any more
    searched_at, searched_in, searches = 3.0 * pos, box, with_skin.model.neighbors.num_searches
    for length, scale in [(0.0, 1.0), *steps]:
        direction = torch.randn(3, generator=generator, dtype=torch.float64)
        atom = int(torch.randint(len(pos), (1,), generator=generator))
        pos = pos.clone()
        pos[atom] += length * direction / direction.norm()
        if box is not None:
            box = box * scale
        energy, gradient = energy_and_gradient(with_skin, pos, box)
        expected, expected_gradient = energy_and_gradient(fresh, pos, box)
        assert energy == pytest.approx(expected, rel=1e-12)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-10)
        # Seen from the first atom, as the model sees them all.
        moved = float(((pos - pos[:1]) - (searched_at - searched_at[:1])).norm(dim=1).max())
        assume(abs(moved - SKIN / 2) > 1e-9)  # rounding may decide either way
        if moved > SKIN / 2 or (box is not None and not torch.equal(box, searched_in)):
            searched_at, searched_in, searches = pos, box, searches + 1
        assert with_skin.model.neighbors.num_searches == searches


@pytest.mark.parametrize("platform", ["Reference", "OpenCL"])
def test_two_contexts_of_one_system(model_path, platform):
    """The list of one simulation does not reach the other; moved atoms and another box are noticed."""
    z, pos = ethanol()
    pos = pos.numpy() / 10
    if platform not in PLATFORMS:
        pytest.skip(f"OpenMM has no {platform} platform here")

    def contexts(count, skin):
        system = MLPotential("dkmp", modelPath=str(model_path), skin=skin).createSystem(topology_of(z, BOX))
        return [
            openmm.Context(
                system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName(platform)
            )
            for _ in range(count)
        ]

    generator = np.random.default_rng(0)
    starts = [pos, pos @ np.diag([1.0, -1.0, 1.1])]
    with_skin, (fresh,) = contexts(2, SKIN), contexts(1, 0.0)
    box = BOX.numpy() / 10
    for step in range(6):
        for context, start in zip(with_skin, starts, strict=True):
            moved = start + step * 0.02 * generator.standard_normal(pos.shape)
            states = []
            for one in (context, fresh):
                one.setPeriodicBoxVectors(*(box * (1.03 if step > 3 else 1.0)))
                one.setPositions(moved)
                states.append(one.getState(getEnergy=True, getForces=True))
            forces, expected_forces = (state.getForces(asNumpy=True)._value for state in states)
            assert np.abs(forces).max() > 1.0
            np.testing.assert_allclose(forces, expected_forces, atol=1e-8)
            energy, expected = (state.getPotentialEnergy()._value for state in states)
            assert energy == pytest.approx(expected, rel=1e-10)


def test_a_system_with_a_skin_is_saved_and_read(model_path, molecule, tmp_path):
    from dkmp_plugin.simulation import load_system

    z, pos = molecule
    system = MLPotential("dkmp", modelPath=str(model_path), skin=SKIN).createSystem(topology_of(z))
    (tmp_path / "system.xml").write_text(openmm.XmlSerializer.serialize(system))
    energies = []
    for one in (system, load_system(tmp_path / "system.xml")):
        platform = openmm.Platform.getPlatformByName("Reference")
        context = openmm.Context(one, openmm.VerletIntegrator(0.0005), platform)
        context.setPositions(pos.numpy() / 10)
        context.setVelocitiesToTemperature(300, 1)
        context.getIntegrator().step(20)
        energies.append(context.getState(getEnergy=True).getPotentialEnergy()._value)
    assert energies[0] == energies[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"skin": -0.1}, r"skin: -0\.1 was given, a length"),
        ({"skin": float("nan")}, "skin: nan"),
        ({"skin": "1"}, "skin: '1' was given, a number, of Å"),
        ({"skin": 0.1 * unit.nanometer}, "skin: .* was given, a number, of Å"),
        ({"useCUDAGraphs": "false"}, "useCUDAGraphs: 'false' was given, True or False"),
        ({"staticShapes": "no"}, "staticShapes: 'no' was given, True, False or None"),
        ({"skin": 1.0, "staticShapes": True}, "staticShapes=True, one of the two is expected"),
        ({"skin": 1.0, "useCUDAGraphs": True}, "useCUDAGraphs=True, one of the two is expected"),
        ({"useCUDAGraphs": True, "staticShapes": False}, "a CUDA graph has fixed shapes"),
    ],
)
def test_impossible_choices(arguments, message):
    with pytest.raises(ValueError, match=message):
        MLPotential("dkmp", **arguments)


def test_skin_with_a_file_of_an_earlier_version(molecule):
    old = ROOT / "tests" / "simulation" / "fixtures" / "format_1.pt"
    with pytest.raises(ValueError, match="exported by an older dkmp_plugin"):
        MLPotential("dkmp", modelPath=str(old), skin=1.0).createSystem(topology_of(molecule[0]))


class TestCudaGraphs:
    @torchforce_only
    def test_property_of_the_force(self, model_path, molecule):
        """It is set on request only, and platforms without CUDA compute as ever."""
        z, pos = molecule
        energies = []
        for use in (False, True):
            potential = MLPotential("dkmp", modelPath=str(model_path), useCUDAGraphs=use)
            system = potential.createSystem(topology_of(z))
            text = openmm.XmlSerializer.serialize(system)
            assert ('name="useCUDAGraphs" value="true"' in text) == use
            platform = openmm.Platform.getPlatformByName("CPU")
            context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
            context.setPositions(pos.numpy() / 10)
            energies.append(context.getState(getEnergy=True).getPotentialEnergy()._value)
        assert energies[0] == energies[1]

    @torchforce_only
    def test_fixes_the_shapes_of_large_molecules(self, model_path, monkeypatch, molecule):
        """Also of molecules that would not get fixed shapes by themselves."""
        from dkmp_plugin.simulation import force_module, force_options

        asked = []
        fix_shapes = force_module.fix_shapes
        monkeypatch.setattr(force_options, "MAX_STATIC_ATOMS", 5)
        monkeypatch.setattr(
            force_module, "fix_shapes", lambda model, atoms: asked.append(atoms) or fix_shapes(model, atoms)
        )
        topology = topology_of(molecule[0])
        MLPotential("dkmp", modelPath=str(model_path)).createSystem(topology)
        assert asked == []
        MLPotential("dkmp", modelPath=str(model_path), useCUDAGraphs=True).createSystem(topology)
        assert asked == [9]

    def test_refused_for_crystals_and_old_files(self, model_path, molecule):
        z, _ = molecule
        potential = MLPotential("dkmp", modelPath=str(model_path), useCUDAGraphs=True)
        with pytest.raises(ValueError, match=r"useCUDAGraphs: True was given for a periodic system"):
            potential.createSystem(topology_of(z, 20 * torch.eye(3)))
        old = ROOT / "tests" / "simulation" / "fixtures" / "format_1.pt"
        with pytest.raises(ValueError, match=r"useCUDAGraphs.*exported by an older dkmp_plugin"):
            MLPotential("dkmp", modelPath=str(old), useCUDAGraphs=True).createSystem(topology_of(z))


@pytest.mark.skipif(BACKEND == "torchforce", reason="TorchForce leaves that to OpenMM's platform")
@pytest.mark.parametrize("device", [None, "cpu"])
def test_python_force_needs_a_gpu_for_cuda_graphs(model_path, molecule, device):
    if device is None and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    potential = MLPotential("dkmp", modelPath=str(model_path), useCUDAGraphs=True)
    with pytest.raises(ValueError, match="useCUDAGraphs: True was given, but the model runs on the CPU"):
        potential.createSystem(topology_of(molecule[0]), device=device)
