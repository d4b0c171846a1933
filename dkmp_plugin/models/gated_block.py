"""The gated equivariant block of torchmd-net's energy head, without steps that depend on the data."""

from typing import Tuple

import torch
from torch import Tensor, nn
from torchmdnet.models.utils import GatedEquivariantBlock

from dkmp_plugin.models.initial_weights import reset_linear_maps


def norm_of_components(vector: Tensor, softening: float = 0.0) -> Tensor:
    """Euclidean norm over the components; its gradient at zero is zero.

    Args:
        vector: Shape (N, components, d).
        softening: Length s of sqrt(|v|^2 + s^2) - s, which takes the place of the norm |v| where s is not
            zero. It is smooth at zero, where the norm has a cusp.

    Returns:
        Shape (N, d).
    """
    squared = (vector * vector).sum(dim=1)
    if softening > 0.0:
        return torch.sqrt(squared + softening * softening) - softening
    # What is no number must not become a length of zero.
    has_length = squared != 0.0
    # Not torch.linalg.vector_norm: along a dimension that is not the last it is slow on a CPU.
    length = torch.sqrt(torch.where(has_length, squared, torch.ones_like(squared)))
    return torch.where(has_length, length, torch.zeros_like(length))


class GatedBlock(nn.Module):
    """torchmd-net's ``GatedEquivariantBlock`` (Schütt et al. 2021, doi:10.48550/arXiv.2102.03150).

    Takes over the layers of the given block, so that parameters and their names are the same, and without
    softening computes the same function. torchmd-net selects the atoms whose vectors do not vanish, which
    waits for the device and cannot be captured in a CUDA graph; here every shape is known beforehand.

    Softening is what molecular dynamics needs. The features of an atom with one bond, a hydrogen, all lie
    along that bond, so as it vibrates some channel of its vectors often passes through zero, and there the
    cusp of the norm turns the force within a hundredth of an angstrom, which no time step resolves.

    Args:
        block: The block to replace.
        softening: Of :func:`norm_of_components`.
    """

    def __init__(self, block: GatedEquivariantBlock, softening: float = 0.0) -> None:
        super().__init__()
        self.softening = softening
        self.out_channels = block.out_channels
        self.vec1_proj = block.vec1_proj
        self.vec2_proj = block.vec2_proj
        self.update_net = block.update_net
        self.act = nn.Identity() if block.act is None else block.act

    def reset_parameters(self) -> None:
        """Xavier-uniform weights, as in torchmd-net."""
        reset_linear_maps(self.vec1_proj, self.vec2_proj)
        self.update_net.reset_parameters()

    def forward(self, x: Tensor, v: Tensor) -> Tuple[Tensor, Tensor]:
        """Gated update.

        Args:
            x: Scalar features, shape (N, d).
            v: Spherical features, shape (N, components, d).

        Returns:
            Scalars (N, out_channels) and spherical features (N, components, out_channels).
        """
        lengths = norm_of_components(self.vec1_proj(v), self.softening)
        x, gate = torch.split(self.update_net(torch.cat([x, lengths], dim=-1)), self.out_channels, dim=-1)
        return self.act(x), gate.unsqueeze(1) * self.vec2_proj(v)


def replace_gated_blocks(head: nn.Module, softening: float = 0.0) -> nn.Module:
    """Replace, in place, every gated block of a torchmd-net output head; returns the head."""
    for parent in list(head.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, GatedEquivariantBlock):
                setattr(parent, name, GatedBlock(child, softening))
    return head
