"""The layer of DKMP^C's revisions 3 to 6: normalised spherical features, and products of their degrees."""

from typing import Optional, Tuple

import torch
from torch import Tensor

from dkmp_plugin.models.dilated_layer import DilatedMessages, project_pairs
from dkmp_plugin.models.layer_settings import LayerSettings
from dkmp_plugin.models.linear_map import LinearMap
from dkmp_plugin.models.radius_shell import RadiusShell
from dkmp_plugin.models.spherical import DegreeNorm
from dkmp_plugin.models.stretched_activation import StretchedActivation
from dkmp_plugin.ops import degree_features, degree_gates, degree_products, degree_update, has_kernels


class ProductUpdateLayer(DilatedMessages):
    """The update of revisions 3 to 6: as revision 2's, with products of spherical features.

    As in TensorNet (arXiv:2306.06482), two projections of an atom's features are multiplied: degrees 2 and 1
    to degree 1, degrees 1 and 1 and degrees 2 and 2 to degree 2. So one layer knows angles between three
    neighbours, not two. Messages and products are of normalised features, whose powers cannot grow from
    layer to layer.

    Args:
        settings: What the layers of the model share.
        shell: The shell this layer sees.
        norm_offset: Of :class:`DegreeNorm`. Far below the mean square lengths of untrained features, about
            0.1 (revision 3), it lets the norm amplify them: training is unstable at large learning rates.
        attention: Of :class:`DilatedMessages`.
    """

    def __init__(
        self, settings: LayerSettings, shell: RadiusShell, norm_offset: float, attention: bool
    ) -> None:
        super().__init__(settings, shell, amplified_filters=True, attention=attention)
        d, dtype = settings.hidden_channels, settings.dtype
        self.sent_norm = DegreeNorm(d, norm_offset, dtype)
        self.received_norm = DegreeNorm(d, norm_offset, dtype)
        self.first_projection = LinearMap(d, 2 * d, bias=False, dtype=dtype)
        self.second_projection = LinearMap(d, 2 * d, bias=False, dtype=dtype)
        self.update_input = LinearMap(6 * d, d, dtype=dtype)
        self.activation = StretchedActivation(settings.activation, settings.stretch)
        self.update_output = LinearMap(d, 9 * d, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform weights, biases at zero; a layer starts with a small change of its input."""
        super().reset_parameters()
        self.sent_norm.reset_parameters()
        self.received_norm.reset_parameters()
        with torch.no_grad():
            self.update_output.weight *= 0.3

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
        sent, vector = self.sent_norm(vector)
        message, vector_message = self.messages(normed, sent, edge_vector, edge_index, ptr)
        # A sum in place: on a CPU memory that was not used before costs three times the addition.
        vector = vector_message.add_(vector)
        first, second, vector = self.received_norm.apart(vector)
        first = project_pairs(first, self.first_projection.weight)
        second = project_pairs(second, self.second_projection.weight)
        gate: Optional[Tensor] = None
        if not self.attention:
            gate = self.receiver_gate(normed)
        return self.update(first, second, message, normed, gate, x, vector, has_kernels(x))

    def update(
        self,
        first: Tensor,
        second: Tensor,
        message: Tensor,
        normed: Tensor,
        gate: Optional[Tensor],
        x: Tensor,
        vector: Tensor,
        fused: bool,
    ) -> Tuple[Tensor, Tensor]:
        """Updated scalar and spherical features.

        Fused where the ops are native, nothing is kept in memory that can be computed again. Elsewhere, where
        products are many small operations, each is computed once.
        """
        if fused:
            features, first, second = degree_features(first, second, message, normed, gate)
            return degree_update(self.gates(features), first, second, x, vector)
        product, invariants = degree_products(first, second)
        if gate is not None:
            message = gate * message
        gates = self.gates(torch.cat([message, invariants.flatten(1), normed], dim=-1))
        scalar_change, vector_change = degree_gates(gates, invariants, first, second, product)
        return x + scalar_change, vector + vector_change

    def gates(self, features: Tensor) -> Tensor:
        """Gates (N, 9 d) of the update from what it sees, (N, 6 d)."""
        return self.activation.between(
            features,
            self.update_input.weight,
            self.update_input.bias,
            self.update_output.weight,
            self.update_output.bias,
        )
