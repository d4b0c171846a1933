"""DKMP^R relative to a reference: which one is used, what it makes possible, and what is refused."""

import pytest
import torch

from dkmp_plugin.models import DKMPR
from dkmp_plugin.models.canonical_frame import centroids, superposition_frames
from dkmp_plugin.training.displacement import Displacement
from dkmp_plugin.training.displacement_model import DisplacementModel
from tests.models.contract import rotation


def create_model(canonical_frame: str, memory: bool = False) -> DisplacementModel:
    """A small model in float64 whose head has been given weights."""
    torch.manual_seed(0)
    representation = DKMPR(16, 2, 4, 8, max_z=20, canonical_frame=canonical_frame)
    head = Displacement(16, num_vectors=representation.num_vectors, memory=memory, max_z=20)
    model = DisplacementModel(representation, head).double().eval()
    torch.nn.init.normal_(head.last.weight)
    torch.nn.init.normal_(head.factors.weight)
    return model


@pytest.fixture
def moved(molecule):
    """Another conformation of the molecule."""
    pos = molecule[1]
    return pos + 0.3 * torch.randn(pos.shape, generator=torch.Generator().manual_seed(1), dtype=pos.dtype)


def test_superposition_equals_scipy(molecule, moved):
    """Two systems at once, one of them a mirror image: only proper rotations are allowed."""
    from scipy.spatial.transform import Rotation

    pos = molecule[1]
    batch = torch.repeat_interleave(torch.arange(2), len(pos))
    structures = torch.cat([moved @ rotation(1).T, moved * torch.tensor([1.0, 1.0, -1.0])])
    reference = torch.cat([pos, pos])
    centered = structures - centroids(structures, batch, 2)[batch]
    targets = reference - centroids(reference, batch, 2)[batch]
    frames = superposition_frames(centered, targets, batch, 2)
    for system in range(2):
        part = batch == system
        expected = Rotation.align_vectors(targets[part].numpy(), centered[part].numpy())[0].as_matrix()
        assert torch.allclose(frames[system], torch.from_numpy(expected).T, atol=1e-9)


@pytest.mark.parametrize("canonical_frame", ["first", "mean"])
def test_orientation_of_the_reference_does_not_matter(canonical_frame, molecule, moved):
    z, pos = molecule
    model = create_model(canonical_frame)
    expected = model(z, moved, extra_args={"reference": pos})[0]
    turned = model(z, moved @ rotation(2).T, extra_args={"reference": pos @ rotation(3).T + 5.0})[0]
    assert torch.allclose(turned, expected @ rotation(2).T, atol=1e-9)
    assert not torch.allclose(model(z, moved)[0], expected, atol=1e-3)


def test_mean_structure_is_kept_and_saved(molecule, moved):
    z, pos = molecule
    model = create_model("mean").train()
    model(
        z.repeat(2),
        torch.cat([pos, moved]),
        torch.arange(2).repeat_interleave(len(z)),
        extra_args={"reference": torch.cat([pos, pos])},
    )
    model.eval()
    kept = model(z, moved, extra_args={"reference": moved})[0]
    assert torch.equal(kept, model(z, moved)[0])
    fresh = create_model("mean")
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(z, moved)[0], kept)
    assert torch.equal(fresh.representation_model.reference.stored, pos)
    with pytest.raises(ValueError, match=r"mean structure of this model has \d+ atoms"):
        model(z[:-1], moved[:-1])
    with pytest.raises(ValueError, match="set reference: mean in dataset_arg"):
        create_model("mean").train()(z, pos)


def test_the_atoms_of_the_mean_structure_are_those_of_the_training(molecule, moved):
    """The same number of atoms is not enough; models saved before numbers were kept take what they took."""
    z, pos = molecule
    model = create_model("mean").train()
    model(z, moved, extra_args={"reference": pos})
    model.eval()
    expected = model(z.repeat(2), moved.repeat(2, 1), torch.arange(2).repeat_interleave(len(z)))[0]
    other = z.clone()
    other[2] = 9
    with pytest.raises(ValueError, match=f"atom 2 has atomic number 9, in the mean .* {int(z[2])}; give"):
        model(other, moved)
    fresh = create_model("mean")
    fresh.load_state_dict(model.state_dict())
    with pytest.raises(ValueError, match="atom 2 has atomic number 9"):
        fresh(other, moved)
    old = {name: value for name, value in model.state_dict().items() if not name.endswith("numbers")}
    assert len(old) == len(model.state_dict()) - 1
    fresh = create_model("mean")
    fresh.load_state_dict(old)
    assert torch.allclose(fresh(z, moved)[0], expected[: len(z)], atol=1e-9)
    fresh(other, moved)


def test_deviation_that_relaxes_can_be_learned(molecule, moved):
    """The factors alone express relaxation to the reference, whatever the orientation."""
    z, pos = molecule
    model = create_model("first")
    head = model.output_model
    for parameter in (head.last.weight, head.last.bias, head.factors.weight, head.factors.bias):
        torch.nn.init.zeros_(parameter)
    head.factors.bias.data[0] = -1.0
    reached = moved + model(z, moved, extra_args={"reference": pos})[0]
    centered, target = moved - moved.mean(0), pos - pos.mean(0)
    batch = torch.zeros_like(z)
    frame = superposition_frames(centered, target, batch, 1)[0]
    assert torch.allclose(reached, target @ frame.T + moved.mean(0), atol=1e-9)


def test_memory(molecule, moved):
    z, pos = molecule
    model = create_model("first", memory=True)
    model.output_model.memory.data[6] = -0.5 / model.output_model.memory_scale
    without = model(z, moved, extra_args={"reference": pos})[0]
    remembered = model(z, moved, extra_args={"reference": pos, "previous": pos})[0]
    expected = torch.where((z == 6).unsqueeze(1), -0.5 * (moved - pos), torch.zeros_like(pos))
    assert torch.allclose(remembered - without, expected, atol=1e-12)
    with pytest.raises(ValueError, match="set previous: true in dataset_arg"):
        model.train()(z, moved, extra_args={"reference": pos})


def test_training_without_the_first_frame_is_refused(molecule):
    """A frame that is its own reference is never anywhere else."""
    with pytest.raises(ValueError, match="set reference: first in dataset_arg"):
        create_model("first").train()(*molecule)
