"""torchmd-net dataset over a label file: ``dataset: DKMPHDF5``."""

from typing import Any, Dict, Optional

import torch
from torch_geometric.data import Data, Dataset

from dkmp_plugin.datasets.label_file import read_label_file


class DKMPHDF5(Dataset):
    """Energies and forces of one label file (see ``dkmp_plugin.datasets.label_file``).

    Each item is a ``torch_geometric.data.Data`` with ``z`` (N,), ``pos`` (N, 3) in Å, ``y`` (1, 1) energy
    and ``neg_dy`` (N, 3) forces in the file's unit (per Å), and ``box`` (1, 3, 3) in Å where the file has
    boxes; all float64. ``y`` is relative to the file's per-element reference energies;
    ``total_energy(y)`` undoes it.

    Attributes:
        metadata: energy_unit, level_of_theory, total_charge, elements, reference_energies.

    Args:
        root: the label file (torchmd-train's ``dataset_root``).
        transform: applied to each item.

    Raises:
        ValueError: the file is missing, foreign, corrupt, or inconsistent.
    """

    def __init__(self, root: str, transform: Optional[Any] = None) -> None:
        super().__init__(None, transform)
        labels = read_label_file(root)
        self.metadata: Dict[str, Any] = labels.metadata()
        self._reference_energy = labels.reference_energy
        self._numbers = torch.from_numpy(labels.atomic_numbers).long()
        # Kept in float64, so that nothing is rounded before the reference is subtracted; the training
        # casts each batch to its own precision.
        self._energies = torch.from_numpy(labels.energies - labels.reference_energy).double()
        self._positions = torch.from_numpy(labels.positions).double()
        self._forces = torch.from_numpy(labels.forces).double()
        self._boxes = None if labels.boxes is None else torch.from_numpy(labels.boxes).double()

    def total_energy(self, y: torch.Tensor) -> torch.Tensor:
        """Turns relative energies ``y`` of this molecule back into total energies (float64, same unit)."""
        return y.double() + self._reference_energy

    def len(self) -> int:
        return len(self._energies)

    def get(self, idx: int) -> Data:
        item = Data(
            z=self._numbers,
            pos=self._positions[idx],
            y=self._energies[idx].view(1, 1),
            neg_dy=self._forces[idx],
        )
        if self._boxes is not None:
            item.box = self._boxes[idx].unsqueeze(0)
        return item
