"""With static shapes no step of a model depends on the positions: what capturing it in a CUDA graph needs.

Checked on the CPU by following every operator. Inside, the native operators read what they like here; on a
GPU their launchers are checked by tests/kernels.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dkmp_plugin import ops
from dkmp_plugin.simulation.export import EnergyModel, export_model
from dkmp_plugin.simulation.force_module import OpenMMEnergy, fix_shapes
from dkmp_plugin.simulation.model_file import load_model_file, read_model_info
from dkmp_plugin.training.checkpoint import load_checkpoint
from tests.conftest import ROOT
from tests.simulation.conftest import write_checkpoint

# Operators that read a tensor on the host, or whose result's shape depends on values.
FORBIDDEN = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "unique",
    "repeat_interleave.Tensor",
    "is_nonzero",
    "equal.default",
    "bincount",
)


class Tracer(TorchDispatchMode):
    """Records every operator and the shapes of its results."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        tensors = result if isinstance(result, (tuple, list)) else (result,)
        shapes = tuple(tuple(t.shape) for t in tensors if isinstance(t, torch.Tensor))
        self.steps.append((str(function), shapes))
        return result

    @property
    def forbidden(self):
        return [name for name, _ in self.steps if any(word in name for word in FORBIDDEN)]


@pytest.fixture(scope="module")
def energy_model(tmp_path_factory):
    """The model that is exported, not yet scripted, and the exported file."""
    folder = tmp_path_factory.mktemp("static")
    write_checkpoint(folder / "model.ckpt", precision=32, num_layers=4, num_shells=2)
    export_model(folder / "model.ckpt", folder / "model.pt")
    return EnergyModel(load_checkpoint(folder / "model.ckpt")[0]).eval(), folder / "model.pt"


def trace(model, path, molecule, scale):
    """The steps of an energy and its forces, at positions that have more or fewer neighbours."""
    z, pos = molecule
    module = OpenMMEnergy(model, read_model_info(path), z, torch.arange(1, 1 + len(z)))
    everything = torch.cat([torch.zeros(1, 3), scale * pos.float() / 10])
    everything.requires_grad_(True)
    with Tracer() as tracer:
        energy = module(everything)
        (gradient,) = torch.autograd.grad(energy, everything)
    return tracer, energy, gradient


@pytest.mark.skipif(not ops.status().native, reason="the reference operators read what they like")
def test_no_step_depends_on_the_positions(energy_model, molecule):
    model, path = energy_model
    near, energy, gradient = trace(model, path, molecule, 1.0)
    far, *_ = trace(model, path, molecule, 2.5)
    assert near.steps != far.steps  # without static shapes they do

    assert fix_shapes(model, len(molecule[0]))
    static, static_energy, static_gradient = trace(model, path, molecule, 1.0)
    assert len(static.steps) > 100 and not static.forbidden
    assert static.steps == trace(model, path, molecule, 2.5)[0].steps
    assert static_energy.item() == pytest.approx(energy.item(), rel=1e-6)
    torch.testing.assert_close(static_gradient, gradient, rtol=1e-5, atol=1e-4)


def test_tracer_sees_what_is_forbidden():
    with Tracer() as tracer:
        ones = torch.ones(3)
        ones.sum().item()
        ones[ones > 0].sum()
        torch.nonzero(ones)
    assert len(tracer.forbidden) >= 2


def test_exported_files_can_be_fixed_and_older_ones_cannot(energy_model, molecule):
    _, path = energy_model
    z, pos = molecule
    model, _ = load_model_file(path)
    free = model(z, pos.float(), None).item()
    assert fix_shapes(model, len(z))
    assert model(z, pos.float(), None).item() == pytest.approx(free, rel=1e-6)
    old, _ = load_model_file(ROOT / "tests" / "simulation" / "fixtures" / "format_1.pt")
    assert not fix_shapes(old, len(z))


def test_argument_of_the_potential(energy_model, molecule):
    from dkmp_plugin.simulation.stack import prepare_backend

    prepare_backend()
    import openmm
    from openmmml import MLPotential

    from tests.simulation.test_openmm import energy_and_forces, topology_of

    z, pos = molecule
    energies = []
    for static in (None, True, False):
        potential = MLPotential("dkmp", modelPath=str(energy_model[1]), staticShapes=static)
        system = potential.createSystem(topology_of(z))
        energies.append(energy_and_forces(system, pos, openmm.Platform.getPlatformByName("Reference"))[0])
    assert energies[0] == pytest.approx(energies[2], abs=1e-3) and energies[0] == energies[1]
    potential = MLPotential("dkmp", modelPath=str(energy_model[1]), staticShapes=True)
    with pytest.raises(ValueError, match="modelled as a whole"):
        potential.createSystem(topology_of(z, 20 * torch.eye(3)))
    old = ROOT / "tests" / "simulation" / "fixtures" / "format_1.pt"
    with pytest.raises(ValueError, match="exported by an older dkmp_plugin"):
        MLPotential("dkmp", modelPath=str(old), staticShapes=True).createSystem(topology_of(z))
    MLPotential("dkmp", modelPath=str(old)).createSystem(topology_of(z))


def test_a_model_with_a_constant_box_gets_no_fixed_shapes(molecule, tmp_path):
    """In a box smaller than the cutoff each pair meets many times."""
    from dkmp_plugin.simulation.stack import prepare_backend

    prepare_backend()
    import openmm
    from openmmml import MLPotential

    from tests.simulation.test_openmm import energy_and_forces, topology_of

    z, pos = molecule
    write_checkpoint(tmp_path / "box.ckpt", box_vecs=[[4.0, 0, 0], [0, 4.0, 0], [0, 0, 4.0]])
    export_model(tmp_path / "box.ckpt", tmp_path / "box.pt", dtype="float64")
    reference = openmm.Platform.getPlatformByName("Reference")
    energies = []
    for options in ({"staticShapes": False}, {}, {"skin": 1.0}):
        system = MLPotential("dkmp", modelPath=str(tmp_path / "box.pt"), **options).createSystem(
            topology_of(z)
        )
        energies.append(energy_and_forces(system, pos, reference)[0])
    assert energies == pytest.approx([energies[0]] * 3, abs=1e-8)
    potential = MLPotential("dkmp", modelPath=str(tmp_path / "box.pt"), staticShapes=True)
    with pytest.raises(ValueError, match=r"staticShapes: True.*box\.pt was trained with box_vecs"):
        potential.createSystem(topology_of(z))
