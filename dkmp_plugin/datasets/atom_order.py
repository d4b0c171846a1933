"""Whether a trajectory that names its atoms has them in the order of the topology: mdtraj does not look."""

from pathlib import Path
from typing import Any, List

import numpy as np


def check_atom_order(path: Path, own: Any, topology: Any, atoms: np.ndarray) -> None:
    """Refuse frames whose chosen atoms are those of the topology in another order.

    Other elements than in the topology are no reason: of some formats they are guessed from names.

    Args:
        path: The trajectory.
        own: mdtraj topology that it holds (PDB, GRO, HDF5).
        topology: mdtraj topology that was given, of as many atoms.
        atoms: (n,) indices of the chosen atoms.

    Raises:
        ValueError: naming the first atom that is another.
    """
    chosen = [int(index) for index in atoms]
    _compare(path, chosen, *([_symbol(source.atom(index)) for index in chosen] for source in (own, topology)))


def check_xyz_order(path: Path, topology: Any, atoms: np.ndarray) -> None:
    """The same of an XYZ file, by what stands before the positions: elements, or names as mdtraj writes them.

    Args:
        path: The file, whole.
        topology: mdtraj topology that was given.
        atoms: (n,) indices of the chosen atoms.

    Raises:
        ValueError: as :func:`check_atom_order`.
    """
    with open(path, encoding="utf-8", errors="replace") as file:
        size = int(file.readline())
        file.readline()
        labels = [(file.readline().split() or [""])[0] for _ in range(size)]
    if size != topology.n_atoms:
        # Reading the frames says so.
        return
    chosen = [int(index) for index in atoms]
    given = [labels[index] for index in chosen]
    for label_of in (_symbol, lambda atom: atom.name):
        _compare(path, chosen, given, [label_of(topology.atom(index)) for index in chosen])


def _symbol(atom: Any) -> str:
    return "" if atom.element is None else atom.element.symbol


def _compare(path: Path, atoms: List[int], given: List[str], expected: List[str]) -> None:
    if given == expected or sorted(given) != sorted(expected):
        return
    place = next(index for index, label in enumerate(given) if label != expected[index])
    raise ValueError(
        f"{path}: atom {atoms[place]} is {given[place]}, in the topology it is {expected[place]}: the file "
        "has the same atoms in another order; give a topology in the order of the trajectory, such as this "
        "file itself, or write the trajectory anew"
    )
