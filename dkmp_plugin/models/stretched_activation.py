"""Activation functions that bend over a longer range."""

from torch import Tensor, nn
from torchmdnet.models.utils import act_class_mapping

from dkmp_plugin.ops import linear


class StretchedActivation(nn.Module):
    """``stretch * f(x / stretch)`` of an activation function f: the same slope at zero, less curvature.

    In a trained potential the bend of an activation is passed within hundredths of an angstrom of a bond's
    length. Stretched ones leave a smoother energy, and on held-out structures a more accurate one.

    Args:
        activation: Name of f, as torchmd-net knows it.
        stretch: Factor s; 1 for f itself.
    """

    def __init__(self, activation: str, stretch: float) -> None:
        super().__init__()
        self.activation = act_class_mapping[activation]()
        self.stretch = stretch

    def between(
        self, x: Tensor, before: Tensor, before_bias: Tensor, after: Tensor, after_bias: Tensor
    ) -> Tensor:
        """A hidden layer: this function of one linear map, then another linear map.

        The stretch goes into the weights: in a frozen module it then costs nothing.

        Args:
            x: Shape (N, n).
            before: Weights of the first map, shape (h, n).
            before_bias: Its biases, shape (h,).
            after: Weights of the second map, shape (m, h).
            after_bias: Its biases, shape (m,).

        Returns:
            Shape (N, m).
        """
        hidden = linear(x, before / self.stretch, before_bias / self.stretch)
        return linear(self.activation(hidden), self.stretch * after, after_bias)
