"""The structures of one row: read, split, scaled, batched."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

import numpy as np
import torch
from torch import Tensor

from dkmp_plugin.datasets.label_file import fit_reference_energies
from s2ef.protocol import Row

ROOT = Path(__file__).resolve().parent.parent.parent


def data_folder() -> Path:
    """DKMP_DATA, or shared/data beside the repository."""
    return Path(os.environ.get("DKMP_DATA", ROOT.parent / "shared" / "data"))


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


def _read_npz(path: Path) -> Dict[str, np.ndarray]:
    arrays = np.load(path)
    return {"z": arrays["z"], "pos": arrays["R"], "energy": arrays["E"], "forces": arrays["F"]}


def _read_extxyz(path: Path) -> Dict[str, np.ndarray]:
    import ase.io

    frames = ase.io.read(path, ":")
    return {
        "z": frames[0].numbers,
        "pos": np.array([frame.positions for frame in frames]),
        "energy": np.array([frame.get_potential_energy() for frame in frames]),
        "forces": np.array([frame.get_forces() for frame in frames]),
    }


def _read_deepmd(path: Path) -> Dict[str, np.ndarray]:
    import ase.data

    names = (path.parent / "type_map.raw").read_text().split()
    types = np.loadtxt(path.parent / "type.raw", dtype=int)
    frames = len(np.load(path / "energy.npy"))
    return {
        "z": np.array([ase.data.atomic_numbers[names[index]] for index in types]),
        "pos": np.load(path / "coord.npy").reshape(frames, -1, 3),
        "energy": np.load(path / "energy.npy").astype(np.float64),
        "forces": np.load(path / "force.npy").reshape(frames, -1, 3),
        "box": np.load(path / "box.npy").reshape(frames, 3, 3),
    }


_READERS = {"npz": _read_npz, "extxyz": _read_extxyz, "deepmd": _read_deepmd}


def load_structures(row: Row) -> Dict[str, Structures]:
    """``train``, ``validation`` and ``test`` of a row.

    Raises:
        SystemExit: a file is missing.
    """
    result = {}
    for part, sources in row.parts.items():
        pieces: List[Dict[str, np.ndarray]] = []
        for name, selection in sources:
            path = data_folder() / name
            if not path.exists():
                raise SystemExit(f"{path} is missing; set DKMP_DATA to the folder of the shared data sets")
            arrays = _READERS[row.format](path)
            z = arrays.pop("z")
            pieces.append({key: values[selection] for key, values in arrays.items()})
        joined = {key: np.concatenate([piece[key] for piece in pieces]) for key in pieces[0]}
        result[part] = Structures(
            z=torch.from_numpy(z).long(),
            pos=torch.from_numpy(joined["pos"]).float(),
            energy=torch.from_numpy(joined["energy"]).double(),
            forces=torch.from_numpy(joined["forces"]).float(),
            box=torch.from_numpy(joined["box"]).float() if "box" in joined else None,
        )
    return result


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
