"""One HDF5 file of labelled conformations of one molecule: the format, its checks, its splits.

Layout (format version 1): datasets ``atomic_numbers`` (N,), ``positions`` (M, N, 3) in Å, ``energies`` (M,),
``forces`` (M, N, 3), ``run`` (M,) and, for periodic systems, ``boxes`` (M, 3, 3) in Å; attributes
``format``, ``format_version``, ``energy_unit``, ``force_unit``, ``length_unit``, ``level_of_theory``,
``total_charge``, ``sampling`` and ``reference_energies`` (both JSON).

``energies`` are the total energies as the method gives them, in float64. Training happens in float32,
which keeps about seven digits: total energies would leave no digits for the differences between
conformations. So the file also carries one constant per element, and what a model learns is
``energy - sum over atoms of reference_energies[element]``.
"""

import json
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Union

import h5py
import numpy as np

from dkmp_plugin.datasets.label_checks import (
    check_atomic_numbers,
    check_energy_unit,
    check_finite,
    check_total_charge,
)
from dkmp_plugin.datasets.labelled_structures import LabelledStructures, structures_of_one_molecule
from dkmp_plugin.datasets.reference_energies import check_reference_energies, fit_reference_energies
from dkmp_plugin.files import replaced_on_success

FORMAT = "dkmp-labels"
FORMAT_VERSION = 1
SPLITS = ("train", "val", "test")
_REQUIRED_DATASETS = ("atomic_numbers", "positions", "energies", "forces", "run")
_REQUIRED_ATTRIBUTES = ("energy_unit", "level_of_theory", "total_charge", "sampling", "reference_energies")


@dataclass(frozen=True)
class LabelledConformations:
    """Conformations of one molecule with energies and forces; M conformations, N atoms.

    Attributes:
        atomic_numbers: (N,) integers.
        positions: (M, N, 3) in Å.
        energies: (M,) total energies in ``energy_unit``.
        forces: (M, N, 3) in ``energy_unit`` per Å.
        run: (M,) index of the independent sampling run each conformation came from.
        energy_unit: one of ``dkmp_plugin.units.ENERGY_UNITS``.
        level_of_theory: the method and program the labels come from, e.g. ``GFN2-xTB (tblite 0.8.0)``.
        total_charge: in elementary charges.
        sampling: how the conformations were made; ``sampling["runs"]`` lists one entry per run with at
            least ``index`` and ``split`` (``train``, ``val`` or ``test``).
        reference_energies: atomic number -> energy that training subtracts per atom; empty: nothing.
        boxes: (M, 3, 3) box vectors as rows in Å, or None.

    Raises:
        ValueError: arrays that disagree in shape, hold NaN or infinity, or an unknown unit or split.
    """

    atomic_numbers: np.ndarray
    positions: np.ndarray
    energies: np.ndarray
    forces: np.ndarray
    run: np.ndarray
    energy_unit: str
    level_of_theory: str
    total_charge: int
    sampling: Dict[str, Any] = field(default_factory=dict)
    reference_energies: Dict[int, float] = field(default_factory=dict)
    boxes: Optional[np.ndarray] = None

    def __post_init__(self) -> None:
        self._check_shapes()
        self._check_values()

    def _check_shapes(self) -> None:
        if self.positions.ndim != 3 or self.positions.shape[2] != 3 or 0 in self.positions.shape:
            raise ValueError(
                f"positions have shape {self.positions.shape}, expected (conformations, atoms, 3) "
                "with at least one of each"
            )
        conformations, atoms, _ = self.positions.shape
        expected = {
            "atomic_numbers": (atoms,),
            "energies": (conformations,),
            "forces": (conformations, atoms, 3),
            "run": (conformations,),
        }
        if self.boxes is not None:
            expected["boxes"] = (conformations, 3, 3)
        for name, shape in expected.items():
            given = getattr(self, name).shape
            if given != shape:
                raise ValueError(
                    f"{name} have shape {given}, but positions {self.positions.shape} ask for {shape}; "
                    "write all arrays from the same conformations"
                )

    def _check_values(self) -> None:
        for name in ("positions", "energies", "forces", "boxes"):
            check_finite(name, getattr(self, name), np.arange(len(self)))
        check_energy_unit(self.energy_unit)
        check_atomic_numbers(self.elements)
        if self.reference_energies:
            check_reference_energies(self.elements, self.reference_energies)
        for entry in _listed_runs(self.sampling):
            if entry.get("split") not in SPLITS:
                raise ValueError(
                    f"run {entry.get('index')} has split {entry.get('split')!r}, "
                    f"expected one of {', '.join(SPLITS)}"
                )

    def __len__(self) -> int:
        return len(self.energies)

    @property
    def elements(self) -> List[int]:
        """The atomic numbers that occur, ascending."""
        return [int(number) for number in np.unique(self.atomic_numbers)]

    @property
    def reference_energy(self) -> float:
        """The constant that training subtracts from each total energy, in ``energy_unit``."""
        if not self.reference_energies:
            return 0.0
        return float(sum(self.reference_energies[int(number)] for number in self.atomic_numbers))


def _listed_runs(sampling: Any) -> List[Dict[str, Any]]:
    runs = sampling.get("runs", []) if isinstance(sampling, dict) else None
    if not isinstance(runs, list):
        raise ValueError(
            f"sampling is {str(sampling)[:60]}, a mapping is expected whose runs are a list, as in "
            '{"runs": [{"index": 0, "split": "train"}]}'
        )
    for entry in runs:
        if not isinstance(entry, dict) or not isinstance(entry.get("index"), int):
            raise ValueError(
                f"sampling: runs list {str(entry)[:60]}, an index (a whole number) and a split are expected, "
                'as in {"index": 0, "split": "train"}'
            )
    return runs


def write_label_file(path: Union[str, Path], labels: LabelledConformations) -> None:
    """Writes ``labels`` to ``path`` (HDF5), replacing the file only when all of it is written."""
    with replaced_on_success(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(
            format=FORMAT,
            format_version=FORMAT_VERSION,
            energy_unit=labels.energy_unit,
            force_unit=f"{labels.energy_unit}/angstrom",
            length_unit="angstrom",
            level_of_theory=labels.level_of_theory,
            total_charge=labels.total_charge,
            sampling=json.dumps(labels.sampling),
            reference_energies=json.dumps(labels.reference_energies),
        )
        for name in _REQUIRED_DATASETS:
            file.create_dataset(name, data=getattr(labels, name))
        if labels.boxes is not None:
            file.create_dataset("boxes", data=labels.boxes)


def read_label_file(path: Union[str, Path]) -> LabelledConformations:
    """Reads and checks a label file.

    Raises:
        ValueError: the file is missing, is not a label file, lacks a dataset or attribute, or its
            arrays disagree or hold NaN; the message names the file and the remedy.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(
            f"there is no label file {path}; expected an HDF5 file as examples/01_label_p_xylene.py writes it"
        )
    try:
        with h5py.File(path, "r") as file:
            return _read_open_file(file)
    except OSError as error:
        raise ValueError(f"{path} is not a readable HDF5 file ({error}); write it anew") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def _read_open_file(file: h5py.File) -> LabelledConformations:
    attributes = file.attrs
    if attributes.get("format") != FORMAT:
        raise ValueError(
            f"attribute format is {attributes.get('format')!r}, expected {FORMAT!r}; "
            "for torchmd-net's own HDF5 layout use `dataset: HDF5`"
        )
    version = attributes.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"format_version is {version}, this version reads {FORMAT_VERSION}; "
            "label again or install the dkmp-plugin that wrote it"
        )
    missing = [name for name in _REQUIRED_DATASETS if name not in file]
    missing += [name for name in _REQUIRED_ATTRIBUTES if name not in attributes]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}; write it with write_label_file")
    return LabelledConformations(
        **{name: file[name][()] for name in _REQUIRED_DATASETS},
        energy_unit=str(attributes["energy_unit"]),
        level_of_theory=str(attributes["level_of_theory"]),
        total_charge=check_total_charge(attributes["total_charge"]),
        sampling=json.loads(attributes["sampling"]),
        reference_energies=check_reference_energies([], json.loads(attributes["reference_energies"])),
        boxes=file["boxes"][()] if "boxes" in file else None,
    )


def merge_runs(parts: Sequence[LabelledConformations]) -> LabelledConformations:
    """Joins label sets of the same molecule and method and fits the reference energies on the training runs.

    Args:
        parts: one or more label sets, each with its ``sampling["runs"]``.

    Raises:
        ValueError: no parts, parts that differ in molecule, unit, method or charge, a run index that
            occurs twice, or no training run.
    """
    if not parts:
        raise ValueError("no label set was given, at least one is expected; name those to merge")
    first = parts[0]
    for part in parts[1:]:
        for name in ("energy_unit", "level_of_theory", "total_charge"):
            if getattr(part, name) != getattr(first, name):
                raise ValueError(
                    f"label sets with {name} {getattr(first, name)!r} and {getattr(part, name)!r} were "
                    "given, the same in all is expected; merge those that agree"
                )
        if not np.array_equal(part.atomic_numbers, first.atomic_numbers):
            raise ValueError(
                "label sets of different molecules or orders of atoms were given, one molecule in one order "
                "is expected; keep each in a file of its own"
            )
    runs = [entry for part in parts for entry in part.sampling.get("runs", [])]
    indices = [entry["index"] for entry in runs]
    if len(set(indices)) != len(indices):
        raise ValueError(
            f"a run index occurs twice in {indices}, each is expected once; number the runs of all parts "
            "together"
        )
    run = np.concatenate([part.run for part in parts])
    energies = np.concatenate([part.energies for part in parts])
    training_runs = [entry["index"] for entry in runs if entry["split"] == "train"]
    training = np.isin(run, training_runs)
    if not training.any():
        raise ValueError(
            "no run has split 'train', at least one is expected, to fit the reference energies to; make one "
            "a training run"
        )
    boxes = [part.boxes for part in parts if part.boxes is not None]
    if boxes and len(boxes) != len(parts):
        raise ValueError(
            "some label sets have boxes, others have none, the same in all is expected; keep them in two "
            "files"
        )
    return LabelledConformations(
        atomic_numbers=first.atomic_numbers,
        positions=np.concatenate([part.positions for part in parts]),
        energies=energies,
        forces=np.concatenate([part.forces for part in parts]),
        run=run,
        energy_unit=first.energy_unit,
        level_of_theory=first.level_of_theory,
        total_charge=first.total_charge,
        sampling={**first.sampling, "runs": runs},
        reference_energies=fit_reference_energies(first.atomic_numbers, energies[training]),
        boxes=np.concatenate(boxes) if boxes else None,
    )


def structures_of(labels: LabelledConformations) -> LabelledStructures:
    """The conformations as the structures of any other file."""
    structures = structures_of_one_molecule(
        labels.atomic_numbers,
        labels.positions,
        labels.energies,
        labels.forces,
        labels.energy_unit,
        labels.boxes,
    )
    return replace(structures, total_charge=labels.total_charge)


def split_indices(labels: LabelledConformations) -> Dict[str, np.ndarray]:
    """Indices of the conformations of each split; a run belongs to one split as a whole.

    Returns:
        ``train``, ``val``, ``test`` -> int64 indices, ascending.

    Raises:
        ValueError: a conformation's run is not listed in ``sampling["runs"]``, a run is listed twice, or a
            split is empty.
    """
    runs = labels.sampling.get("runs", [])
    split_of_run = {entry["index"]: entry["split"] for entry in runs}
    twice = sorted(run for run, times in Counter(entry["index"] for entry in runs).items() if times > 1)
    if twice:
        raise ValueError(
            f"the file's sampling description lists the runs {twice} more than once; list each with one split"
        )
    unknown = sorted(set(labels.run.tolist()) - set(split_of_run))
    if unknown:
        raise ValueError(
            f"the runs {unknown} are not listed in the file's sampling description; add their split"
        )
    splits = np.array([split_of_run[run] for run in labels.run.tolist()])
    indices = {name: np.flatnonzero(splits == name) for name in SPLITS}
    empty = [name for name, members in indices.items() if members.size == 0]
    if empty:
        raise ValueError(f"no run belongs to the split(s) {', '.join(empty)}; give at least one run to each")
    return indices


def write_splits(path: Union[str, Path], labels: LabelledConformations) -> None:
    """Writes torchmd-net's ``splits:`` file (npz with idx_train, idx_val, idx_test) for ``labels``."""
    indices = split_indices(labels)
    with replaced_on_success(path) as temporary:
        np.savez(temporary, idx_train=indices["train"], idx_val=indices["val"], idx_test=indices["test"])
