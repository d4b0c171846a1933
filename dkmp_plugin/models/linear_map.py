"""Linear maps of the models."""

from torch import Tensor, nn

from dkmp_plugin.ops import linear


class LinearMap(nn.Linear):
    """``nn.Linear`` that computes with :func:`dkmp_plugin.ops.linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """Shape (..., in_features) to (..., out_features)."""
        return linear(input, self.weight, self.bias)
