"""Schedules of the learning rate."""

import math
from typing import Any, Callable, Dict

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

# From one to zero, over the training's progress from zero to one.
FALLS: Dict[str, Callable[[float], float]] = {
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1.0 - progress,
}


def falling_schedule(optimizer: Optimizer, hyper_parameters: Any, num_steps: int) -> Dict[str, Any]:
    """From lr to lr_min as ``lr_schedule`` says; during the warm-up torchmd-net sets the rate itself.

    Args:
        optimizer: Its learning rate is ``lr``.
        hyper_parameters: With ``lr``, ``lr_min`` and ``lr_schedule``, one of ``FALLS``.
        num_steps: Optimiser steps of the whole training.

    Returns:
        What Lightning takes for a schedule that is asked after every step.
    """
    floor, fall = hyper_parameters.lr_min / hyper_parameters.lr, FALLS[hyper_parameters.lr_schedule]

    def factor(step: int) -> float:
        return floor + (1.0 - floor) * fall(min(1.0, step / max(1, num_steps)))

    return {"scheduler": LambdaLR(optimizer, factor), "interval": "step", "frequency": 1}


def plateau_schedule(optimizer: Optimizer, hyper_parameters: Any) -> ReduceLROnPlateau:
    """torchmd-net's own schedule for another optimiser.

    Args:
        optimizer: The other one.
        hyper_parameters: With ``lr_factor``, ``lr_patience`` and ``lr_min``.
    """
    return ReduceLROnPlateau(
        optimizer,
        "min",
        factor=hyper_parameters.lr_factor,
        patience=hyper_parameters.lr_patience,
        min_lr=hyper_parameters.lr_min,
    )
