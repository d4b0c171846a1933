"""The coordinate embedding of DKMP^R."""

import torch
from torch import Tensor, nn
from torchmdnet.models.utils import act_class_mapping

from dkmp_plugin.models.linear_map import LinearMap

# Wave lengths of the coordinate embedding are drawn around 2 pi / 0.3 Å: about the size of a residue.
_FREQUENCY_SCALE = 0.3
# A reference does not move: shorter waves tell bonded atoms apart.
_REFERENCE_FREQUENCY_SCALE = 1.0


class CoordinateEmbedding(nn.Module):
    """Structure features from centred coordinates (and, unless linear, from the element).

    A linear map of three numbers cannot tell neighbouring atoms apart to thermal precision, so the
    coordinates also enter as sines and cosines at random fixed frequencies (Tancik et al. 2020). With
    ``num_frequencies = 0`` the embedding is the paper's linear one. Where there is a reference structure its
    coordinates, which name the atom, are embedded together with the deviation from it.

    Args:
        hidden_channels: Width d.
        num_frequencies: Number of random plane waves.
        activation: torchmd-net name of the activation.
        has_reference: Whether deviations are given.
    """

    waves: Tensor

    def __init__(
        self, hidden_channels: int, num_frequencies: int, activation: str, has_reference: bool
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        scale = _REFERENCE_FREQUENCY_SCALE if has_reference else _FREQUENCY_SCALE
        waves = torch.randn(3, num_frequencies, generator=generator) * scale
        self.register_buffer("waves", waves)
        self.linear = num_frequencies == 0
        inputs = 3 if self.linear else 3 + 2 * num_frequencies + hidden_channels
        inputs += 3 if has_reference else 0
        self.first = LinearMap(inputs, hidden_channels if self.linear else 2 * hidden_channels)
        self.activation = act_class_mapping[activation]()
        self.second = nn.Identity() if self.linear else LinearMap(2 * hidden_channels, hidden_channels)

    def reset_parameters(self) -> None:
        """Draw all weights anew; the frequencies stay."""
        self.first.reset_parameters()
        if isinstance(self.second, nn.Linear):
            self.second.reset_parameters()

    def forward(self, coordinates: Tensor, elements: Tensor, deviation: Tensor) -> Tensor:
        """Structure features (N, d).

        Args:
            coordinates: (N, 3) in Å, of the reference where there is one.
            elements: (N, d) element features.
            deviation: From the reference, scaled, (N, 3); (N, 0) without one.
        """
        nanometres = torch.cat([0.1 * coordinates, deviation], 1)
        if self.linear:
            return self.first(nanometres)
        phases = coordinates @ self.waves
        inputs = torch.cat([nanometres, torch.sin(phases), torch.cos(phases), elements], 1)
        return self.second(self.activation(self.first(inputs)))
