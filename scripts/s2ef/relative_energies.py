"""Energies relative to each other as a loss, where a batch is one structure."""

from typing import Any, Dict, List, Optional

import torch
from torch import Tensor, nn

# Weights of the latest structure in the running means.
_LATEST_GRADIENT = 0.03
_LATEST_ERROR = 0.1


class RelativeEnergyLoss:
    """How far the error of an energy is from what it usually is with such weights.

    The energy sums over all atoms, and so does its gradient: nearly all of it moves the energies of all
    structures alike, which changes neither forces nor differences of energies. In a batch of several
    structures the errors relative to their mean have no such part. In a batch of one it would be the
    largest and noisiest part of a step, on chignolin forty times the rest. So the error is compared with a
    linear function of the weights: the running mean of the errors, and of their gradients. The difference
    has the gradient of the energy less the mean gradient, and a step that moves all energies by more than
    they differ moves the expected error as well.

    Args:
        model: Whose weights are trained.
    """

    def __init__(self, model: nn.Module) -> None:
        self._weights = [weight for weight in model.parameters() if weight.requires_grad]
        self._error: Optional[Tensor] = None
        self._gradient: List[Tensor] = []
        self._at: List[Tensor] = []

    def __call__(self, error: Tensor) -> Tensor:
        """Absolute difference of one structure's error and the expected one, which learns from it.

        Args:
            error: Predicted less true energy, shape (1,).

        Raises:
            ValueError: not one structure.
        """
        if len(error) != 1:
            raise ValueError(f"energy_loss: relative_norm is for batches of one, {len(error)} were given")
        gradient = torch.autograd.grad(
            error.sum(), self._weights, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        weights = [weight.detach().clone() for weight in self._weights]
        if self._error is None:
            self._error, self._gradient, self._at = error.detach(), list(gradient), weights
        expected = self._error
        for weight, at, slope in zip(self._weights, self._at, self._gradient, strict=True):
            expected = expected + ((weight - at) * slope).sum()
        difference = error - expected
        self._error, self._at = expected.detach() + _LATEST_ERROR * difference.detach(), weights
        self._gradient = [
            old.lerp(new, _LATEST_GRADIENT) for old, new in zip(self._gradient, gradient, strict=True)
        ]
        return difference.abs().mean()

    def state_dict(self) -> Dict[str, Any]:
        return {"error": self._error, "gradient": self._gradient, "at": self._at}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        self._error, self._gradient, self._at = state["error"], state["gradient"], state["at"]
