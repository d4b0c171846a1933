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
        mean_error: Weight of the error itself, whose mean would else be left to chance: its absolute value
            where it is larger than errors usually differ, and its square over that below, so that the pull
            fades as the mean vanishes. The bias of the last map alone cannot follow: all weights are pulled.
    """

    def __init__(self, model: nn.Module, mean_error: float = 0.0) -> None:
        self._weights = [weight for weight in model.parameters() if weight.requires_grad]
        self._mean_error = mean_error
        self._error: Optional[Tensor] = None
        self._usual_difference: Optional[Tensor] = None
        self._gradient: List[Tensor] = []
        self._at: List[Tensor] = []

    def __call__(self, error: Tensor) -> Tensor:
        """Absolute difference of one structure's error and the expected one, which learns from it.

        Args:
            error: Predicted less true energy, shape (1,).

        Returns:
            Scalar, in the unit of the error.

        Raises:
            ValueError: not one structure.
        """
        if error.shape != (1,):
            raise ValueError(
                f"error: shape {tuple(error.shape)} was given, (1,) is expected: one structure's"
            )
        gradient = torch.autograd.grad(
            error.sum(), self._weights, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        weights = [weight.detach().clone() for weight in self._weights]
        if self._error is None:
            self._error, self._gradient, self._at = error.detach(), list(gradient), weights
        elif self._error.device != error.device:
            # A checkpoint is read onto the CPU, before the model goes to its device.
            self._move(error.device)
        expected = self._error
        for weight, at, slope in zip(self._weights, self._at, self._gradient, strict=True):
            expected = expected + ((weight - at) * slope).sum()
        difference = error - expected
        self._error, self._at = expected.detach() + _LATEST_ERROR * difference.detach(), weights
        self._gradient = [
            old.lerp(new, _LATEST_GRADIENT) for old, new in zip(self._gradient, gradient, strict=True)
        ]
        if self._mean_error == 0.0:
            return difference.abs().mean()
        # The latest error with the slope of the expected one, which lags behind and would be overshot.
        latest = expected + difference.detach()
        return difference.abs().mean() + self._mean_error * self._size(latest, difference.detach())

    def _size(self, error: Tensor, difference: Tensor) -> Tensor:
        """Of an error: Huber's function, which bends where errors usually differ."""
        usual = error.detach().abs() if self._usual_difference is None else self._usual_difference
        self._usual_difference = usual.lerp(difference.abs(), _LATEST_ERROR)
        bend = torch.clamp(self._usual_difference, min=torch.finfo(error.dtype).tiny)
        size = error.abs()
        return torch.where(size < bend, 0.5 * size * (size / bend), size - 0.5 * bend).mean()

    def _move(self, device: torch.device) -> None:
        if self._error is not None:
            self._error = self._error.to(device)
        if self._usual_difference is not None:
            self._usual_difference = self._usual_difference.to(device)
        self._gradient = [slope.to(device) for slope in self._gradient]
        self._at = [weight.to(device) for weight in self._at]

    def state_dict(self) -> Dict[str, Any]:
        """What has been learnt about errors and gradients; no weights of the model."""
        return {
            "error": self._error,
            "usual_difference": self._usual_difference,
            "gradient": self._gradient,
            "at": self._at,
        }

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        """Goes on from the ``state_dict`` of a loss for the same model."""
        self._error, self._gradient, self._at = state["error"], state["gradient"], state["at"]
        # Not in the files of scripts/reproduce_s2ef.py from before there was one.
        self._usual_difference = state.get("usual_difference")
