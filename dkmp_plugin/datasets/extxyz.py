"""Extended XYZ files through ASE: ``dataset: DKMPExtXYZ``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

import numpy as np

from dkmp_plugin.datasets.energy_forces import EnergyForces
from dkmp_plugin.datasets.file_selections import Files, read_splits
from dkmp_plugin.datasets.label_checks import check_total_charge
from dkmp_plugin.datasets.labelled_structures import LabelledStructures, selected_indices
from dkmp_plugin.datasets.xyz_frames import read_xyz_frames

# What a structure's total charge is called in its comment line.
_CHARGE_KEYS = ("charge", "total_charge")


def _property(frame: Any, key: str, path: Path, index: int) -> np.ndarray:
    """A per-structure or per-atom value, wherever ASE put it."""
    stores: List[Mapping[str, Any]] = [frame.info, frame.arrays]
    if frame.calc is not None:
        stores.insert(0, frame.calc.results)
    for store in stores:
        if key in store:
            return _numbers(store[key], f"{path}: frame {index}: {key}")
    known = sorted({name for store in stores for name in store})
    remedy = "name the right one with energy_key, forces_key or stress_key"
    if len(frame) == 1 or frame.info.get("config_type") == "IsolatedAtom":
        remedy = (
            "move such frames of one atom into a file of their own, for isolated_atoms in dataset_arg, or "
            + remedy
        )
    raise ValueError(f"{path}: frame {index} has no {key!r} (it has {', '.join(known)}); {remedy}")


def _numbers(values: Any, name: str) -> np.ndarray:
    try:
        # A name without a value is read as True.
        if np.asarray(values).dtype != bool:
            return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        pass
    raise ValueError(
        f"{name} is {str(values)[:60]!r}, numbers are expected; write them without a unit, and leave out "
        "structures without labels"
    )


def _declared_charge(frame: Any, path: Path, index: int) -> Optional[int]:
    name = f"{path}: frame {index}"
    charges = [
        check_total_charge(frame.info[key], f"{name}: {key}") for key in _CHARGE_KEYS if key in frame.info
    ]
    if len(set(charges)) > 1:
        both, said = " and ".join(_CHARGE_KEYS), " and ".join(map(str, charges))
        raise ValueError(f"{name}: {both} are {said}; one charge is expected, leave out the wrong one")
    return charges[0] if charges else None


def _common_charge(frames: Mapping[int, Any], path: Path, undeclared: Optional[int]) -> Optional[int]:
    """The charge of all frames; ``undeclared`` is that of frames that say nothing."""
    first_frames: Dict[Optional[int], int] = {}
    for index, frame in frames.items():
        declared = _declared_charge(frame, path, index)
        first_frames.setdefault(undeclared if declared is None else declared, index)
    if len(first_frames) > 1:
        said = [
            f"frame {index} declares none" if charge is None else f"frame {index} has charge {charge}"
            for charge, index in first_frames.items()
        ]
        raise ValueError(
            f"{path}: {', '.join(said[:2])}; models do not see the charge, so all frames must have the "
            "same. Keep those of one charge; total_charge in dataset_arg is that of frames that declare none"
        )
    return next(iter(first_frames))


@dataclass(frozen=True)
class ExtXYZFile:
    """The frames of a file; those that are selected are checked, as :func:`read_extxyz` says.

    Attributes:
        path: The file.
        frames: All of its frames, as ``ase.Atoms``.
        energy_unit: See :func:`read_extxyz`, as for what follows.
    """

    path: Path
    frames: Sequence[Any]
    energy_unit: str = "eV"
    energy_key: str = "energy"
    forces_key: str = "forces"
    stress_key: Optional[str] = None
    total_charge: Optional[int] = None

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, selection: slice) -> LabelledStructures:
        """The structures that a slice selects."""
        numbers = selected_indices(len(self), selection).tolist()
        frames = {number: self.frames[number] for number in numbers}
        is_periodic = self._is_periodic(list(frames.values()))
        energies = self._properties(frames, self.energy_key)
        forces = self._properties(frames, self.forces_key)
        stresses = None
        if self.stress_key is not None:
            from ase.stress import voigt_6_to_full_3x3_stress

            read = self._properties(frames, self.stress_key)
            stresses = np.array(
                [voigt_6_to_full_3x3_stress(s) if s.shape == (6,) else s.reshape(3, 3) for s in read]
            )
        charge = _common_charge(frames, self.path, self.total_charge)
        chosen = frames.values()
        try:
            return LabelledStructures(
                atom_counts=np.array([len(frame) for frame in chosen], dtype=np.int64),
                atomic_numbers=np.concatenate([frame.numbers for frame in chosen]),
                positions=np.concatenate([frame.positions for frame in chosen]),
                energies=np.array(energies).reshape(-1),
                forces=np.concatenate(forces),
                energy_unit=self.energy_unit,
                boxes=np.array([frame.cell.array for frame in chosen]) if is_periodic else None,
                stresses=stresses,
                total_charge=charge,
            )
        except ValueError as error:
            counted = "" if len(numbers) == len(self) else " (structures counted in the selection)"
            raise ValueError(f"{self.path}: {error}{counted}") from error

    def _properties(self, frames: Mapping[int, Any], key: str) -> List[np.ndarray]:
        return [_property(frame, key, self.path, number) for number, frame in frames.items()]

    def _is_periodic(self, frames: Sequence[Any]) -> bool:
        periodic = [bool(frame.pbc.all()) for frame in frames]
        if any(frame.pbc.any() and not frame.pbc.all() for frame in frames) or len(set(periodic)) > 1:
            raise ValueError(
                f"{self.path}: frames are periodic in some directions only, or not all alike; "
                "all must be periodic in three directions, or none"
            )
        return periodic[0]


def read_extxyz(
    path: Path,
    energy_unit: str = "eV",
    energy_key: str = "energy",
    forces_key: str = "forces",
    stress_key: Optional[str] = None,
    total_charge: Optional[int] = None,
) -> ExtXYZFile:
    """Reads all frames of a file; they may differ in size and composition, but not in their charge.

    Args:
        path: The file.
        energy_unit: Unit of its energies; forces are in it per Å, stresses per Å^3.
        energy_key: Name of the energies in the comment lines.
        forces_key: Name of the force columns.
        stress_key: Name of the stresses (six numbers in Voigt order or nine), or None.
        total_charge: Of frames that declare none as ``charge`` or ``total_charge`` in their comment lines;
            None if unknown.

    Returns:
        Frames to select structures from.

    Raises:
        ValueError: a missing or damaged file; on selection: a frame without energy or forces, frames of which
            some are periodic and others not, periodicity along some directions only, differing charges, NaN.
    """
    frames = read_xyz_frames(path)
    return ExtXYZFile(path, frames, energy_unit, energy_key, forces_key, stress_key, total_charge)


def read_isolated_atoms(path: Path, energy_key: str = "energy") -> Dict[int, float]:
    """Reference energies from frames of one atom each.

    Raises:
        ValueError: a frame of several atoms, an element twice, an energy that is missing or no number.
    """
    references: Dict[int, float] = {}
    for index, frame in enumerate(read_xyz_frames(path)):
        if len(frame) != 1 or int(frame.numbers[0]) in references:
            raise ValueError(
                f"{path}: frame {index} is {frame.symbols}; one frame of one atom per element is expected"
            )
        energy = _property(frame, energy_key, path, index)
        if energy.size != 1 or not np.isfinite(energy).all():
            raise ValueError(
                f"{path}: frame {index}: {energy_key} is {energy.tolist()}, one energy is expected; correct "
                "it, or name another with energy_key"
            )
        references[int(frame.numbers[0])] = energy.item()
    return references


class DKMPExtXYZ(EnergyForces):
    """Structures in extended XYZ files.

    Args:
        root: folder that the file names are relative to (torchmd-train's ``dataset_root``).
        files: files that torchmd-net splits; or
        train: files for training,
        val: for validation,
        test: and for test. Each name may carry a selection: ``FILE@start:stop:step``.
        energy_unit: unit of the energies, ASE's eV by default; forces are in it per Å.
        energy_key: name of the energies in the files.
        forces_key: name of the forces.
        stress_key: name of the stresses, or None to leave them.
        isolated_atoms: file with one frame per element: its energies become the reference energies.
        level_of_theory: where the labels come from.
        total_charge: of every structure; by default what the comment lines declare as ``charge`` or
            ``total_charge``, or unknown.
        reference_energies: see :class:`EnergyForces`.

    Raises:
        ValueError: see :func:`read_extxyz`, :func:`read_isolated_atoms` and
            :func:`dkmp_plugin.datasets.file_selections.read_splits`.
    """

    def __init__(
        self,
        root: str,
        files: Files = (),
        train: Files = (),
        val: Files = (),
        test: Files = (),
        energy_unit: str = "eV",
        energy_key: str = "energy",
        forces_key: str = "forces",
        stress_key: Optional[str] = None,
        isolated_atoms: Optional[str] = None,
        level_of_theory: str = "",
        total_charge: Optional[int] = None,
        reference_energies: Optional[Mapping[int, float]] = None,
    ) -> None:
        if isolated_atoms is not None:
            if reference_energies is not None:
                raise ValueError("isolated_atoms and reference_energies were both given; give one")
            reference_energies = read_isolated_atoms(Path(root).expanduser() / isolated_atoms, energy_key)

        charge = None if total_charge is None else check_total_charge(total_charge)

        def read(path: Path) -> ExtXYZFile:
            return read_extxyz(path, energy_unit, energy_key, forces_key, stress_key, charge)

        structures, split = read_splits(root, files, train, val, test, read)
        super().__init__(structures, split, level_of_theory, total_charge, reference_energies)
