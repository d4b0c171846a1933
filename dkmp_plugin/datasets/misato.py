"""MISATO protein-ligand trajectories (HDF5), read lazily: ``dataset: DKMPMISATO``."""

import os
from itertools import combinations
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple, Union

import numpy as np

from dkmp_plugin.datasets.arguments import check_boolean, check_whole_number
from dkmp_plugin.datasets.frame_pairs import FramePairs
from dkmp_plugin.datasets.nearest_distance import median_nearest_distance
from dkmp_plugin.datasets.sampling import Sampling

SOURCE = (
    "https://zenodo.org/records/7711953 (MD.hdf5) and https://github.com/t7morgen/misato-dataset (splits)"
)
SPLIT_FILES = {"train": "train_MD.txt", "val": "val_MD.txt", "test": "test_MD.txt"}
_COORDINATES, _NUMBERS = "trajectory_coordinates", "atoms_number"


class _File:
    """One HDF5 file, opened in each process when that process first reads from it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handles: Dict[int, Any] = {}

    def __call__(self) -> Any:
        import h5py

        process = os.getpid()
        if process not in self._handles:
            # A handle inherited from a parent process must not be used: HDF5 is not fork-safe.
            self._handles = {process: h5py.File(self.path, "r")}
        return self._handles[process]

    def __getstate__(self) -> Dict[str, Any]:
        return {"path": self.path, "_handles": {}}


class _Frames:
    """The frames of one complex: ``len`` and indexing read from the file."""

    def __init__(self, file: _File, name: str, count: int) -> None:
        self._file, self._name, self._count = file, name, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, frame: int) -> np.ndarray:
        positions = self._file()[self._name][_COORDINATES][frame]
        if not np.isfinite(positions).all():
            raise ValueError(f"{self._name}: frame {frame} holds NaN or infinite positions; leave it out")
        return positions


class _Complex:
    """One complex of the file with the attributes of :class:`dkmp_plugin.datasets.run.Run`."""

    boxes = None
    spacing = None

    def __init__(self, file: _File, name: str, count: int) -> None:
        self._file, self.name = file, name
        self.positions = _Frames(file, name, count)

    @property
    def numbers(self) -> np.ndarray:
        numbers = self._file()[self.name][_NUMBERS][:].astype(np.int64)
        if numbers.min() < 1:
            raise ValueError(
                f"{self.name}: atom {int(numbers.argmin())} has atomic number {numbers.min()}, at least 1 is "
                "expected; leave this complex out"
            )
        return numbers


def read_split_list(path: Union[str, Path]) -> List[str]:
    """PDB codes of a split list, one a line.

    Raises:
        ValueError: the file is missing or empty.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; the official split lists are at {SOURCE}")
    names = path.read_text().split()
    if not names:
        raise ValueError(f"{path} is empty; PDB codes, one a line, are expected")
    return names


class DKMPMISATO(FramePairs):
    """Frame pairs of MISATO: 100 frames each of 16,972 protein-ligand complexes, without water.

    Expects ``root/MD.hdf5`` (one group per PDB code with ``trajectory_coordinates`` (T, N, 3) in Å and
    ``atoms_number`` (N,)) and the official lists ``train_MD.txt``, ``val_MD.txt``, ``test_MD.txt``. Only the
    frames of an item are read; memory does not grow with the file, apart from ``num_neighbors`` ranks, which
    are kept once computed (4 M bytes per atom and complex): leave it 0 for the whole set.

    Args:
        root: folder of the files (torchmd-train's ``dataset_root``).
        file: name of the HDF5 file.
        max_training_atoms: larger complexes are left out of training (paper: 10,000); 0 keeps all.
        allow_missing: take only the listed complexes that are in the file, for subsets of MISATO.
        **sampling: see :class:`dkmp_plugin.datasets.sampling.Sampling` (``lag``, ``augment_...``, ...).

    Raises:
        ValueError: missing or damaged files, listed complexes that are not in the file, or listed twice, no
            training complex that is small enough, positions in nm.
    """

    def __init__(
        self,
        root: str,
        file: str = "MD.hdf5",
        max_training_atoms: int = 10000,
        allow_missing: bool = False,
        **sampling: Any,
    ) -> None:
        options = Sampling(**sampling)
        check_whole_number("max_training_atoms", max_training_atoms, 0)
        check_boolean("allow_missing", allow_missing)
        folder = Path(root).expanduser()
        source = _open(folder / file)
        listed = {split: read_split_list(folder / name) for split, name in SPLIT_FILES.items()}
        _refuse_shared_complexes(listed)
        parts = []
        for split, names in listed.items():
            limit = max_training_atoms if split == "train" else 0
            parts.append(_complexes(source, names, limit, allow_missing))
        if not parts[0]:
            raise ValueError(
                f"max_training_atoms: {max_training_atoms} was given, none of the {len(listed['train'])} "
                f"complexes of {SPLIT_FILES['train']} is in the file and as small; raise it, or list others"
            )
        _check_units(parts[0][0])
        super().__init__(
            (parts[0], parts[1], parts[2]),  # type: ignore[arg-type]
            options,
            {"system": "MISATO", "max_training_atoms": max_training_atoms},
        )


def _refuse_shared_complexes(listed: Dict[str, List[str]]) -> None:
    for split, names in listed.items():
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"{SPLIT_FILES[split]} lists {twice} more than once; list each complex once")
    for first, second in combinations(listed, 2):
        shared = sorted(set(listed[first]) & set(listed[second]))
        if shared:
            raise ValueError(
                f"{SPLIT_FILES[first]} and {SPLIT_FILES[second]} share {len(shared)} complexes (the first: "
                f"{shared[0]}); errors on what training has seen say nothing: list each in one of them"
            )


def _open(path: Path) -> _File:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; download it from {SOURCE}")
    source = _File(path)
    try:
        source()
    except OSError as error:
        raise ValueError(f"{path} is truncated or no HDF5 file ({error}); download it again") from error
    return source


def _complexes(source: _File, names: Sequence[str], max_atoms: int, allow_missing: bool) -> List[_Complex]:
    found: List[_Complex] = []
    missing: List[str] = []
    for name in names:
        if name not in source():
            missing.append(name)
            continue
        frames, atoms = _shape(source, name)
        if max_atoms == 0 or atoms <= max_atoms:
            found.append(_Complex(source, name, frames))
    if missing and not allow_missing:
        raise ValueError(
            f"{source.path} lacks {len(missing)} of {len(names)} listed complexes (the first: {missing[0]}); "
            "download the whole file, or set allow_missing: true to train on a part of it"
        )
    return found


def _shape(source: _File, name: str) -> Tuple[int, int]:
    group = source()[name]
    for key in (_COORDINATES, _NUMBERS):
        if key not in group:
            raise ValueError(f"{source.path}: complex {name} has no {key}; MISATO's MD.hdf5 is expected")
    frames, atoms = group[_COORDINATES].shape[:2]
    if group[_NUMBERS].shape != (atoms,) or group[_COORDINATES].shape[2:] != (3,):
        raise ValueError(
            f"{source.path}: complex {name} has coordinates {group[_COORDINATES].shape} and "
            f"{group[_NUMBERS].shape} atomic numbers; (T, N, 3) and (N,) are expected"
        )
    return frames, atoms


def _check_units(sample: _Complex) -> None:
    """Neighbouring atoms are about 1 Å apart; in nm they would be 0.1 apart."""
    positions = sample.positions[0]
    if len(positions) < 2:
        return
    nearest = median_nearest_distance(positions)
    if not 0.6 <= nearest <= 4.0:
        raise ValueError(
            f"{sample.name}: neighbouring atoms are {nearest:.3g} apart, about 1 to 1.5 Å is expected; the "
            "coordinates must be in Å"
        )
