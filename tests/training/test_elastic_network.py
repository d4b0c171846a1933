"""The metric in which errors along soft displacements are longer than those along stiff ones."""

import pytest
import torch
from scipy.spatial.transform import Rotation

from dkmp_plugin.training.elastic_network import elastic_lengths


def random_structure(count, seed=0):
    """Atoms at least 1 Å apart, float64."""
    random = torch.Generator().manual_seed(seed)
    grid = torch.cartesian_prod(*3 * [torch.arange(4.0, dtype=torch.float64)])[:count]
    return 1.8 * grid + 0.4 * torch.rand(count, 3, dtype=torch.float64, generator=random)


def springs(pos, constants):
    """Energy of springs between all pairs, at rest at ``pos``: a function of displacements (3N,)."""
    i, j = torch.triu_indices(len(pos), len(pos), 1)
    rest = (pos[i] - pos[j]).norm(dim=1)

    def energy(displacement):
        moved = pos + displacement.view(-1, 3)
        return 0.5 * (constants * ((moved[i] - moved[j]).norm(dim=1) - rest) ** 2).sum()

    return energy


def lengths(values, pos, box=None):
    return elastic_lengths(values, pos, torch.zeros(len(pos), dtype=torch.long), box)


def test_atoms_in_one_place_do_not_end_a_training():
    pos = random_structure(9)
    for distance in (1e-4, 0.0):
        pos[1] = pos[0] + torch.tensor([distance, 0.0, 0.0])
        assert torch.isfinite(lengths(torch.ones(9, 3, dtype=torch.float64), pos)).all()


def test_is_how_much_a_force_moves_a_network_of_springs():
    pos = random_structure(9)
    distances = torch.pdist(pos)
    energy = springs(pos, torch.where(distances < 8.0, distances**-6, 0.0))
    hessian = torch.autograd.functional.hessian(energy, torch.zeros(27, dtype=torch.float64))
    hessian = hessian + 1e-4 * torch.eye(27, dtype=torch.float64)
    eigenvalues, modes = torch.linalg.eigh(hessian)
    # Six rigid displacements come first; they are as stiff as a bond of 1 Å.
    stiffness = torch.cat([eigenvalues[:6] + 1.0, eigenvalues[6:]])
    values = torch.randn(9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    amplitudes = modes.T @ values.flatten()
    expected = ((amplitudes**2 / stiffness).sum() / (1.0 / stiffness).sum()).sqrt()
    torch.testing.assert_close(lengths(values, pos), expected.view(1))


def test_soft_displacements_are_long_stiff_and_rigid_ones_short():
    # A bent chain: its ends far apart, its bonds stiff.
    pos = torch.tensor([[0.0, 0, 0], [1.5, 0, 0], [2.0, 1.4, 0], [3.5, 1.5, 0.2], [4.0, 2.9, 0.4]]).double()
    direction = torch.nn.functional.normalize(pos[4] - pos[0], dim=0)
    stretched_bond, moved_ends = torch.zeros(2, 5, 3, dtype=torch.float64)
    stretched_bond[0, 0], stretched_bond[1, 0] = -1.0, 1.0
    moved_ends[0], moved_ends[4] = -direction, direction
    turned = torch.linalg.cross(torch.tensor([[0.3, 0.5, 1.0]]).double().expand(5, 3), pos - pos.mean(0))
    stiff, soft, rotation, translation = (
        lengths(x / x.norm(), pos).item()
        for x in (stretched_bond, moved_ends, turned, torch.ones(5, 3, dtype=torch.float64))
    )
    assert soft > 5 * stiff
    assert max(rotation, translation) < stiff


def test_random_errors_have_length_one_on_average():
    pos, random = random_structure(40), torch.Generator().manual_seed(3)
    values = torch.randn(500, 40, 3, dtype=torch.float64, generator=random)
    squares = torch.stack([lengths(v, pos) for v in values]).square()
    assert squares.mean().item() == pytest.approx(1.0, abs=0.1)


def test_does_not_depend_on_place_orientation_or_what_else_is_in_the_batch():
    pos, other = random_structure(20), random_structure(13, seed=5)
    values, more = torch.randn(2, 20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    rotation = torch.tensor(Rotation.from_rotvec([0.3, -1.0, 2.0]).as_matrix())
    expected = torch.cat([lengths(values, pos), lengths(more[:13], other)])
    together = elastic_lengths(
        torch.cat([values, more[:13]]) @ rotation,
        torch.cat([pos, other]) @ rotation + 3.0,
        torch.tensor([0] * 20 + [1] * 13),
    )
    torch.testing.assert_close(together, expected)


def test_springs_reach_through_a_periodic_boundary():
    pos = random_structure(30)
    values = torch.randn(30, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    box = 9.0 * torch.eye(3, dtype=torch.float64)
    shifted = pos + 9.0 * torch.tensor([[1.0, 0.0, -2.0]] * 15 + [[0.0, 1.0, 0.0]] * 15)
    torch.testing.assert_close(lengths(values, shifted, box), lengths(values, pos, box))
    assert lengths(values, pos, box) != lengths(values, pos)


@pytest.mark.parametrize("pos", [[[1.0, 2.0, 3.0]], [[0.0, 0.0, 0.0], [0.0, 0.0, 1.1], [0.0, 0.0, 2.2]]])
def test_single_atoms_and_linear_molecules(pos):
    pos = torch.tensor(pos, dtype=torch.float64)
    values = torch.zeros_like(pos).requires_grad_(True)
    (gradient,) = torch.autograd.grad(lengths(values, pos).sum(), values)
    assert torch.equal(gradient, torch.zeros_like(pos))
    assert torch.isfinite(lengths(torch.ones_like(pos), pos)).all()
