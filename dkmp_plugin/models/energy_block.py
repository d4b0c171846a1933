"""The energy head of DKMP^C's revision 6: energies of atoms from their features, by one hidden layer."""

from typing import Tuple

import torch
from torch import Tensor, nn

from dkmp_plugin.models.gated_block import norm_of_components
from dkmp_plugin.models.initial_weights import reset_linear_maps
from dkmp_plugin.models.linear_map import LinearMap
from dkmp_plugin.models.stretched_activation import StretchedActivation


class EnergyBlock(nn.Module):
    """One output per atom from its scalars and the softened lengths of projections of its spherical features.

    Takes the place of the two gated blocks in torchmd-net's ``EquivariantScalar``, whose three activations
    in a row made the force of a stretched bond five times as rough without making it more accurate.

    Args:
        hidden_channels: Width d.
        activation: Name of the activation function.
        stretch: Of :class:`StretchedActivation`.
        softening: Of :func:`norm_of_components`.
        dtype: Floating-point type.
    """

    def __init__(
        self, hidden_channels: int, activation: str, stretch: float, softening: float, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.softening = softening
        self.vector_projection = LinearMap(hidden_channels, hidden_channels, bias=False, dtype=dtype)
        self.hidden = LinearMap(2 * hidden_channels, hidden_channels, dtype=dtype)
        self.activation = StretchedActivation(activation, stretch)
        self.energy = LinearMap(hidden_channels, 1, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform weights, biases at zero; energies start small, because molecules sum over many."""
        reset_linear_maps(self.vector_projection, self.hidden, self.energy)
        with torch.no_grad():
            self.energy.weight *= 0.1

    def forward(self, x: Tensor, v: Tensor) -> Tuple[Tensor, Tensor]:
        """Energies of the atoms.

        Args:
            x: Scalar features, shape (N, d).
            v: Spherical features, shape (N, components, d).

        Returns:
            Energies, shape (N, 1), and ``v`` as it came, as the gated blocks return their vectors.
        """
        lengths = norm_of_components(self.vector_projection(v), self.softening)
        features = torch.cat([x, lengths], dim=-1)
        energies = self.activation.between(
            features, self.hidden.weight, self.hidden.bias, self.energy.weight, self.energy.bias
        )
        return energies, v
