"""One layer of DKMP^C: messages over one radius shell, then the update of every atom (equations 6 to 8)."""

from typing import Final, Tuple

import torch
from torch import Tensor, nn
from torchmdnet.models.utils import act_class_mapping

from dkmp_plugin.models.initial_weights import reset_linear_maps
from dkmp_plugin.models.layer_settings import LayerSettings
from dkmp_plugin.models.linear_map import LinearMap
from dkmp_plugin.models.radial import RadialFilters, shell_filters
from dkmp_plugin.models.radius_shell import RadiusShell
from dkmp_plugin.ops import degree_gates, degree_invariants, linear


def project_pairs(vector: Tensor, weight: Tensor) -> Tensor:
    """Left and right projections, (N, m, 2 d), of spherical features (N, m, d) by weights (2 d, d)."""
    # A copy where rows are apart in memory: torch would multiply atom by atom, which takes far longer.
    return linear(vector.contiguous(), weight)


def project(vector: Tensor, weight: Tensor) -> Tuple[Tensor, Tensor]:
    """Left projections of spherical features (N, m, d) by weights (2 d, d), and invariants left . right."""
    # Two products with half the weights: the gradient of one product's halves would be copied together.
    left_weight, right_weight = weight.chunk(2)
    left, right = linear(vector, left_weight), linear(vector, right_weight)
    return left, (left * right).sum(dim=1)


class DilatedMessages(nn.Module):
    """The messages of one layer; what becomes of them is up to the subclass.

    The scalar message (paper, equation 6) is a product of what the receiver, the sender and their distance
    give, times its shell's window, as is the vector message (equation 7). With attention the receiver enters
    through weights silu(q_i . k_j . f_ij) per head, as in ViSNet (doi:10.1038/s41467-023-43720-2). Without,
    through one gate per channel, which leaves the sum over the edges.

    Attention is no more accurate, costs more, and is not smooth enough: scores of trained
    models reach +-20, where silu is a kink for all that a time step can resolve. The energy of a chignolin
    at constant energy jumped where the N-H of a hydrogen bond stretched beyond 1.12 Å and a score changed
    its sign.

    Args:
        settings: What the layers of the model share.
        shell: The shell this layer sees.
        amplified_filters: Whether the optimiser's steps on the radial filters are amplified
            (:class:`dkmp_plugin.models.radial.RadialFilters`).
        attention: Whether the receiver weighs scalar messages by attention instead of a gate.
    """

    attention: Final[bool]  # known to TorchScript, which then compiles one branch

    def __init__(
        self, settings: LayerSettings, shell: RadiusShell, amplified_filters: bool, attention: bool = True
    ) -> None:
        super().__init__()
        d, dtype = settings.hidden_channels, settings.dtype
        self.hidden_channels = d
        self.num_heads = settings.num_heads
        self.attention = attention
        self.shell = shell
        self.filters = shell_filters((4 if attention else 3) * d, settings, shell, amplified_filters)
        self.norm = nn.LayerNorm(d, dtype=dtype)
        if attention:
            self.query_key = LinearMap(d, 2 * d, dtype=dtype)
        else:
            self.receiver_gate = LinearMap(d, d, dtype=dtype)
        self.value = LinearMap(d, 3 * d, dtype=dtype)

    def reset_parameters(self) -> None:
        """Xavier-uniform weights, biases at zero."""
        self.norm.reset_parameters()
        for module in self.children():
            if isinstance(module, RadialFilters):
                module.reset_parameters()
                continue
            reset_linear_maps(*(part for part in module.modules() if isinstance(part, nn.Linear)))

    def messages(
        self, normed: Tensor, vector: Tensor, edge_vector: Tensor, edge_index: Tensor, ptr: Tensor
    ) -> Tuple[Tensor, Tensor]:
        """Scalar messages (N, d), before a gate, and spherical messages (N, 8, d).

        Arguments as of the layers' forward.
        """
        value, filters = self.value(normed), self.filters()
        if self.attention:
            query, key = self.query_key(normed).chunk(2, dim=-1)
            return self.shell(
                edge_vector, edge_index, ptr, query, key, value, vector, filters, self.num_heads
            )
        none = normed.new_zeros((0, self.hidden_channels))
        # The op's table has a place for the filters of the attention, which it does not read.
        unread = filters.new_zeros((filters.size(0), self.hidden_channels))
        filters = torch.cat([unread, filters], dim=1)
        return self.shell(edge_vector, edge_index, ptr, none, none, value, vector, filters, 1)


class SharedUpdateLayer(DilatedMessages):
    """The update of revision 1: one set of weights for both degrees.

    Invariants are taken of the spherical features as they were before the layer's messages.

    Args:
        settings: What the layers of the model share.
        shell: The shell this layer sees.
    """

    def __init__(self, settings: LayerSettings, shell: RadiusShell) -> None:
        super().__init__(settings, shell, amplified_filters=False)
        d, dtype = settings.hidden_channels, settings.dtype
        self.vector_projection = LinearMap(d, 2 * d, bias=False, dtype=dtype)
        self.update = nn.Sequential(
            LinearMap(2 * d, d, dtype=dtype),
            act_class_mapping[settings.activation](),
            LinearMap(d, 3 * d, dtype=dtype),
        )
        self.reset_parameters()

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
        message, vector_message = self.messages(self.norm(x), vector, edge_vector, edge_index, ptr)
        left, invariant = project(vector, self.vector_projection.weight)
        update = self.update(torch.cat([message, invariant], dim=-1))
        shift, scale, gate = update.chunk(3, dim=-1)
        x = x + shift + scale * invariant
        vector = torch.addcmul(vector + vector_message, gate.unsqueeze(1), left)
        return x, vector


class DegreeUpdateLayer(DilatedMessages):
    """The update of revision 2: each degree has its own invariants and gates.

    As PaiNN's update block (doi:10.48550/arXiv.2102.03150), it sees the layer's messages already added to
    the spherical features, and the atom's own scalar features.

    Args:
        settings: What the layers of the model share.
        shell: The shell this layer sees.
    """

    def __init__(self, settings: LayerSettings, shell: RadiusShell) -> None:
        super().__init__(settings, shell, amplified_filters=True)
        d, dtype = settings.hidden_channels, settings.dtype
        self.first_projection = LinearMap(d, 2 * d, bias=False, dtype=dtype)
        self.second_projection = LinearMap(d, 2 * d, bias=False, dtype=dtype)
        self.update_input = LinearMap(4 * d, d, dtype=dtype)
        self.activation = act_class_mapping[settings.activation]()
        self.update_output = LinearMap(d, 5 * d, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform weights, biases at zero; a layer starts with a small change of its input."""
        super().reset_parameters()
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
        message, vector_message = self.messages(normed, vector, edge_vector, edge_index, ptr)
        vector = vector + vector_message
        # Three components of degree 1, five of degree 2.
        first, second = vector.split([3, 5], dim=1)
        first = project_pairs(first, self.first_projection.weight)
        second = project_pairs(second, self.second_projection.weight)
        invariants = degree_invariants(first, second)
        features = torch.cat([message, invariants.flatten(1), normed], dim=-1)
        gates = self.update_output(self.activation(self.update_input(features)))
        scalar_change, vector_change = degree_gates(gates, invariants, first, second)
        return x + scalar_change, vector + vector_change
