"""The molecule that a campaign samples and labels."""

import hashlib
from dataclasses import dataclass
from typing import Optional, Sequence, Tuple

import numpy as np

_LAST_ELEMENT_OF_GFN2 = 86


@dataclass(frozen=True, eq=False)
class Molecule:
    """One molecule alone in vacuum; plain values, so that it travels to other processes.

    Attributes:
        name: For file names and pages.
        atomic_numbers: (N,) int64.
        conformers: (C, N, 3) start structures in Å.
        charge: Total charge in elementary charges.
        force_field: XML of the ``openmm.System`` that samples conformations; None: GFN2-xTB samples them.
        source: Where it comes from, in words.
        bonds: Pairs of atoms that sampling with GFN2-xTB must keep; a force field keeps its own.

    Raises:
        ValueError: If shapes disagree, positions are not finite, GFN2-xTB does not know an element, or the
            number of electrons is odd.
    """

    name: str
    atomic_numbers: np.ndarray
    conformers: np.ndarray
    charge: int
    force_field: Optional[str]
    source: str
    bonds: Tuple[Tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        expected = (len(self.conformers), len(self.atomic_numbers), 3)
        if self.conformers.shape != expected or 0 in expected:
            raise ValueError(
                f"conformers of {self.name} have shape {self.conformers.shape}, expected (conformers, "
                f"{len(self.atomic_numbers)}, 3) with at least one"
            )
        if not np.isfinite(self.conformers).all():
            raise ValueError(f"the coordinates of {self.name} hold NaN or infinity; correct the input file")
        check_elements(self.atomic_numbers.tolist(), self.name)
        check_closed_shell(self.atomic_numbers.tolist(), self.charge, self.name)

    @property
    def fingerprint(self) -> str:
        """Tells molecules apart: elements, conformers, charge, force field and bonds."""
        digest = hashlib.sha256(np.ascontiguousarray(self.atomic_numbers, dtype=np.int64).tobytes())
        digest.update(np.ascontiguousarray(self.conformers, dtype=np.float64).tobytes())
        digest.update(f"{self.charge} {self.force_field}".encode())
        if self.bonds:
            digest.update(str(self.bonds).encode())
        return digest.hexdigest()


def check_closed_shell(numbers: Sequence[int], charge: int, name: str) -> None:
    """Refuse an odd number of electrons, of which GFN2-xTB would be asked without a word about their spin.

    Args:
        numbers: Atomic number of each atom.
        charge: Total charge in elementary charges.
        name: What to call the molecule in the error.

    Raises:
        ValueError: If the number is odd.
    """
    if (sum(numbers) - charge) % 2:
        raise ValueError(
            f"{name} with charge {charge:+d} has an odd number of electrons, an even number is expected "
            "(closed shell); check charge and hydrogens"
        )


def check_elements(numbers: Sequence[int], name: str) -> None:
    """Refuse elements that GFN2-xTB has no parameters for.

    Args:
        numbers: Atomic number of each atom.
        name: What to call the molecule in the error.

    Raises:
        ValueError: If there are any; the message names the atoms.
    """
    unknown = [
        f"{atom + 1} (atomic number {number})"
        for atom, number in enumerate(numbers)
        if not 1 <= number <= _LAST_ELEMENT_OF_GFN2
    ]
    if unknown:
        raise ValueError(
            f"{name}: GFN2-xTB knows the elements H (1) to Rn ({_LAST_ELEMENT_OF_GFN2}) only, but not those "
            f"of the atoms {', '.join(unknown)}, counted from 1 (0 is a dummy atom); it cannot label this "
            "molecule, take one of known elements"
        )
