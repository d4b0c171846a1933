"""Training losses that torchmd-net does not have."""

import torch
from torch import Tensor


def norm_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean Euclidean length of the errors' rows: of an atom's force, or the absolute value of an energy.

    Every atom pulls on the weights with the same strength, only in another direction, where in a mean of
    squares a few atoms far off drown the others. Unlike a mean of absolute components (``l1_loss``) it does
    not depend on the orientation of the molecule.

    Args:
        prediction: Shape (M, components).
        target: The same shape.

    Returns:
        Scalar, in the unit of the arguments.
    """
    return torch.linalg.vector_norm(prediction - target, dim=-1).mean()
