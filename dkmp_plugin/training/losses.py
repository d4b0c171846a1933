"""Training losses that torchmd-net does not have."""

from typing import Callable, Dict, Optional

import torch
from torch import Tensor

from dkmp_plugin.graph import radius_shells
from dkmp_plugin.training.elastic_network import elastic_lengths

# In Å. As wide as a bond and its angles: their forces, equal and opposite, cancel in the sum.
_NEIGHBORHOOD = 1.5
# In widths of the neighbourhood: where its weight, exp(-4.5), no longer matters.
_TRUNCATION = 3.0
# Weight of the errors along soft displacements beside the mean of all. With a third of it the energies of
# chignolin have a fifth more error, twice it changes nothing.
_ELASTIC_WEIGHT = 3.0
# Weight of the energies' mean error in a batch, whose gradient otherwise is the largest and noisiest of all.
MEAN_ERROR_WEIGHT = 0.1


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


def relative_norm_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute errors of a batch's energies relative to each other, plus a tenth of their mean error.

    The energy of a molecule sums over its atoms, and so does its gradient: the mean error of a batch pulls
    on all weights at once, much harder than what tells conformations apart, and late in a training still
    moves from step to step. A tenth of it is enough for the bias of the last map, on which nothing else
    pulls.

    Args:
        prediction: Energies, shape (B, 1).
        target: The same shape.

    Returns:
        Scalar, in the unit of the arguments; :func:`norm_loss` of a single energy, which training replaces
        (:class:`dkmp_plugin.training.relative_energies.RelativeEnergyLoss`).
    """
    if len(prediction) < 2:
        return norm_loss(prediction, target)
    error = prediction - target
    mean = error.mean(dim=0)
    return (error - mean).abs().mean() + MEAN_ERROR_WEIGHT * mean.abs().mean()


def neighborhood_sums(values: Tensor, pos: Tensor, batch: Tensor, box: Optional[Tensor] = None) -> Tensor:
    """Sums over every atom's neighbourhood, weighted by a Gaussian of the distance of 1.5 Å width.

    They are divided by the root of the sum of the squared weights: values that know nothing of each other
    keep their size.

    Args:
        values: One row per atom, shape (N, components).
        pos: Positions in Å, shape (N, 3).
        batch: System of each atom, shape (N,), non-decreasing.
        box: Box vectors as rows in Å, shape (3, 3) or (B, 3, 3), or None.

    Returns:
        The shape of ``values``.
    """
    pos = pos.detach()
    graph = radius_shells(pos, _TRUNCATION * _NEIGHBORHOOD, 1, batch, box)
    receivers, senders = graph.edge_index
    weights = torch.exp(-0.5 * (graph.distance / _NEIGHBORHOOD) ** 2).to(values.dtype)
    sums = values.index_add(0, receivers, weights.unsqueeze(1) * values[senders])
    squares = torch.ones_like(values[:, 0]).index_add(0, receivers, weights**2)
    return sums / squares.sqrt().unsqueeze(1)


def neighborhood_norm_loss(
    prediction: Tensor, target: Tensor, pos: Tensor, batch: Tensor, box: Optional[Tensor] = None
) -> Tensor:
    """:func:`norm_loss` of the forces, plus the same of their sums over neighbourhoods.

    Forces along bonds and angles are the largest, and so are their errors, but every mode of vibration
    holds the same energy. In a neighbourhood's sum the stiff ones cancel and the soft ones stay, which
    decide how the energies of conformations differ.

    Args:
        prediction: Forces, shape (N, 3).
        target: The same shape.
        pos: As of :func:`neighborhood_sums`.
        batch: The same.
        box: The same.

    Returns:
        Scalar, in the unit of the forces.
    """
    sums = neighborhood_sums(prediction - target, pos, batch, box)
    return norm_loss(prediction, target) + torch.linalg.vector_norm(sums, dim=-1).mean()


def elastic_norm_loss(
    prediction: Tensor, target: Tensor, pos: Tensor, batch: Tensor, box: Optional[Tensor] = None
) -> Tensor:
    """:func:`norm_loss` of the forces, plus three times how much their errors let the energy's error vary.

    The second is :func:`dkmp_plugin.training.elastic_network.elastic_lengths`. A mean over atoms hardly
    sees errors along soft displacements, such as a turning chain or two halves that move apart: small
    forces, but over long ways, and they decide how the energies of conformations differ. It takes O(N^3)
    time for N atoms: :func:`neighborhood_norm_loss` is for systems of more than some hundred.

    Args:
        prediction: Forces, shape (N, 3).
        target: The same shape.
        pos: Positions in Å, shape (N, 3).
        batch: System of each atom, shape (N,), non-decreasing.
        box: Box vectors as rows in Å, shape (3, 3) or (B, 3, 3), or None.

    Returns:
        Scalar, in the unit of the forces.
    """
    lengths = elastic_lengths(prediction - target, pos, batch, box)
    return norm_loss(prediction, target) + _ELASTIC_WEIGHT * lengths.mean()


# Losses of forces that need to know where the atoms are, by their names as torchmd-net's ``train_loss``.
LOSSES_OF_STRUCTURES: Dict[str, Callable[..., Tensor]] = {
    loss.__name__: loss for loss in (neighborhood_norm_loss, elastic_norm_loss)
}
# All losses of ours.
LOSSES: Dict[str, Callable[..., Tensor]] = {norm_loss.__name__: norm_loss, **LOSSES_OF_STRUCTURES}


def loss_of_structures(
    name: str,
    pos: Tensor,
    batch: Tensor,
    box: Optional[Tensor] = None,
    single_energy: Optional[Callable[[Tensor], Tensor]] = None,
) -> Callable[[Tensor, Tensor], Tensor]:
    """One of ``LOSSES_OF_STRUCTURES`` as torchmd-net calls a loss, of predictions and targets alone.

    Args:
        name: Its name.
        pos: Positions in Å, shape (N, 3).
        batch: System of each atom, shape (N,), non-decreasing.
        box: Box vectors as rows in Å, shape (3, 3) or (B, 3, 3), or None.
        single_energy: The loss of the energy's error, shape (1,), where there is one structure.

    Returns:
        The loss: of values per atom, shape (N, 3), as named; of energies, shape (B, 1),
        :func:`relative_norm_loss`, of one ``single_energy`` where that is given.
    """

    def loss(prediction: Tensor, target: Tensor) -> Tensor:
        if prediction.shape != pos.shape:
            if single_energy is not None and prediction.shape == (1, 1):
                return single_energy((prediction - target).flatten())
            return relative_norm_loss(prediction, target)
        return LOSSES_OF_STRUCTURES[name](prediction, target, pos, batch, box)

    return loss
