"""Energies and forces that a trained torchmd-net model predicts for the items of a dataset."""

from typing import Sequence, Set, Tuple

import numpy as np
import torch
from torch_geometric.data import Dataset
from torch_geometric.loader import DataLoader


def predict(
    model: torch.nn.Module, dataset: Dataset, indices: Sequence[int], batch_size: int = 100
) -> Tuple[np.ndarray, np.ndarray]:
    """Predicted energies and forces.

    Args:
        model: a torchmd-net model loaded with ``derivative=True``; (z, pos, batch, box) -> (y, neg_dy).
        dataset: items of one molecule with ``z``, ``pos`` and, where periodic, ``box``.
        indices: the M items to predict.
        batch_size: conformations at a time.

    Returns:
        Energies (M,) and forces (M, N, 3), float64, in the unit the model was trained in.

    Raises:
        ValueError: items of different sizes.
    """
    parameter = next(model.parameters())
    energies, forces = [], []
    sizes: Set[int] = set()
    for batch in DataLoader(dataset[np.asarray(indices)], batch_size=batch_size):
        sizes.update(torch.bincount(batch.batch).tolist())
        if len(sizes) > 1:
            counts = " and ".join(map(str, sorted(sizes)))
            raise ValueError(
                f"items of {counts} atoms were given, conformations of one molecule are expected; "
                "predict those of each size by themselves"
            )
        batch = batch.to(parameter.device)
        box = batch.box.to(parameter.dtype) if "box" in batch else None
        energy, force = model(batch.z, batch.pos.to(parameter.dtype), batch.batch, box)
        energies.append(energy.detach().double().flatten().cpu().numpy())
        forces.append(force.detach().double().view(len(energies[-1]), -1, 3).cpu().numpy())
    return np.concatenate(energies), np.concatenate(forces)
