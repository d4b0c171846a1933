"""Activation functions that bend over a longer range."""

from torch import Tensor, nn
from torchmdnet.models.utils import act_class_mapping


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

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise, any shape."""
        if self.stretch == 1.0:
            return self.activation(x)
        bent: Tensor = self.activation(x / self.stretch)
        return self.stretch * bent
