"""Structures with energies and forces, whatever file they come from: arrays, checks, reference energies."""

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence

import numpy as np

from dkmp_plugin.units import ENERGY_UNITS


@dataclass(frozen=True)
class LabelledStructures:
    """M structures, their A atoms one after the other; structures may differ in size and composition.

    Attributes:
        atom_counts: (M,) atoms of each structure.
        atomic_numbers: (A,).
        positions: (A, 3) in Å.
        energies: (M,) total energies in ``energy_unit``.
        forces: (A, 3) in ``energy_unit`` per Å.
        energy_unit: one of ``dkmp_plugin.units.ENERGY_UNITS``.
        boxes: (M, 3, 3) box vectors as rows in Å, or None for open boundaries.
        stresses: (M, 3, 3) in ``energy_unit`` per Å^3, or None.
        total_charge: of every structure, in elementary charges; None if unknown.

    Raises:
        ValueError: no structures, shapes that disagree, NaN or infinity, unknown elements or unit.
    """

    atom_counts: np.ndarray
    atomic_numbers: np.ndarray
    positions: np.ndarray
    energies: np.ndarray
    forces: np.ndarray
    energy_unit: str
    boxes: Optional[np.ndarray] = None
    stresses: Optional[np.ndarray] = None
    total_charge: Optional[int] = None

    def __post_init__(self) -> None:
        if self.energy_unit not in ENERGY_UNITS:
            raise ValueError(
                f"energy_unit: {self.energy_unit!r} was given, one of {', '.join(ENERGY_UNITS)} is expected; "
                "say in which unit the energies of the file are"
            )
        if len(self.atom_counts) == 0 or min(self.atom_counts) < 1:
            raise ValueError("no structures, or structures without atoms; at least one of each is expected")
        self._check_shapes()
        self._check_values()

    def _check_shapes(self) -> None:
        structures, atoms = len(self.atom_counts), int(np.sum(self.atom_counts))
        expected = {
            "atomic_numbers": (atoms,),
            "positions": (atoms, 3),
            "energies": (structures,),
            "forces": (atoms, 3),
            "boxes": (structures, 3, 3),
            "stresses": (structures, 3, 3),
        }
        for name, shape in expected.items():
            values = getattr(self, name)
            if values is not None and values.shape != shape:
                raise ValueError(
                    f"{name} have shape {values.shape}, but {structures} structures of {atoms} atoms "
                    f"altogether ask for {shape}; all arrays must come from the same structures"
                )

    def _check_values(self) -> None:
        structure_of_atom = np.repeat(np.arange(len(self.atom_counts)), self.atom_counts)
        for name in ("positions", "energies", "forces", "boxes", "stresses"):
            values = getattr(self, name)
            if values is None or np.isfinite(values).all():
                continue
            bad = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
            if name in ("positions", "forces"):
                bad = np.unique(structure_of_atom[bad])
            raise ValueError(
                f"{name} hold NaN or infinity in {bad.size} of {len(self)} structures (first: {bad[0]}); "
                "remove or relabel them"
            )
        if self.elements[0] < 1 or self.elements[-1] > 118:
            raise ValueError(f"atomic_numbers hold {self.elements}, numbers from 1 to 118 are expected")
        if self.boxes is not None and (np.abs(np.linalg.det(self.boxes)) < 1e-6).any():
            raise ValueError("boxes: a box has no volume; three independent vectors as rows are expected")

    def __len__(self) -> int:
        return len(self.atom_counts)

    @property
    def elements(self) -> List[int]:
        """The atomic numbers that occur, ascending."""
        return [int(number) for number in np.unique(self.atomic_numbers)]

    def composition(self) -> np.ndarray:
        """How often each of ``elements`` occurs in each structure, shape (M, elements)."""
        first_atoms = np.concatenate([[0], np.cumsum(self.atom_counts)[:-1]])
        counts = [np.add.reduceat(self.atomic_numbers == element, first_atoms) for element in self.elements]
        return np.stack(counts, axis=1)

    def __getitem__(self, selection: slice) -> "LabelledStructures":
        """The structures that a slice selects."""
        indices = np.arange(len(self))[selection]
        if indices.size == 0:
            raise ValueError(f"{selection} selects none of {len(self)} structures; correct the selection")
        ends = np.cumsum(self.atom_counts)
        atoms = np.concatenate([np.arange(ends[i] - self.atom_counts[i], ends[i]) for i in indices])
        return LabelledStructures(
            atom_counts=self.atom_counts[indices],
            atomic_numbers=self.atomic_numbers[atoms],
            positions=self.positions[atoms],
            energies=self.energies[indices],
            forces=self.forces[atoms],
            energy_unit=self.energy_unit,
            boxes=None if self.boxes is None else self.boxes[indices],
            stresses=None if self.stresses is None else self.stresses[indices],
            total_charge=self.total_charge,
        )


def structures_of_one_molecule(
    atomic_numbers: np.ndarray,
    positions: np.ndarray,
    energies: np.ndarray,
    forces: np.ndarray,
    energy_unit: str,
    boxes: Optional[np.ndarray] = None,
) -> LabelledStructures:
    """Structures that differ in their positions only.

    Args:
        atomic_numbers: (N,).
        positions: (M, N, 3) in Å.
        energies: (M,) or (M, 1).
        forces: (M, N, 3).
        energy_unit: unit of the energies; forces are in it per Å.
        boxes: (M, 3, 3), one box (3, 3) for all, or None.

    Raises:
        ValueError: shapes that disagree, and what :class:`LabelledStructures` refuses.
    """
    if positions.ndim != 3 or positions.shape[2] != 3 or atomic_numbers.shape != positions.shape[1:2]:
        raise ValueError(
            f"positions have shape {positions.shape} and atomic numbers {atomic_numbers.shape}; "
            "(structures, atoms, 3) and (atoms,) are expected"
        )
    if forces.shape != positions.shape:
        raise ValueError(
            f"forces have shape {forces.shape}, positions {positions.shape}; the same shape is expected"
        )
    count, atoms, _ = positions.shape
    if boxes is not None and boxes.shape == (3, 3):
        boxes = np.broadcast_to(boxes, (count, 3, 3))
    return LabelledStructures(
        atom_counts=np.full(count, atoms),
        atomic_numbers=np.tile(atomic_numbers, count),
        positions=positions.reshape(-1, 3),
        energies=energies[:, 0] if energies.shape == (count, 1) else energies,
        forces=forces.reshape(-1, 3),
        energy_unit=energy_unit,
        boxes=boxes,
    )


def join_structures(parts: Sequence[LabelledStructures]) -> LabelledStructures:
    """Structures of several files one after the other.

    Raises:
        ValueError: different units or charges, or a mixture of periodic and open structures.
    """
    units = sorted({part.energy_unit for part in parts})
    if len(units) != 1:
        raise ValueError(f"energies in {' and '.join(units)} cannot be joined; convert them to one unit")
    joined: Dict[str, Optional[np.ndarray]] = {}
    for name in ("boxes", "stresses"):
        present = [getattr(part, name) for part in parts if getattr(part, name) is not None]
        if present and len(present) != len(parts):
            raise ValueError(f"some files have {name}, others have none; use them in separate trainings")
        joined[name] = np.concatenate(present) if present else None
    return LabelledStructures(
        atom_counts=np.concatenate([part.atom_counts for part in parts]),
        atomic_numbers=np.concatenate([part.atomic_numbers for part in parts]),
        positions=np.concatenate([part.positions for part in parts]),
        energies=np.concatenate([part.energies for part in parts]),
        forces=np.concatenate([part.forces for part in parts]),
        energy_unit=units[0],
        total_charge=_common_charge(parts),
        **joined,
    )


def _common_charge(parts: Sequence[LabelledStructures]) -> Optional[int]:
    charges = {part.total_charge for part in parts}
    if len(charges) > 1:
        known = [str(charge) for charge in sorted(charge for charge in charges if charge is not None)]
        said = known + (["unknown"] if None in charges else [])
        raise ValueError(
            f"total charges {' and '.join(said)} cannot be joined, because models do not see the charge; use "
            "files of one charge, and give total_charge in dataset_arg for those that do not declare theirs"
        )
    return charges.pop()


def check_total_charge(given: Any, name: str = "total_charge") -> int:
    """A total charge that a user or a file gave, as a plain integer.

    Args:
        given: The value.
        name: What to call it in the error.

    Raises:
        ValueError: it is no whole number.
    """
    try:
        # float(True) is 1.
        number = float("nan") if isinstance(given, (bool, np.bool_)) else float(given)
    except (TypeError, ValueError):
        number = float("nan")
    if not number.is_integer():
        plain = given.item() if isinstance(given, np.generic) else given
        raise ValueError(
            f"{name}: {plain!r} was given, a whole number of elementary charges is expected, such as 0 or -1"
        )
    return int(number)


def least_squares_reference_energies(
    elements: Sequence[int], composition: np.ndarray, energies: np.ndarray
) -> Dict[int, float]:
    """Per-element energies whose sum comes closest to the given total energies.

    Where all structures have the same composition only the sum is determined (the mean energy); the smallest
    values that give it are taken. They have no physical meaning beyond that sum.

    Args:
        elements: The E elements.
        composition: (M, E) how often each occurs in each structure.
        energies: (M,) total energies.

    Returns:
        Atomic number -> energy, in the unit of ``energies``.
    """
    solution, *_ = np.linalg.lstsq(composition.astype(np.float64), energies.astype(np.float64), rcond=None)
    return {int(element): float(value) for element, value in zip(elements, solution, strict=True)}


def check_reference_energies(elements: Sequence[int], given: Mapping[int, float]) -> Dict[int, float]:
    """Reference energies that a user gave, with plain keys and values.

    Raises:
        ValueError: an element of the data has none, keys that are no atomic numbers, values that are no
            energies, or anything else than a mapping.
    """
    if not isinstance(given, Mapping):
        raise ValueError(
            f"reference_energies: {given!r} was given, an energy for each atomic number is expected, such as "
            "{1: -13.6, 8: -2040.3}; leave it out for a fit, or give {} for total energies"
        )
    references: Dict[int, float] = {}
    for element, energy in given.items():
        try:
            references[int(element)] = float(energy)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"reference_energies: {element!r}: {energy!r} was given, an atomic number and an energy are "
                "expected, such as 1: -13.6"
            ) from error
    uncovered = sorted(set(elements) - set(references))
    if uncovered:
        raise ValueError(
            f"reference_energies lack the elements {uncovered} that the data has; give one energy for each"
        )
    return references
