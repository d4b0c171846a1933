"""The layer of DKMP^C's revisions 3 to 7: normalised spherical features, and products of their degrees."""

from typing import Any, Dict, Tuple

import torch
from torch import Tensor, nn

from dkmp_plugin.models.dilated_layer import DilatedMessages, project_pairs
from dkmp_plugin.models.initial_weights import reset_linear_maps
from dkmp_plugin.models.layer_settings import LayerSettings
from dkmp_plugin.models.radius_shell import RadiusShell
from dkmp_plugin.models.spherical import DegreeNorm
from dkmp_plugin.models.stretched_activation import StretchedActivation
from dkmp_plugin.ops import degree_gates, degree_products


class ProductUpdate(nn.Module):
    """What an atom makes of its own features and the sum of the messages it received.

    As in TensorNet (arXiv:2306.06482), two projections of the spherical features are multiplied: degrees 2
    and 1 to degree 1, degrees 1 and 1 and degrees 2 and 2 to degree 2. So one update knows angles between
    three neighbours, not two. Products are of normalised features, whose powers cannot grow from layer to
    layer. Whatever module holds an update resets its parameters with its own.

    Args:
        settings: What the layers of the model share.
        norm_offset: Of :class:`DegreeNorm`. Far below the mean square lengths of untrained features, about
            0.1 (revision 3), it lets the norm amplify them: training is unstable at large learning rates.
    """

    def __init__(self, settings: LayerSettings, norm_offset: float) -> None:
        super().__init__()
        d, dtype = settings.hidden_channels, settings.dtype
        self.norm = DegreeNorm(d, norm_offset, dtype)
        self.first_projection = nn.Linear(d, 2 * d, bias=False, dtype=dtype)
        self.second_projection = nn.Linear(d, 2 * d, bias=False, dtype=dtype)
        self.input = nn.Linear(6 * d, d, dtype=dtype)
        self.activation = StretchedActivation(settings.activation, settings.stretch)
        self.output = nn.Linear(d, 9 * d, dtype=dtype)

    def reset_parameters(self) -> None:
        """Xavier-uniform weights, biases at zero; an update starts as a small change of its input."""
        self.norm.reset_parameters()
        reset_linear_maps(self.first_projection, self.second_projection, self.input, self.output)
        with torch.no_grad():
            self.output.weight *= 0.3

    def forward(self, x: Tensor, normed: Tensor, vector: Tensor, message: Tensor) -> Tuple[Tensor, Tensor]:
        """Updated scalar and spherical features.

        Args:
            x: Scalar features, shape (N, d).
            normed: The same after layer normalisation.
            vector: Spherical features with the messages already added, shape (N, 8, d).
            message: Sum of the scalar messages, shape (N, d).
        """
        first, second = self.norm.apart(vector)
        first = project_pairs(first, self.first_projection.weight)
        second = project_pairs(second, self.second_projection.weight)
        product, invariants = degree_products(first, second)
        features = torch.cat([message, invariants.flatten(1), normed], dim=-1)
        gates = self.output(self.activation(self.input(features)))
        scalar_change, vector_change = degree_gates(gates, invariants, first, second, product)
        # Sums in place: on a CPU memory that was not used before costs three times the addition.
        return scalar_change.add_(x), vector_change.add_(vector)


# Names of the update's parts in checkpoints in which it was not a module of its own.
_OLD_NAMES = {
    "received_norm.": "update.norm.",
    "first_projection.": "update.first_projection.",
    "second_projection.": "update.second_projection.",
    "update_input.": "update.input.",
    "update_output.": "update.output.",
}


class ProductUpdateLayer(DilatedMessages):
    """Messages of normalised spherical features over one shell, then :class:`ProductUpdate`.

    Args:
        settings: What the layers of the model share.
        shell: The shell this layer sees.
        norm_offset: Of :class:`DegreeNorm`, in messages and update.
        attention: Of :class:`DilatedMessages`.
    """

    def __init__(
        self, settings: LayerSettings, shell: RadiusShell, norm_offset: float, attention: bool
    ) -> None:
        super().__init__(settings, shell, amplified_filters=True, attention=attention)
        self.sent_norm = DegreeNorm(settings.hidden_channels, norm_offset, settings.dtype)
        self.update = ProductUpdate(settings, norm_offset)
        self.reset_parameters()

    def _load_from_state_dict(self, state_dict: Dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in [name for name in state_dict if name.startswith(prefix)]:
            for old, new in _OLD_NAMES.items():
                if name.startswith(prefix + old):
                    state_dict[prefix + new + name[len(prefix + old) :]] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def forward(
        self, x: Tensor, vector: Tensor, edge_vector: Tensor, edge_index: Tensor, ptr: Tensor
    ) -> Tuple[Tensor, Tensor]:
        """Update the features of every atom.

        Args:
            x: Scalar features, shape (N, d).
            vector: Spherical features, shape (N, 8, d).
            edge_vector: Edge vectors in Å, shape (E, 3).
            edge_index: Receivers and senders, shape (2, E).
            ptr: First edge of each shell, shape (num_shells + 1,).

        Returns:
            Updated ``x`` and ``vector``.
        """
        normed = self.norm(x)
        message, vector_message = self.messages(normed, self.sent_norm(vector), edge_vector, edge_index, ptr)
        updated: Tuple[Tensor, Tensor] = self.update(x, normed, vector_message.add_(vector), message)
        return updated
