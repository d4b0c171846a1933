"""The structures of one row: read, split, scaled, batched."""

from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Iterator, Optional, Tuple

import torch
from shared_data import data_folder
from torch import Tensor

from dkmp_plugin.datasets.deepmd import read_deepmd
from dkmp_plugin.datasets.extxyz import read_extxyz
from dkmp_plugin.datasets.file_selections import StructureFile, read_splits
from dkmp_plugin.datasets.npz import SGDML_KEYS, read_npz
from dkmp_plugin.datasets.reference_energies import fit_reference_energies
from s2ef.protocol import Row


@dataclass(frozen=True)
class Structures:
    """M structures of the same N atoms.

    Attributes:
        z: (N,) atomic numbers.
        pos: (M, N, 3) in Å.
        energy: (M,) float64.
        forces: (M, N, 3).
        box: (M, 3, 3) in Å, or None.
    """

    z: Tensor
    pos: Tensor
    energy: Tensor
    forces: Tensor
    box: Optional[Tensor]

    def __len__(self) -> int:
        return len(self.energy)

    def batch(self, indices: Tensor) -> Tuple[Tensor, Tensor, Tensor, Optional[Tensor]]:
        """``z``, ``pos``, ``batch``, ``box`` of the structures ``indices``, as the models take them."""
        count, atoms = len(indices), len(self.z)
        return (
            self.z.repeat(count),
            self.pos[indices].reshape(-1, 3),
            torch.arange(count).repeat_interleave(atoms),
            None if self.box is None else self.box[indices],
        )


def _reader(row: Row) -> Callable[[Path], StructureFile]:
    if row.format == "npz":
        return lambda path: read_npz(path, row.energy_unit, SGDML_KEYS)
    return {"extxyz": read_extxyz, "deepmd": read_deepmd}[row.format]


def load_structures(row: Row) -> Dict[str, Structures]:
    """``train``, ``validation`` and ``test`` of a row.

    Raises:
        ValueError: a file is missing or damaged.
    """
    structures, split = read_splits(data_folder(), (), *row.parts.values(), _reader(row))
    assert split is not None
    atoms = int(structures.atom_counts[0])
    boxes = structures.boxes
    return {
        part: Structures(
            z=torch.from_numpy(structures.atomic_numbers[:atoms]).long(),
            pos=torch.from_numpy(structures.positions.reshape(-1, atoms, 3)[indices]).float(),
            energy=torch.from_numpy(structures.energies[indices]).double(),
            forces=torch.from_numpy(structures.forces.reshape(-1, atoms, 3)[indices]).float(),
            box=None if boxes is None else torch.from_numpy(boxes[indices]).float(),
        )
        for part, indices in zip(row.parts, split, strict=True)
    }


@dataclass(frozen=True)
class Scaling:
    """Units in which every model is trained: energies relative to the mean, everything per RMS force.

    Attributes:
        reference: Reference energy of the molecule, from the training structures alone.
        unit: Root mean square of the training force components.
    """

    reference: float
    unit: float

    @classmethod
    def of(cls, training: Structures) -> "Scaling":
        references = fit_reference_energies(training.z.numpy(), training.energy.numpy())
        reference = sum(references[int(number)] for number in training.z)
        return cls(reference, float(training.forces.double().square().mean().sqrt()))

    def energies(self, energies: Tensor) -> Tensor:
        return ((energies - self.reference) / self.unit).float()

    def forces(self, forces: Tensor) -> Tensor:
        return forces / self.unit


def shuffled_batches(count: int, batch_size: int, seed: int, epoch: int) -> Iterator[Tensor]:
    """Indices of the batches of one epoch: the same whenever it is asked for."""
    generator = torch.Generator().manual_seed(1000 * seed + epoch)
    yield from torch.randperm(count, generator=generator).split(batch_size)
