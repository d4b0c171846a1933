"""Structures with energies and forces, whatever file they come from."""

from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence

import numpy as np

from dkmp_plugin.datasets.label_checks import check_atomic_numbers, check_energy_unit, check_finite


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
        check_energy_unit(self.energy_unit)
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
        structures = np.arange(len(self))
        structure_of_atom = np.repeat(structures, self.atom_counts)
        for name in ("positions", "energies", "forces", "boxes", "stresses"):
            rows = structure_of_atom if name in ("positions", "forces") else structures
            check_finite(name, getattr(self, name), rows)
        check_atomic_numbers(self.elements)
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

    def distinct_compositions(self) -> List[Dict[str, int]]:
        """Atoms per element (atomic number as text) of every composition that occurs."""
        rows = np.unique(self.composition(), axis=0)
        names = [str(element) for element in self.elements]
        return [
            {name: int(count) for name, count in zip(names, row, strict=True) if count > 0} for row in rows
        ]

    def __getitem__(self, selection: slice) -> "LabelledStructures":
        """The structures that a slice selects."""
        indices = selected_indices(len(self), selection)
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


def selected_indices(count: int, selection: slice) -> np.ndarray:
    """Which of ``count`` structures a slice selects.

    Raises:
        ValueError: it selects none.
    """
    indices = np.arange(count)[selection]
    if indices.size == 0:
        raise ValueError(f"{selection} selects none of {count} structures; correct the selection")
    return indices


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
