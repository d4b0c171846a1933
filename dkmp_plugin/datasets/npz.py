"""NumPy archives of one molecule, MD22's among them: ``dataset: DKMPNPZ``, ``dataset: DKMPMD22``."""

import zipfile
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional, Sequence

import numpy as np
from torchmdnet.utils import ATOMIC_NUMBERS

from dkmp_plugin.datasets.energy_forces import EnergyForces
from dkmp_plugin.datasets.file_selections import Files, add_selection, read_splits
from dkmp_plugin.datasets.labelled_structures import LabelledStructures, structures_of_one_molecule

# How sGDML, and after it MD17 and MD22, name the arrays.
SGDML_KEYS = {"numbers": "z", "positions": "R", "energies": "E", "forces": "F"}
MD22_LEVEL_OF_THEORY = "DFT (PBE+MBD)"


def open_archive(path: Path, names: Sequence[str], hint: str = "") -> Dict[str, np.ndarray]:
    """Arrays of an ``.npz`` file.

    Args:
        path: The file.
        names: Arrays that must be in it.
        hint: Where to get the file.

    Raises:
        ValueError: the file is missing, unreadable, or lacks an array.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}; {hint or 'correct dataset_root or the file name'}")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not a NumPy archive (.npz); download or write it anew")
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = archive.files
            # The texts that sGDML writes beside the arrays may be pickled objects: they are left alone.
            arrays = {name: archive[name] for name in names if name in found}
    except (zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
        raise ValueError(
            f"{path} is not a readable .npz file ({error}); download or write it anew"
        ) from error
    missing = [name for name in names if name not in arrays]
    if missing:
        raise ValueError(
            f"{path} lacks the arrays {', '.join(missing)} (it has {', '.join(found)}); "
            "name the arrays with the keys option or convert the file"
        )
    return arrays


def _atomic_number(symbol: str) -> float:
    return float(ATOMIC_NUMBERS.get(symbol, np.nan))


def _atomic_numbers(values: np.ndarray, name: str) -> np.ndarray:
    """Atomic numbers, which may be written as floats or as element symbols."""
    symbols = values.astype(str) if values.dtype.kind in "SU" else None
    numbers = values if symbols is None else np.vectorize(_atomic_number)(symbols)
    whole = np.asarray(numbers) % 1 == 0
    if not whole.all():
        bad = (values if symbols is None else symbols)[~whole].flat[0].item()
        raise ValueError(
            f"{name} holds {bad!r}, element symbols or atomic numbers are expected; "
            "isotopes are given by their element"
        )
    return numbers.astype(np.int64)


def read_npz(
    path: Path, energy_unit: Optional[str], keys: Mapping[str, str], hint: str = ""
) -> LabelledStructures:
    """Reads structures of one molecule.

    Args:
        path: The file.
        energy_unit: Unit of its energies; forces are in it per Å.
        keys: Names of the arrays for ``numbers`` (N,) or the same for each structure (M, N), which may be
            element symbols, ``positions`` (M, N, 3) in Å, ``energies`` (M,) or (M, 1), ``forces`` (M, N, 3),
            and optionally ``boxes`` (M, 3, 3) or (3, 3) in Å.
        hint: Where to get the file.

    Raises:
        ValueError: no unit, unknown keys, a missing file or array, arrays that disagree, NaN.
    """
    if energy_unit is None:
        raise ValueError(
            "energy_unit: none was given, and .npz files do not say theirs; add energy_unit to dataset_arg"
        )
    unknown = sorted(set(keys) - {*SGDML_KEYS, "boxes"})
    if unknown:
        raise ValueError(f"keys: {', '.join(unknown)} unknown; expected {', '.join(SGDML_KEYS)}, boxes")
    arrays = open_archive(path, list(keys.values()), hint)
    numbers = _atomic_numbers(arrays[keys["numbers"]], f"{path}: {keys['numbers']}")
    if numbers.ndim == 2 and len(numbers) > 0:
        others = np.flatnonzero((numbers != numbers[0]).any(axis=1))
        if len(others) > 0:
            raise ValueError(
                f"{path}: the atomic numbers of structure {others[0]} differ from those of the first; one "
                "molecule, its atoms in one order, is expected. Write others as extended XYZ (dataset: "
                "DKMPExtXYZ)"
            )
        numbers = numbers[0]
    try:
        return structures_of_one_molecule(
            atomic_numbers=numbers,
            positions=arrays[keys["positions"]],
            energies=arrays[keys["energies"]],
            forces=arrays[keys["forces"]],
            energy_unit=energy_unit,
            boxes=arrays[keys["boxes"]] if "boxes" in keys else None,
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


class DKMPNPZ(EnergyForces):
    """Structures of one molecule in ``.npz`` files, by default with the array names of sGDML (z, R, E, F).

    Args:
        root: folder that the file names are relative to (torchmd-train's ``dataset_root``).
        energy_unit: unit of the energies (required); forces are in it per Å.
        files: files that torchmd-net splits; or
        train: files for training,
        val: for validation,
        test: and for test. Each name may carry a selection: ``FILE@start:stop:step``.
        keys: names of the arrays where they differ; see :func:`read_npz`.
        level_of_theory: where the labels come from.
        total_charge: of the molecule; unknown by default.
        reference_energies: see :class:`EnergyForces`.

    Raises:
        ValueError: see :func:`read_npz` and :func:`dkmp_plugin.datasets.file_selections.read_splits`.
    """

    def __init__(
        self,
        root: str,
        energy_unit: Optional[str] = None,
        files: Files = (),
        train: Files = (),
        val: Files = (),
        test: Files = (),
        keys: Optional[Mapping[str, str]] = None,
        level_of_theory: str = "",
        total_charge: Optional[int] = None,
        reference_energies: Optional[Mapping[int, float]] = None,
    ) -> None:
        if keys is not None and not isinstance(keys, Mapping):
            raise ValueError(
                f"keys: {keys!r} was given, names by what they stand for are expected, such as {SGDML_KEYS}"
            )
        names = {**SGDML_KEYS, **(keys or {})}

        def read(path: Path) -> LabelledStructures:
            return read_npz(path, energy_unit, names)

        structures, split = read_splits(root, files, train, val, test, read)
        super().__init__(structures, split, level_of_theory, total_charge, reference_energies)


class DKMPMD22(EnergyForces):
    """One molecule of MD22 (Chmiela et al., doi:10.1126/sciadv.adf0873): kcal/mol, kcal/mol/Å.

    The files are those that torchmd-net's own ``MD22`` downloads. That one rounds total energies to float32
    (0.06 kcal/mol at -10^6 kcal/mol) and states no unit; here they stay float64 and lose their reference.

    Args:
        root: folder of the ``.npz`` files, or of torchmd-net's own copy (``MOLECULE/raw/``).
        molecule: ``Ac-Ala3-NHMe``, ``DHA``, ``stachyose``, ``AT-AT``, ``AT-AT-CG-CG``, ``buckyball-catcher``
            or ``dw-nanotube``.
        selection: ``start:stop:step`` of the file, all by default.
        reference_energies: see :class:`EnergyForces`.
        transform: applied to each item.

    Raises:
        ValueError: an unknown molecule, a missing file (the message has its address), or a damaged one.
    """

    def __init__(
        self,
        root: str,
        molecule: str,
        selection: str = "",
        reference_energies: Optional[Mapping[int, float]] = None,
        transform: Optional[Callable[[Any], Any]] = None,
    ) -> None:
        # Not at the top: the import hook needs this package while it extends torchmdnet.datasets.
        from torchmdnet.datasets import MD22

        if molecule not in MD22.file_names:
            known = ", ".join(MD22.file_names)
            raise ValueError(f"molecule: {molecule!r} was given, one of {known} is expected")
        name = MD22.file_names[molecule]
        hint = f"download {MD22.gdml_url}/{name} into {Path(root).expanduser()}"

        def read(path: Path) -> LabelledStructures:
            copy = path.parent / molecule / "raw" / path.name
            return read_npz(copy if copy.is_file() else path, "kcal/mol", SGDML_KEYS, hint)

        structures, _ = read_splits(root, add_selection(name, selection), (), (), (), read)
        super().__init__(structures, None, MD22_LEVEL_OF_THEORY, 0, reference_energies, transform)
