"""Whether structures still have the bonds of the molecule that they are meant to be structures of."""

import hashlib
from typing import Dict, List, Sequence, Tuple

import numpy as np
from ase.data import chemical_symbols, covalent_radii

Bonds = Sequence[Tuple[int, int]]

# All in sums of covalent radii. At 800 K bonds of ordinary molecules reach 1.3, a proton on its way between
# two atoms 1.4; atoms that are neither bonded nor neighbours of one atom stay beyond 1.5.
_BROKEN = 1.5
_NEW_BOND = 1.2
_MOST_NAMED = 3


def changed_bonds(atomic_numbers: Sequence[int], bonds: Bonds, positions: np.ndarray) -> str:
    """What of the connectivity has changed in a structure, in words; empty where nothing has.

    A hydrogen that moves to an atom where it makes the same molecule again has changed nothing: enols of
    1,3-diketones and hydrogen maleate share their proton between two oxygen atoms.

    Args:
        atomic_numbers: (N,).
        bonds: Pairs of atoms.
        positions: (N, 3) in Å.
    """
    numbers = np.asarray(atomic_numbers)
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    radii = covalent_radii[numbers]
    relative = distances / (radii[:, None] + radii[None])
    carriers = _carriers(numbers, bonds)
    moves = _moved_hydrogens(numbers, carriers, relative)
    present = _after_moves(bonds, carriers, moves)
    changes = []
    if moves and _signature(numbers, present) != _signature(numbers, bonds):
        changes += [
            f"{_name(numbers, atom)} moved from {_name(numbers, carriers[atom])} to {_name(numbers, other)} "
            f"({distances[atom, other]:.2f} Å)"
            for atom, other in moves.items()
        ]
    for verb, pairs in (
        ("are no longer bonded", [pair for pair in present if relative[pair] > _BROKEN]),
        ("are newly bonded", _new_bonds(numbers, bonds, relative)),
    ):
        changes += [
            f"{_name(numbers, first)} and {_name(numbers, second)} {verb} ({distances[first, second]:.2f} Å)"
            for first, second in pairs
        ]
    more = [f"{len(changes) - _MOST_NAMED} more"] if len(changes) > _MOST_NAMED else []
    return ", ".join(changes[:_MOST_NAMED] + more)


def _name(numbers: np.ndarray, atom: int) -> str:
    return f"{chemical_symbols[numbers[atom]]}{atom + 1}"


def bonded_neighbors(num_atoms: int, bonds: Bonds) -> List[List[int]]:
    """The atoms that each atom is bonded to.

    Args:
        num_atoms: N.
        bonds: Pairs of atoms.

    Returns:
        N lists, in the order of the bonds.
    """
    neighbors: List[List[int]] = [[] for _ in range(num_atoms)]
    for first, second in bonds:
        neighbors[first].append(second)
        neighbors[second].append(first)
    return neighbors


def _carriers(numbers: np.ndarray, bonds: Bonds) -> Dict[int, int]:
    """The one heavy atom that each hydrogen is bonded to; without those in bridges and in H2."""
    neighbors = bonded_neighbors(len(numbers), bonds)
    return {
        atom: others[0]
        for atom, others in enumerate(neighbors)
        if numbers[atom] == 1 and len(others) == 1 and numbers[others[0]] > 1
    }


def _moved_hydrogens(numbers: np.ndarray, carriers: Dict[int, int], relative: np.ndarray) -> Dict[int, int]:
    """Hydrogens whose nearest heavy atom is another one than they are bonded to, and that atom."""
    heavy = np.flatnonzero(numbers > 1)
    nearest = {atom: int(heavy[relative[atom, heavy].argmin()]) for atom in carriers}
    return {atom: other for atom, other in nearest.items() if other != carriers[atom]}


def _after_moves(bonds: Bonds, carriers: Dict[int, int], moves: Dict[int, int]) -> List[Tuple[int, int]]:
    left = {frozenset((atom, carriers[atom])) for atom in moves}
    return [(first, second) for first, second in bonds if frozenset((first, second)) not in left] + list(
        moves.items()
    )


def _signature(numbers: np.ndarray, bonds: Bonds) -> List[str]:
    """The same for graphs of the same molecule: each atom's surroundings, whatever the order of the atoms."""
    neighbors = bonded_neighbors(len(numbers), bonds)
    labels = [str(number) for number in numbers]
    for _ in labels:
        surroundings = [
            " ".join([labels[atom], *sorted(labels[other] for other in others)])
            for atom, others in enumerate(neighbors)
        ]
        labels = [hashlib.sha256(text.encode()).hexdigest() for text in surroundings]
    return sorted(labels)


def _new_bonds(numbers: np.ndarray, bonds: Bonds, relative: np.ndarray) -> List[Tuple[int, int]]:
    """Pairs of heavy atoms at bonding distance, three bonds or more apart: across small rings others are."""
    adjacent = np.eye(len(numbers), dtype=bool)
    for first, second in bonds:
        adjacent[first, second] = adjacent[second, first] = True
    near = adjacent @ adjacent
    heavy = numbers > 1
    close = np.triu((relative < _NEW_BOND) & ~near & heavy[:, None] & heavy[None])
    return [(int(first), int(second)) for first, second in np.argwhere(close)]
