"""Reads a molecule, with its force field, from Amber files: alone or out of a complex."""

from pathlib import Path
from typing import Any, List, Optional, Sequence, Tuple, Union

import numpy as np
import openmm
from openmm import app, unit

from dkmp_plugin.labeling.extraction import (
    atomic_numbers,
    complete_elements,
    correct_guessed_elements,
    extract_molecule,
    residue_atoms,
    total_charge,
)
from dkmp_plugin.labeling.molecule import Molecule
from dkmp_plugin.labeling.whole import make_whole

# Where coordinates are looked for, beside the prmtop.
_COORDINATE_SUFFIXES = (".inpcrd", ".crd", ".rst7", ".pdb")
_BEGINNINGS_OF_A_PRMTOP = (b"%VERSION", b"%FLAG")
_ATOMIC_NUMBERS = b"%FLAG ATOMIC_NUMBER"


def read_amber(
    prmtop: Union[str, Path],
    coordinates: Union[str, Path, None] = None,
    residue: Optional[str] = None,
) -> Molecule:
    """Cut one residue out of an Amber system, force-field terms and all.

    A molecule that the periodic box of the coordinates cuts apart is made whole.

    Args:
        prmtop: The Amber topology, of the molecule alone or of a whole complex.
        coordinates: Amber coordinates or a PDB file; None: the file beside the prmtop with the same stem.
        residue: Name of the residue; None where the topology has one residue only.

    Raises:
        ValueError: If a file is missing or unreadable, the files disagree, the residue is not unique, or it
            is cut apart by a periodic box that is not known.
    """
    prmtop = Path(prmtop)
    check_prmtop(prmtop)
    try:
        parameters = app.AmberPrmtopFile(str(prmtop))
    except Exception as error:  # OpenMM's reader raises whatever the damaged text leads to
        raise ValueError(f"{prmtop} cannot be read as an Amber prmtop: {error}") from error
    topology = parameters.topology
    if residue is None:
        names = [entry.name for entry in topology.residues()]
        if len(names) != 1:
            once = sorted(name for name in set(names) if names.count(name) == 1)
            raise ValueError(
                f"{prmtop.name} has {len(names)} residues; name the ligand's, one that occurs once "
                f"({', '.join(once)})"
            )
        residue = names[0]
    atoms = residue_atoms(topology, residue)
    system = parameters.createSystem(nonbondedMethod=app.NoCutoff, constraints=None, rigidWater=False)
    if _ATOMIC_NUMBERS not in prmtop.read_bytes():
        correct_guessed_elements(topology, system)
    complete_elements(topology, system)
    positions, box = read_positions(coordinates or coordinates_beside(prmtop), topology, prmtop)
    return Molecule(
        name=residue,
        atomic_numbers=np.array(atomic_numbers(topology, atoms), dtype=np.int64),
        conformers=make_whole(
            positions[atoms], _bonds_among(topology, atoms), box, f"residue {residue} of {prmtop.name}"
        )[None],
        charge=total_charge(system, atoms),
        force_field=openmm.XmlSerializer.serialize(extract_molecule(system, atoms)),
        source=f"residue {residue} of {prmtop.name}, sampled with its Amber force field in vacuum",
    )


def check_prmtop(path: Path) -> None:
    """Make sure that a file is an Amber prmtop, as far as its first bytes tell.

    Raises:
        ValueError: If it is missing or something else.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; an Amber prmtop or an SDF file is expected")
    with open(path, "rb") as file:
        beginning = file.read(64).lstrip()
    if not beginning.startswith(_BEGINNINGS_OF_A_PRMTOP):
        raise ValueError(
            f"{path} is neither an Amber prmtop nor an SDF file (.sdf, .mol); convert it to SDF (unpacked; "
            f"for example: obabel {path.name} -O ligand.sdf) and check its bonds, charges and hydrogens"
        )


def coordinates_beside(prmtop: Path) -> Path:
    """The coordinates that have the name of a prmtop and lie beside it.

    Raises:
        ValueError: If there are none.
    """
    candidates = [prmtop.with_suffix(suffix) for suffix in _COORDINATE_SUFFIXES]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise ValueError(
        f"no coordinates beside {prmtop} ({', '.join(path.name for path in candidates)}); name the file"
    )


def read_positions(
    path: Union[str, Path], topology: app.Topology, prmtop: Path
) -> Tuple[np.ndarray, Optional[np.ndarray]]:
    """Read the coordinates of a prmtop.

    Args:
        path: Amber coordinates, or a PDB file, whose elements and atom names are compared.
        topology: Of the prmtop, elements included (see ``complete_elements``).
        prmtop: Its file, for messages.

    Returns:
        Positions of all atoms (N, 3) and the box vectors of the same file or None, in Å.

    Raises:
        ValueError: If the file is missing, unreadable, or of other atoms than the prmtop.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; Amber coordinates or a PDB file are expected")
    is_pdb = path.suffix.lower() == ".pdb"
    try:
        file: Any = app.PDBFile(str(path)) if is_pdb else app.AmberInpcrdFile(str(path))
        positions = file.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        box = file.topology.getPeriodicBoxVectors() if is_pdb else file.boxVectors
        box = None if box is None else np.array(box.value_in_unit(unit.angstrom), dtype=np.float64)
    except Exception as error:  # as above
        raise ValueError(f"{path} cannot be read as coordinates: {error}") from error
    if len(positions) != topology.getNumAtoms():
        raise ValueError(
            f"{path} has {len(positions)} atoms, but {prmtop} has {topology.getNumAtoms()}; give its own file"
        )
    if is_pdb:
        _check_same_atoms(path, file.topology, topology, prmtop)
    return np.asarray(positions, dtype=np.float64), box


def _check_same_atoms(path: Path, found: app.Topology, expected: app.Topology, prmtop: Path) -> None:
    found_atoms = list(found.atoms())
    for residue in expected.residues():
        pairs = [(found_atoms[atom.index], atom) for atom in residue.atoms()]
        names_tell = _same_unique_names(pairs)
        for other, atom in pairs:
            # Without a column of elements OpenMM guesses them from names: CL1 of a ligand becomes carbon.
            if other.name == atom.name:
                continue
            if names_tell or (other.element and atom.element and other.element is not atom.element):
                raise ValueError(
                    f"{path} and {prmtop} list different atoms: atom {atom.index + 1} is "
                    f"{_describe(other)} in the first and {_describe(atom)} in the second; give coordinates "
                    "in the order of the prmtop"
                )


def _same_unique_names(pairs: Sequence[Tuple[Any, Any]]) -> bool:
    """Whether the atoms of a residue have the same names on both sides, each once, in whatever order."""
    found, expected = ({pair[side].name for pair in pairs} for side in (0, 1))
    return found == expected and len(expected) == len(pairs)


def _describe(atom: Any) -> str:
    element = atom.element.symbol if atom.element else "no element"
    return f"{atom.name} ({element}) of residue {atom.residue.name}"


def _bonds_among(topology: app.Topology, atoms: Sequence[int]) -> List[Tuple[int, int]]:
    place = {atom: index for index, atom in enumerate(atoms)}
    pairs = ((place.get(first.index), place.get(second.index)) for first, second in topology.bonds())
    return [(first, second) for first, second in pairs if first is not None and second is not None]
