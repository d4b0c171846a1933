"""What DKMP^R must satisfy: equivariance, batching, padding, scripting, and the settings it refuses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dkmp_plugin.config import PARTITIONS
from dkmp_plugin.models import DKMPR
from dkmp_plugin.models.neighbor_distances import neighbor_distances
from dkmp_plugin.models.partition import rank_columns
from dkmp_plugin.models.spatial_order import spatial_order
from dkmp_plugin.training.displacement import Displacement
from dkmp_plugin.training.displacement_model import DisplacementModel, batched_ranks
from tests.models.contract import rotation

SHIFT = torch.tensor([3.0, -8.0, 40.0], dtype=torch.float64)
VARIANTS = (
    {},
    {"attention_variant": "literal", "num_frequencies": 0},
    {"canonical_frame": "first"},
    {"canonical_frame": "none"},
    {"canonical_frame": "none", "partition": "random"},
)


def create_model(seed: int = 0, **changes) -> DisplacementModel:
    """A small model in float64 whose head has been given weights (a fresh one predicts zero)."""
    torch.manual_seed(seed)
    representation = DKMPR(16, 2, 4, 8, max_z=20, **changes)
    model = DisplacementModel(representation, Displacement(16, num_vectors=representation.num_vectors))
    torch.nn.init.normal_(model.output_model.last.weight)
    if representation.num_vectors:
        torch.nn.init.normal_(model.output_model.factors.weight)
    return model.double().eval()


def displacement(model, z, pos, batch=None, box=None):
    return model(z, pos, batch, box)[0]


@pytest.mark.parametrize("changes", VARIANTS)
def test_translation(changes, molecule):
    z, pos = molecule
    model = create_model(**changes)
    expected = displacement(model, z, pos)
    assert expected.shape == pos.shape and expected.abs().max() > 1e-2
    assert torch.allclose(displacement(model, z, pos + SHIFT), expected, atol=1e-9)


@pytest.mark.parametrize("changes", VARIANTS[:3])
def test_canonical_frame_makes_rotations_exact(changes, molecule):
    z, pos = molecule
    model = create_model(**changes)
    expected = displacement(model, z, pos)
    for seed in range(4):
        turned = displacement(model, z, pos @ rotation(seed).T + SHIFT)
        assert torch.allclose(turned, expected @ rotation(seed).T, atol=1e-9)


def test_without_canonical_frame_rotations_matter(molecule):
    z, pos = molecule
    model = create_model(canonical_frame="none")
    turned = displacement(model, z, pos @ rotation(1).T)
    assert not torch.allclose(turned, displacement(model, z, pos) @ rotation(1).T, atol=1e-3)


@pytest.mark.parametrize("changes", VARIANTS)
def test_permutation(changes, molecule):
    z, pos = molecule
    model = create_model(**changes)
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(0))
    expected = displacement(model, z, pos)[order]
    assert torch.allclose(displacement(model, z[order], pos[order]), expected, atol=1e-9)


@settings(deadline=None, max_examples=20)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4), seed=st.integers(0, 1000))
def test_batch_equals_single_systems_also_small_ones(sizes, seed):
    """Systems with fewer than M + 1 = 9 atoms are padded, down to a single atom."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randint(1, 9, (sum(sizes),), generator=generator)
    pos = 4 * torch.randn(sum(sizes), 3, generator=generator, dtype=torch.float64)
    batch = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    model = create_model()
    together = displacement(model, z, pos, batch)
    assert torch.isfinite(together).all()
    first = 0
    for size in sizes:
        part = slice(first, first + size)
        # The frame of one or two atoms is arbitrary, but a function of the system alone.
        assert torch.allclose(displacement(model, z[part], pos[part]), together[part], atol=1e-8)
        first += size


def test_every_layer_sees_its_own_ranks(molecule):
    """Moving the farthest neighbour matters only through the layer that sees it."""
    z, pos = molecule
    representation = create_model(canonical_frame="none").representation_model
    neighbors = representation.distance(pos, torch.zeros_like(z), None)
    batch = torch.zeros_like(z)
    before = representation.encode(z, pos, batch, neighbors)[0]
    for column in (0, 4):
        changed = neighbors.clone()
        changed[:, column] = -1
        assert not torch.allclose(representation.encode(z, pos, batch, changed)[0], before, atol=1e-6)
    wider = torch.cat([neighbors, neighbors[:, :1]], 1)
    assert torch.equal(representation.encode(z, pos, batch, wider)[0], before)


def test_partitions():
    """Mutually exclusive, ordered and complete is the dilated one; the others break what they should."""
    dilated, one_shot, random, reuse = (rank_columns(name, 3, 8) for name in PARTITIONS)
    assert dilated.flatten().tolist() == list(range(24))
    assert (one_shot == torch.arange(8)).all()
    assert sorted(random.flatten().tolist()) == list(range(24)) and not torch.equal(random, dilated)
    for layer in (1, 2):
        assert len(set(reuse[layer].tolist()) & set(reuse[layer - 1].tolist())) == 2
    with pytest.raises(ValueError, match="partition: 'nearest'"):
        rank_columns("nearest", 3, 8)


def test_given_ranks_are_used_and_count_from_each_system(molecule):
    z, pos = molecule
    model = create_model()
    moved = pos + 0.4 * torch.randn(pos.shape, generator=torch.Generator().manual_seed(3), dtype=pos.dtype)
    ranks = model.representation_model.distance(pos, torch.zeros_like(z), None)
    kept = model(z, moved, extra_args={"neighbors": ranks.int()})[0]
    assert not torch.allclose(kept, displacement(model, z, moved), atol=1e-6)
    both = model(
        torch.cat([z, z]),
        torch.cat([pos, moved]),
        torch.repeat_interleave(torch.arange(2), len(z)),
        extra_args={"neighbors": torch.cat([ranks, ranks])},
    )[0]
    assert torch.allclose(both[len(z) :], kept, atol=1e-9)
    local = torch.tensor([[1, -1], [0, -1], [-1, -1]])
    assert batched_ranks(local, torch.tensor([0, 0, 1])).tolist() == [[1, -1], [0, -1], [-1, -1]]
    assert batched_ranks(local[:2].repeat(2, 1), torch.tensor([0, 0, 1, 1])).tolist()[2:] == [
        [3, -1],
        [2, -1],
    ]


def test_periodic_images_do_not_matter(molecule):
    """Ranks and distances are those of nearest images: no atom may notice where the box begins."""
    z, pos = molecule
    box = torch.diag(torch.tensor([7.0, 8.0, 9.0], dtype=torch.float64))
    representation = create_model(canonical_frame="none").representation_model
    batch = torch.zeros_like(z)
    image = pos.clone()
    image[4] += box[0] - 2 * box[2]
    assert torch.equal(representation.distance(pos, batch, box), representation.distance(image, batch, box))
    columns = representation.distance(pos, batch, box)
    for lattice in (box, box.unsqueeze(0)):
        before = neighbor_distances(pos, pos, columns, batch, lattice)
        assert torch.allclose(neighbor_distances(image, image, columns, batch, lattice), before, atol=1e-9)


def test_distances_to_what_is_no_number_are_none_either():
    pos = torch.tensor([[0.0, 0.0, 0.0], [float("nan"), 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 3.0, 4.0]])
    distances = neighbor_distances(pos, pos[:1], torch.tensor([[1, 2, 3, -1]]), torch.zeros(1).long(), None)
    assert distances[0, 0].isnan() and distances[0, 1:].tolist() == [0.0, 5.0, 0.0]


@pytest.mark.parametrize("changes", VARIANTS)
def test_scripted_equals_eager(changes, molecule):
    z, pos = molecule
    representation = create_model(**changes).representation_model
    batch = torch.zeros_like(z)
    scripted = torch.jit.script(representation)
    for _ in range(3):  # the profiling executor optimises in its second and third call
        assert torch.allclose(scripted(z, pos, batch)[0], representation(z, pos, batch)[0], atol=1e-9)


def test_fresh_head_is_persistence_and_every_weight_gets_a_gradient(molecule):
    z, pos = molecule
    for changes in VARIANTS:
        model = create_model(**changes).train()
        vectors = model.representation_model.num_vectors
        fresh = DisplacementModel(model.representation_model, Displacement(16, num_vectors=vectors)).double()
        items = {"reference": pos}
        assert fresh(z, pos, extra_args=items)[0].abs().max() == 0
        trained = create_model(**changes).train()
        trained(z, pos, extra_args=items)[0].square().sum().backward()
        for name, parameter in trained.named_parameters():
            assert not parameter.requires_grad or parameter.grad is not None, name
        assert trained.representation_model.trained_elements.nonzero().flatten().tolist() == [1, 6, 8]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"canonical_frame": "pca"}, "canonical_frame: 'pca'"),
        ({"attention_variant": "both"}, "attention_variant: 'both'"),
        ({"num_neighbors": 1, "num_layers": 2}, "at least one neighbour for each of the 2 layers"),
        ({"num_heads": 5}, "num_heads: 5 .* divisor"),
        ({"num_heads": 1}, "even number"),
    ],
)
def test_impossible_settings(changes, message):
    arguments = {"hidden_channels": 16, "num_layers": 2, "num_heads": 4, "num_neighbors": 8, **changes}
    with pytest.raises(ValueError, match=message):
        DKMPR(**arguments)


def test_too_few_ranks(molecule):
    z, pos = molecule
    with pytest.raises(ValueError, match="3 columns, the model uses 8"):
        create_model()(z, pos, extra_args={"neighbors": torch.zeros(len(z), 3, dtype=torch.int64)})


@pytest.mark.parametrize("variant", ["split", "literal"])
@pytest.mark.parametrize("boxed", [False, True])
def test_blocks_change_nothing(variant, boxed):
    torch.manual_seed(0)
    model = DKMPR(16, 2, 4, 8, attention_variant=variant, num_frequencies=4, dtype=torch.float64).eval()
    z, pos = torch.full((23,), 6), 4 * torch.randn(23, 3, dtype=torch.float64)
    batch = torch.tensor([0] * 12 + [1] * 11)
    box = torch.stack([12 * torch.eye(3), 14 * torch.eye(3)]).double() if boxed else None
    whole = model(z, pos, batch, box)[0]
    for module in (model, *model.layers):
        module.block_size = 5
    torch.testing.assert_close(model(z, pos, batch, box)[0], whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model.train()(z, pos, batch, box)[0], whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("changes", [{}, {"attention_variant": "literal"}, {"canonical_frame": "first"}])
@pytest.mark.parametrize("boxed", [False, True])
def test_order_of_large_systems_changes_nothing(changes, boxed):
    model = create_model(num_frequencies=4, **changes)
    torch.manual_seed(1)
    # The smaller system lacks neighbours: entries -1.
    z, pos = torch.randint(1, 9, (17,)), 6 * torch.randn(17, 3, dtype=torch.float64)
    batch = torch.tensor([0] * 12 + [1] * 5)
    box = torch.stack([12 * torch.eye(3), 14 * torch.eye(3)]).double() if boxed else None
    as_given = displacement(model, z, pos, batch, box)
    model.representation_model.reordered_from = 0
    reordered = displacement(model, z, pos, batch, box)
    torch.testing.assert_close(reordered, as_given, rtol=1e-12, atol=1e-12)
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(reordered.square().sum(), parameters, allow_unused=True)
    assert any(gradient is not None and gradient.abs().max() > 0 for gradient in gradients)
    with torch.no_grad():
        torch.testing.assert_close(
            displacement(model, z, pos, batch, box), as_given.detach(), rtol=0, atol=1e-12
        )


def test_spatial_order_keeps_systems_apart_and_neighbours_together():
    torch.manual_seed(0)
    grid = torch.cartesian_prod(*[torch.arange(8.0)] * 3)[torch.randperm(512)]
    pos, batch = torch.cat([grid, grid + 100]), torch.arange(2).repeat_interleave(512)
    order = spatial_order(pos, batch)
    assert torch.equal(order.sort().values, torch.arange(1024))
    assert torch.equal(batch[order], batch)
    # 64 atoms fill one cell of 4 Å: along the order few steps leave it.
    steps = pos[order].diff(dim=0).norm(dim=1)[:511]
    assert steps.median() < 3.0 < grid.diff(dim=0).norm(dim=1).median()
    assert len(spatial_order(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))) == 0


def test_lattice_vectors_need_not_be_short_and_one_box_may_serve_all_systems(molecule):
    z, pos = molecule
    model = create_model(canonical_frame="none").double()
    batch = torch.arange(len(z)) // (len(z) // 2 + 1)
    box = torch.diag(torch.tensor([7.0, 8.0, 9.0], dtype=torch.float64))
    skewed = torch.tensor([[1, 0, 0], [2, 1, 0], [-3, 4, 1]], dtype=torch.float64) @ box
    expected = displacement(model, z, pos, batch, box)
    for lattice in (skewed, skewed.unsqueeze(0), torch.stack([box, skewed])):
        torch.testing.assert_close(displacement(model, z, pos, batch, lattice), expected, rtol=0, atol=1e-9)
