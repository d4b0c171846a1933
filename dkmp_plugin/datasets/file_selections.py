"""Which structures of which files a dataset takes, ``FILE@start:stop:step``, and which part gets which."""

from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Callable, Dict, List, Optional, Protocol, Sequence, Tuple, Union

import numpy as np

from dkmp_plugin.datasets.labelled_structures import LabelledStructures, join_structures, selected_indices

# One name or several, each with an optional selection as ASE writes it: FILE@start:stop:step
Files = Union[str, Sequence[str]]
SplitIndices = Tuple[np.ndarray, np.ndarray, np.ndarray]
# A name as it was given, its file, and which of its structures
_Frames = Tuple[str, Path, np.ndarray]


class StructureFile(Protocol):
    """What was read of a file; structures that nobody selects need not be checked."""

    def __len__(self) -> int: ...

    def __getitem__(self, selection: slice) -> LabelledStructures: ...


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
    selections = [[split_selection(name) for name in names] for names in parts]
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


def split_selection(name: str) -> Tuple[str, slice]:
    """A name, and which of its structures are meant: all where it carries no selection.

    Raises:
        ValueError: the selection cannot be read.
    """
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
