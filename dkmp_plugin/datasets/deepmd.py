"""DeePMD-kit's folders of NumPy arrays: ``dataset: DKMPDeePMD``."""

from pathlib import Path
from typing import List, Mapping, Optional, Tuple

import numpy as np
from torchmdnet.utils import ATOMIC_NUMBERS

from dkmp_plugin.datasets.energy_forces import EnergyForces
from dkmp_plugin.datasets.file_selections import Files, read_splits
from dkmp_plugin.datasets.labelled_structures import (
    LabelledStructures,
    join_structures,
    structures_of_one_molecule,
)

# Types (M, N) of the atoms of each frame, -1 for none: only in the layout deepmd/npy/mixed.
_MIXED_TYPES = "real_atom_types"


def _read_types(system: Path) -> Tuple[np.ndarray, List[str]]:
    """Types (N,) of a system's atoms from type.raw, and names of the types from type_map.raw."""
    for name in ("type.raw", "type_map.raw"):
        if not (system / name).is_file():
            raise ValueError(
                f"there is no file {system / name}; a DeePMD-kit system has type.raw (one number per atom), "
                "type_map.raw (one element per type) and folders set.*"
            )
    symbols = (system / "type_map.raw").read_text().split()
    types = [_whole_number(text, system / "type.raw") for text in (system / "type.raw").read_text().split()]
    if min(types, default=0) < 0 or max(types, default=0) >= len(symbols):
        raise ValueError(
            f"{system}: type_map.raw lists {', '.join(symbols)} for types from {min(types)} to {max(types)}; "
            "types count from 0, and one element symbol per type is expected"
        )
    return np.array(types, dtype=np.int64), symbols


def _whole_number(text: str, path: Path) -> int:
    """Some programs write types as floats."""
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not number.is_integer():
        raise ValueError(f"{path} holds {text!r}, whole numbers that count the types from 0 are expected")
    return int(number)


def _elements(types: np.ndarray, symbols: List[str], system: Path) -> np.ndarray:
    """Atomic numbers of atoms; types that none of them has may be called anything."""
    unknown = sorted({symbols[number] for number in np.unique(types)} - set(ATOMIC_NUMBERS))
    if unknown:
        raise ValueError(
            f"{system / 'type_map.raw'} names {', '.join(unknown)} for a type that occurs; an element symbol "
            "is expected; isotopes are given by their element"
        )
    return np.array([ATOMIC_NUMBERS.get(symbol, 0) for symbol in symbols], dtype=np.int64)[types]


def _load(path: Path) -> np.ndarray:
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{path} is not a readable .npy file ({error}); copy or write it anew") from error
    if not isinstance(values, np.ndarray) or values.ndim == 0 or len(values) == 0:
        raise ValueError(f"{path} holds no rows; one for each frame is expected, copy or write it anew")
    if values.dtype.kind not in "fiu":
        raise ValueError(f"{path} holds values of type {values.dtype}, numbers are expected; write it anew")
    return values


def _read_set(
    folder: Path, system: Path, types: np.ndarray, symbols: List[str], periodic: bool
) -> LabelledStructures:
    names = ["coord", "energy", "force"] + (["box"] if periodic else [])
    missing = [f"{name}.npy" for name in names if not (folder / f"{name}.npy").is_file()]
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing)}; it has a file per array")
    mixed = (folder / f"{_MIXED_TYPES}.npy").is_file()
    names += [_MIXED_TYPES] if mixed else []
    arrays = {name: _load(folder / f"{name}.npy") for name in names}
    count, atoms = len(arrays["energy"]), len(types)
    expected = {"coord": 3 * atoms, "force": 3 * atoms, "box": 9, _MIXED_TYPES: atoms}
    for name, width in expected.items():
        if name in arrays and arrays[name].reshape(len(arrays[name]), -1).shape != (count, width):
            raise ValueError(
                f"{folder / name}.npy has shape {arrays[name].shape}, but {count} energies of {atoms} "
                f"atoms ask for ({count}, {width})"
            )
    positions, forces = (arrays[name].reshape(count, -1, 3) for name in ("coord", "force"))
    energies = arrays["energy"].astype(np.float64)
    boxes = arrays["box"].reshape(count, 3, 3) if periodic else None
    there: Optional[np.ndarray] = None
    if mixed:
        of_frames = arrays[_MIXED_TYPES].reshape(count, -1).astype(np.int64)
        if of_frames.min() < -1 or of_frames.max() >= len(symbols):
            raise ValueError(
                f"{folder / _MIXED_TYPES}.npy holds types from {of_frames.min()} to {of_frames.max()}; -1 (no"
                f" atom) to {len(symbols) - 1} are expected: type_map.raw lists {len(symbols)} elements"
            )
        there = of_frames >= 0
        types = of_frames[there]
    elements = _elements(types, symbols, system)
    try:
        if there is None:
            return structures_of_one_molecule(elements, positions, energies, forces, "eV", boxes)
        return LabelledStructures(
            atom_counts=there.sum(axis=1),
            atomic_numbers=elements,
            positions=positions[there],
            energies=energies.reshape(-1),
            forces=forces[there],
            energy_unit="eV",
            boxes=boxes,
        )
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def read_deepmd(path: Path) -> LabelledStructures:
    """Reads a system (a folder with ``type.raw``) or one of its ``set.*`` folders; eV, eV/Å, Å.

    A system with a file ``nopbc`` has open boundaries, any other has a box (box vectors as rows). Where a set
    has a file ``real_atom_types.npy`` (``deepmd/npy/mixed``), frames differ in their elements.

    Raises:
        ValueError: missing files, arrays that disagree, atoms of no element, boxes that are not 3 x 3, NaN.
    """
    system = path.parent if path.name.startswith("set.") else path
    if not path.is_dir():
        raise ValueError(f"there is no folder {path}; correct dataset_root or the name of the system")
    types, symbols = _read_types(system)
    folders: List[Path] = [path] if system != path else sorted(path.glob("set.*"))
    if not folders:
        raise ValueError(f"{path} has no folders set.*; energies and forces are expected there")
    periodic = not (system / "nopbc").exists()
    return join_structures([_read_set(folder, system, types, symbols, periodic) for folder in folders])


class DKMPDeePMD(EnergyForces):
    """Structures in DeePMD-kit's layouts ``deepmd/npy`` and ``deepmd/npy/mixed``: eV, eV/Å.

    A system is periodic unless a file ``nopbc`` is there.

    Energies in ``energy.npy`` are often float32: of total energies of -30,000 eV that leaves 0.002 eV.

    Args:
        root: folder that the system names are relative to (torchmd-train's ``dataset_root``).
        files: systems or their ``set.*`` folders that torchmd-net splits; or
        train: those for training,
        val: for validation,
        test: and for test. Each name may carry a selection: ``FOLDER@start:stop:step``.
        level_of_theory: where the labels come from.
        total_charge: of every structure; unknown by default.
        reference_energies: see :class:`EnergyForces`.

    Raises:
        ValueError: see :func:`read_deepmd` and :func:`dkmp_plugin.datasets.file_selections.read_splits`.
    """

    def __init__(
        self,
        root: str,
        files: Files = (),
        train: Files = (),
        val: Files = (),
        test: Files = (),
        level_of_theory: str = "",
        total_charge: Optional[int] = None,
        reference_energies: Optional[Mapping[int, float]] = None,
    ) -> None:
        structures, split = read_splits(root, files, train, val, test, read_deepmd)
        super().__init__(structures, split, level_of_theory, total_charge, reference_energies)
