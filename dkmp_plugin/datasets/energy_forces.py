"""The part that all energy-and-force datasets share: items, splits, reference energies, metadata."""

from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NoReturn, Optional, Protocol, Sequence, Tuple, Union

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data, Dataset

from dkmp_plugin.datasets.arguments import check_arguments
from dkmp_plugin.datasets.label_checks import check_total_charge
from dkmp_plugin.datasets.labelled_structures import LabelledStructures, join_structures, selected_indices
from dkmp_plugin.datasets.reference_energies import (
    check_reference_energies,
    least_squares_reference_energies,
)

# One name or several, each with an optional selection as ASE writes it: FILE@start:stop:step
Files = Union[str, Sequence[str]]
SplitIndices = Tuple[np.ndarray, np.ndarray, np.ndarray]
# A model of more is no longer that of these molecules.
_MOST_COMPOSITIONS = 20
# A name as it was given, its file, and which of its structures
_Frames = Tuple[str, Path, np.ndarray]


class StructureFile(Protocol):
    """What was read of a file; structures that nobody selects need not be checked."""

    def __len__(self) -> int: ...

    def __getitem__(self, selection: slice) -> LabelledStructures: ...


class EnergyForces(Dataset):
    """Energies and forces as torchmd-net trains on them.

    Each item is a ``torch_geometric.data.Data`` with ``z`` (N,), ``pos`` (N, 3) in Å, ``y`` (1, 1) energy and
    ``neg_dy`` (N, 3) forces in the data's unit (per Å), where periodic ``box`` (1, 3, 3) in Å, and where the
    file has it ``stress`` (1, 3, 3) in the unit per Å^3 (torchmd-net has no loss for it); all float64.

    ``y`` is relative to per-element reference energies: training happens in float32, whose seven digits
    total energies would use up. Unless they are given, they are fitted by least squares to the training
    structures; torchmd-train fits them anew when it has made its own split.

    Attributes:
        split_indices: Indices of the training, validation and test items if the dataset defines them; then
            torchmd-train uses them in place of its random split, unless ``splits`` is configured.
        metadata: What a checkpoint records: energy_unit, level_of_theory, total_charge, elements,
            reference_energies, compositions (atoms per element of each that occurs, unless they are many).

    Args:
        structures: All structures.
        split_indices: See above; None leaves splitting to torchmd-net.
        level_of_theory: Where the labels come from.
        total_charge: Of every structure, in elementary charges; None for what the structures declare.
        reference_energies: Atomic number -> energy; an empty one for total energies; None for a fit.
        transform: Applied to each item.

    Raises:
        ValueError: reference energies that lack an element, or a charge other than the structures'.
    """

    def __new__(cls, *positional: Any, **arguments: Any) -> "EnergyForces":
        check_arguments(cls, positional, arguments)
        return super().__new__(cls)

    def __init__(
        self,
        structures: LabelledStructures,
        split_indices: Optional[SplitIndices] = None,
        level_of_theory: str = "",
        total_charge: Optional[int] = None,
        reference_energies: Optional[Mapping[int, float]] = None,
        transform: Optional[Callable] = None,
    ) -> None:
        super().__init__(None, transform)
        self.structures = structures
        self.split_indices = split_indices
        self._composition = structures.composition()
        self._first_atoms = np.concatenate([[0], np.cumsum(structures.atom_counts)])
        self._numbers = torch.from_numpy(np.ascontiguousarray(structures.atomic_numbers)).long()
        self.metadata: Dict[str, Any] = {
            "energy_unit": structures.energy_unit,
            "level_of_theory": level_of_theory,
            "total_charge": _agreed_charge(total_charge, structures.total_charge),
            "elements": structures.elements,
        }
        compositions = structures.distinct_compositions()
        if len(compositions) <= _MOST_COMPOSITIONS:
            self.metadata["compositions"] = compositions
        self._fits = reference_energies is None
        if reference_energies is None:
            self.fit_reference_energies(None if split_indices is None else split_indices[0])
        elif reference_energies == {}:
            self._set_references({})
        else:
            self._set_references(check_reference_energies(structures.elements, reference_energies))

    def fit_reference_energies(self, training: Union[Sequence[int], np.ndarray, None] = None) -> None:
        """Fits the reference energies to the items ``training`` (None: all), unless they were given."""
        if not self._fits:
            return
        chosen = slice(None) if training is None else np.asarray(training)
        composition, energies = self._composition[chosen], self.structures.energies[chosen]
        occurs = composition.any(axis=0)
        if not occurs.all():
            missing = np.array(self.structures.elements)[~occurs].tolist()
            raise ValueError(
                f"the elements {missing} occur in no training structure; give their reference_energies or "
                "split otherwise"
            )
        self._set_references(
            least_squares_reference_energies(self.structures.elements, composition, energies)
        )

    def _set_references(self, references: Dict[int, float]) -> None:
        self.metadata["reference_energies"] = references
        per_element = np.array([references.get(element, 0.0) for element in self.structures.elements])
        self._reference_energies = self._composition @ per_element

    def total_energy(self, y: Tensor, idx: int = 0) -> Tensor:
        """Turns relative energies ``y`` of item ``idx`` back into total energies (float64, same unit).

        Where all structures have the same composition, as in a trajectory, ``idx`` does not matter.
        """
        return y.double() + float(self._reference_energies[idx])

    def get_atomref(self, *_: Any) -> NoReturn:
        """What torchmd-net's prior ``Atomref`` asks a dataset for.

        Raises:
            ValueError: always, because training would subtract the energies of the atoms twice.
        """
        raise ValueError(
            f"prior_model: Atomref and remove_ref_energy: true were asked for, but {type(self).__name__} "
            "subtracts energies of the atoms already (reference_energies) and the checkpoint records them; "
            "remove prior_model and remove_ref_energy from the configuration"
        )

    def len(self) -> int:
        return len(self.structures)

    def get(self, idx: int) -> Data:
        atoms = slice(int(self._first_atoms[idx]), int(self._first_atoms[idx + 1]))
        energy = float(self.structures.energies[idx]) - self._reference_energies[idx]
        item = Data(
            z=self._numbers[atoms],
            pos=_double(self.structures.positions[atoms]),
            y=torch.tensor([[energy]], dtype=torch.float64),
            neg_dy=_double(self.structures.forces[atoms]),
        )
        if self.structures.boxes is not None:
            item.box = _double(self.structures.boxes[idx]).unsqueeze(0)
        if self.structures.stresses is not None:
            item.stress = _double(self.structures.stresses[idx]).unsqueeze(0)
        return item


def _agreed_charge(given: Optional[int], declared: Optional[int]) -> Optional[int]:
    if given is None:
        return declared
    charge = check_total_charge(given)
    if declared is not None and declared != charge:
        raise ValueError(
            f"total_charge: {charge} was given, but the files declare {declared}; remove total_charge from "
            "dataset_arg or correct it"
        )
    return charge


def _double(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float64))


def read_splits(
    root: Union[str, Path],
    files: Files,
    train: Files,
    val: Files,
    test: Files,
    read: Callable[[Path], StructureFile],
) -> Tuple[LabelledStructures, Optional[SplitIndices]]:
    """Reads ``files`` (torchmd-net splits them), or ``train``, ``val`` and ``test`` (the split is theirs).

    Args:
        root: Folder that the names are relative to.
        files: Names, each with an optional selection: ``FILE@start:stop:step``.
        train: The same for training.
        val: The same for validation.
        test: The same for test.
        read: Reads one file; what is selected of it is checked then.

    Returns:
        All structures, and the indices of each part, or None.

    Raises:
        ValueError: neither or both ways were used, a selection that cannot be read, parts or entries of
            ``files`` that overlap, or what ``read`` raises.
    """
    given = {"files": files, "train": train, "val": val, "test": test}
    parts = [_list_of_names(part, names) for part, names in given.items()]
    if bool(parts[0]) == bool(parts[1]) or (parts[0] and (parts[2] or parts[3])):
        raise ValueError(
            "dataset_arg: give either files, which torchmd-net splits, or train (and val and test)"
        )
    selections = [[_split_selection(name) for name in names] for names in parts]
    uses = Counter(file for part in selections for file, _ in part)
    whole: Dict[str, StructureFile] = {}
    structures: List[LabelledStructures] = []
    sizes = []
    chosen: List[List[_Frames]] = []
    for part in selections:
        size = 0
        chosen.append([])
        for file, selection in part:
            path = Path(root).expanduser() / file
            if file not in whole:
                whole[file] = read(path)
            structures.append(whole[file][selection])
            chosen[-1].append((file, path.resolve(), selected_indices(len(whole[file]), selection)))
            size += len(structures[-1])
            uses[file] -= 1
            if uses[file] == 0:
                # What was selected has been copied.
                del whole[file]
        sizes.append(size)
    _refuse_repetition(chosen[0])
    _refuse_overlap(dict(zip(("train", "val", "test"), chosen[1:], strict=True)))
    joined = join_structures(structures)
    if parts[0]:
        return joined, None
    training, validation, test_part = np.split(np.arange(len(joined)), np.cumsum(sizes[1:])[:-1])
    return joined, (training, validation, test_part)


def _list_of_names(part: str, names: Files) -> List[str]:
    listed = [names] if isinstance(names, str) else names
    if not isinstance(listed, (list, tuple)) or not all(isinstance(name, str) for name in listed):
        raise ValueError(
            f"dataset_arg: {part}: {names!r} was given, the name of a file or a list of names is expected"
        )
    return list(listed)


def _refuse_overlap(parts: Dict[str, List[_Frames]]) -> None:
    """Errors on structures that training has seen say nothing about others."""
    for first, second in combinations(parts, 2):
        for entry in parts[first]:
            _refuse_shared(f"dataset_arg: {first} and {second}", entry, parts[second])


def _refuse_repetition(entries: List[_Frames]) -> None:
    """torchmd-net would give one copy of a structure to training and another to the test."""
    for number, entry in enumerate(entries):
        _refuse_shared("dataset_arg: entries of files", entry, entries[:number])


def _refuse_shared(which: str, entry: _Frames, others: List[_Frames]) -> None:
    name, path, frames = entry
    shared = [other for _, other_path, other in others if other_path == path]
    count = np.isin(frames, np.concatenate(shared)).sum() if shared else 0
    if count:
        raise ValueError(
            f"{which} share {count} frame{'s' if count > 1 else ''} of {name}; select others, as in "
            "FILE@:450 and FILE@450:"
        )
    for other_name, other_path, _ in others:
        if path in other_path.parents or other_path in path.parents:
            raise ValueError(
                f"{which} overlap: they name {name} and {other_name}, one of which is a part of the other; "
                "instead of the whole system name its folders set.*"
            )


def _split_selection(name: str) -> Tuple[str, slice]:
    file, sign, selection = name.rpartition("@")
    # Names of files and folders may hold the sign: a selection has a colon, or is a number by mistake.
    if not sign or (":" not in selection and not selection.isdigit()):
        return name, slice(None)
    chosen = _slice(selection)
    if chosen is None:
        raise ValueError(
            f"{name!r} was given, FILE or FILE@start:stop or FILE@start:stop:step (not 0) is expected; a "
            f"name that itself ends like this is given as {name + '@:'!r}"
        )
    return file, chosen


def _slice(selection: str) -> Optional[slice]:
    """``start:stop`` or ``start:stop:step``, or None where it is neither."""
    try:
        bounds = [int(bound) if bound else None for bound in selection.split(":")]
    except ValueError:
        return None
    if len(bounds) not in (2, 3) or bounds[2:] == [0]:
        return None
    return slice(*bounds)


def add_selection(name: str, selection: str) -> str:
    """The name of a file with the ``selection`` of a user: all of it where that is empty.

    Raises:
        ValueError: it is no selection.
    """
    if selection == "":
        return name
    if _slice(str(selection)) is None:
        raise ValueError(
            f"selection: {selection!r} was given, start:stop or start:stop:step (not 0) is expected, such as "
            "':100'"
        )
    return f"{name}@{selection}"
