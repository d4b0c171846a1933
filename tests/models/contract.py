"""What every potential of this package must satisfy: a mixin for test classes."""

import subprocess
import sys
from typing import Tuple

import pytest
import torch
from torch import Tensor

TOLERANCE = 1e-9


def rotation(seed: int) -> Tensor:
    """A proper rotation matrix (3, 3) in float64."""
    q, r = torch.linalg.qr(
        torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    )
    q = q * torch.sign(torch.diagonal(r))
    return q * torch.linalg.det(q)


def three_atoms(distance: float) -> Tuple[Tensor, Tensor]:
    """Atomic numbers and positions of a molecule whose last atom is pulled outwards."""
    pos = torch.tensor([[0.0, 0, 0], [0.7, 0.9, 0.2], [distance, 0, 0]], dtype=torch.float64)
    return torch.tensor([6, 8, 1]), pos


def hessian_vector_product(model: torch.nn.Module, distance: float) -> Tensor:
    """Change of all forces (3, 3) as the last atom of :func:`three_atoms` moves outwards, per Å."""
    z, pos = three_atoms(distance)
    # torchmd-net keeps the graph of the forces in training only.
    model.train()
    _, forces = model(z, pos.requires_grad_(True), torch.zeros_like(z))
    model.eval()
    # Row (last atom, x) of the symmetric Hessian.
    (product,) = torch.autograd.grad(forces[2, 0], pos)
    return product


class PotentialContract:
    """Inherit and define ``create_model(dtype)`` and ``borders`` (Å, where shells meet, and the cutoff)."""

    borders: Tuple[float, ...] = ()

    def create_model(self, dtype: torch.dtype = torch.float64) -> torch.nn.Module:
        raise NotImplementedError

    def evaluate(self, model, z, pos, batch=None) -> Tuple[Tensor, Tensor]:
        batch = torch.zeros_like(z) if batch is None else batch
        return model(z, pos.clone(), batch)

    @pytest.fixture
    def model(self):
        torch.manual_seed(7)
        return self.create_model().eval()

    def test_rotation_translation_and_reflection(self, model, molecule):
        z, pos = molecule
        energy, forces = self.evaluate(model, z, pos)
        assert forces.abs().max() > 1e-4  # a model without forces would pass everything below
        for matrix in (rotation(1), rotation(2), -rotation(3)):
            turned_energy, turned_forces = self.evaluate(
                model, z, pos @ matrix.T + torch.tensor([3.0, -8.0, 40.0])
            )
            assert torch.allclose(turned_energy, energy, atol=TOLERANCE)
            assert torch.allclose(turned_forces, forces @ matrix.T, atol=TOLERANCE)

    def test_permutation(self, model, molecule):
        z, pos = molecule
        order = torch.randperm(len(z), generator=torch.Generator().manual_seed(0))
        energy, forces = self.evaluate(model, z, pos)
        permuted_energy, permuted_forces = self.evaluate(model, z[order], pos[order])
        assert torch.allclose(permuted_energy, energy, atol=TOLERANCE)
        assert torch.allclose(permuted_forces, forces[order], atol=TOLERANCE)

    def test_forces_are_minus_the_energy_gradient(self, model, molecule):
        z, pos = molecule
        _, forces = self.evaluate(model, z, pos)
        step = 1e-4
        for atom in range(len(z)):
            for axis in range(3):
                shift = torch.zeros_like(pos)
                shift[atom, axis] = step
                above, _ = self.evaluate(model, z, pos + shift)
                below, _ = self.evaluate(model, z, pos - shift)
                slope = (above - below).item() / (2 * step)
                assert forces[atom, axis].item() == pytest.approx(-slope, abs=1e-6)

    def test_forces_sum_to_zero(self, model, molecule):
        z, pos = molecule
        _, forces = self.evaluate(model, z, pos)
        assert torch.allclose(forces.sum(0), torch.zeros(3, dtype=forces.dtype), atol=TOLERANCE)

    def test_smooth_across_borders_and_cutoff(self, model):
        """Pull one atom of a three-atom molecule outwards past every border."""

        def at(distance):
            energy, forces = self.evaluate(model, *three_atoms(distance))
            return energy.item(), forces

        step = 1e-5
        for border in self.borders:
            (energy_in, forces_in), (energy_out, forces_out) = at(border - step), at(border + step)
            # Continuous: the change is the slope times the step, not a jump.
            expected = -(forces_in[2, 0] + forces_out[2, 0]).item() * step
            assert energy_out - energy_in == pytest.approx(expected, abs=1e-9)
            assert torch.allclose(forces_in, forces_out, atol=1e-3 * max(1.0, forces_in.abs().max().item()))

    def test_second_derivatives_are_continuous(self, model):
        """Hessian-vector products across every border, by differentiating the forces again."""
        for border in self.borders:
            inside, outside = (hessian_vector_product(model, border + step) for step in (-1e-6, 1e-6))
            assert torch.allclose(inside, outside, atol=1e-4 * max(1.0, inside.abs().max().item()))

    def test_systems_of_a_batch_do_not_see_each_other(self, model, molecule):
        z, pos = molecule
        energy, forces = self.evaluate(model, z, pos)
        other = pos * 1.1 + 0.3
        batch = torch.arange(2).repeat_interleave(len(z))
        energies, all_forces = self.evaluate(model, z.repeat(2), torch.cat([other, pos]), batch)
        assert torch.allclose(energies[1], energy[0], atol=TOLERANCE)
        assert torch.allclose(all_forces[len(z) :], forces, atol=TOLERANCE)

    def test_float32_agrees_with_float64(self, model, molecule):
        z, pos = molecule
        single = self.create_model(torch.float32).eval()
        single.load_state_dict(model.state_dict())
        energy, forces = self.evaluate(model, z, pos)
        single_energy, single_forces = self.evaluate(single, z, pos.float())
        assert single_forces.dtype == torch.float32
        assert torch.allclose(single_energy.double(), energy, atol=1e-4, rtol=1e-5)
        assert torch.allclose(single_forces.double(), forces, atol=1e-4, rtol=1e-3)

    def test_scripted_equals_eager(self, model, molecule):
        z, pos = molecule
        energy, forces = self.evaluate(model, z, pos)
        scripted_energy, scripted_forces = self.evaluate(torch.jit.script(model), z, pos)
        # Not bit for bit: what MKL rounds depends on where in memory its arguments lie.
        assert torch.allclose(scripted_energy, energy, rtol=1e-13, atol=0)
        assert torch.allclose(scripted_forces, forces, atol=1e-13)

    def test_loads_in_a_process_that_never_imports_the_plugin(self, model, molecule, tmp_path):
        """Through torchmd-net alone: the start-up hook has to do it."""
        z, pos = molecule
        energy, forces = self.evaluate(model, z, pos)
        hyper_parameters = self.hyper_parameters()
        state = {"model." + name: value for name, value in model.state_dict().items()}
        torch.save({"hyper_parameters": hyper_parameters, "state_dict": state}, tmp_path / "model.ckpt")
        torch.save((z, pos, energy.detach(), forces.detach()), tmp_path / "expected.pt")
        program = (
            "import sys, torch\n"
            "from torchmdnet.models.model import load_model\n"
            "z, pos, energy, forces = torch.load(sys.argv[2])\n"
            "model = load_model(sys.argv[1])\n"
            "e, f = model(z, pos)\n"
            "assert torch.allclose(e, energy) and torch.allclose(f, forces), (e, energy)\n"
        )
        command = [sys.executable, "-c", program, str(tmp_path / "model.ckpt"), str(tmp_path / "expected.pt")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr

    def test_double_backward(self, model, molecule):
        """The gradient of a force loss with respect to the weights, against finite differences."""
        z, pos = molecule
        model.train()

        def loss():
            energy, forces = self.evaluate(model, z, pos)
            return (energy**2).sum() + (forces**2).sum()

        loss().backward()
        weights = [p for p in model.parameters() if p.requires_grad]
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in weights)
        generator = torch.Generator().manual_seed(3)
        direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in weights]
        slope = sum((p.grad * d).sum() for p, d in zip(weights, direction, strict=True)).item()
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                for p, d in zip(weights, direction, strict=True):
                    p += step * d
            values.append(loss().item())
            with torch.no_grad():
                for p, d in zip(weights, direction, strict=True):
                    p -= step * d
        assert slope == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4)
