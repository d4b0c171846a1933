"""The molecule that a campaign samples and labels: read from Amber files or from an SDF file."""

import hashlib
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, List, Optional, Sequence, Tuple, Union

import numpy as np
import openmm
from openmm import app, unit

from dkmp_plugin.labeling.extraction import (
    atomic_numbers,
    complete_elements,
    extract_molecule,
    residue_atoms,
    total_charge,
)
from dkmp_plugin.labeling.whole import make_whole
from dkmp_plugin.optional import require

# Where Amber coordinates are looked for, beside the prmtop.
_COORDINATE_SUFFIXES = (".inpcrd", ".crd", ".rst7", ".pdb")
_BEGINNINGS_OF_A_PRMTOP = (b"%VERSION", b"%FLAG")
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
        _check_elements(self.atomic_numbers.tolist(), self.name)
        if (int(self.atomic_numbers.sum()) - self.charge) % 2:
            raise ValueError(
                f"{self.name} with charge {self.charge:+d} has an odd number of electrons, an even number is "
                "expected (closed shell); check charge and hydrogens"
            )

    @property
    def fingerprint(self) -> str:
        """Tells molecules apart: elements, conformers, charge, force field and bonds."""
        digest = hashlib.sha256(np.ascontiguousarray(self.atomic_numbers, dtype=np.int64).tobytes())
        digest.update(np.ascontiguousarray(self.conformers, dtype=np.float64).tobytes())
        digest.update(f"{self.charge} {self.force_field}".encode())
        if self.bonds:
            digest.update(str(self.bonds).encode())
        return digest.hexdigest()


def _check_elements(numbers: Sequence[int], name: str) -> None:
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


def read_sdf(path: Union[str, Path], *, num_conformers: int = 10, seed: int = 1) -> Molecule:
    """Read a molecule without force-field parameters: RDKit makes conformers, GFN2-xTB will sample.

    Hydrogens that the file leaves out are added. Conformers: ETKDGv3 (Wang et al.,
    doi:10.1021/acs.jcim.0c00025), relaxed with MMFF94 where it has parameters; the structure in the
    file, where it has three dimensions, is the first and decides between stereoisomers.

    Args:
        path: An SDF (or mol) file with one molecule.
        num_conformers: How many conformers to make.
        seed: Of the conformers.

    Raises:
        ValueError: If the file is missing, unreadable, holds several molecules, radicals or elements that
            GFN2-xTB does not know, leaves open which stereoisomer is meant, or cannot be embedded.
        MissingPackageError: If RDKit is not installed.
    """
    path = Path(path)
    molecule = _read_one(path)
    from rdkit.Chem import rdDistGeom, rdForceFieldHelpers, rdMolDescriptors

    numbers = [atom.GetAtomicNum() for atom in molecule.GetAtoms()]
    _check_elements(numbers, str(path))
    _check_closed_shell(molecule, path)
    given = molecule.GetNumConformers() and molecule.GetConformer().Is3D()
    if not given:
        _check_stereo(molecule, path)
    structures = [molecule.GetConformer().GetPositions()] if given else []
    options = rdDistGeom.ETKDGv3()
    options.randomSeed = seed  # type: ignore[assignment]
    wanted = max(1, num_conformers - len(structures))
    identifiers = list(rdDistGeom.EmbedMultipleConfs(molecule, wanted, options))
    if not identifiers and not structures:
        raise ValueError(f"{path}: RDKit found no three-dimensional structure; give one in the file")
    if identifiers and rdForceFieldHelpers.MMFFHasAllMoleculeParams(molecule):
        rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(molecule)
    structures += [molecule.GetConformer(index).GetPositions() for index in identifiers]
    charge = sum(atom.GetFormalCharge() for atom in molecule.GetAtoms())
    formula = rdMolDescriptors.CalcMolFormula(molecule)
    return Molecule(
        name=molecule.GetProp("_Name") or path.stem,
        atomic_numbers=np.array(numbers, dtype=np.int64),
        conformers=np.array(structures),
        charge=charge,
        force_field=None,
        source=f"{formula} of {path.name}, sampled with GFN2-xTB from {len(structures)} conformers",
        bonds=tuple((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in molecule.GetBonds()),
    )


def _read_one(path: Path) -> Any:
    require("rdkit", "reading SDF files")
    from rdkit import Chem

    if not path.is_file():
        raise ValueError(f"{path}: no such file; an SDF file is expected")
    try:
        molecules: list = list(Chem.SDMolSupplier(str(path), removeHs=False))
    except OSError as error:
        raise ValueError(f"{path} cannot be read as SDF: {error}") from error
    if len(molecules) != 1:
        raise ValueError(
            f"{path} holds {len(molecules)} molecules, one is expected; write it to a file of its own"
        )
    if molecules[0] is None:
        raise ValueError(f"{path}: RDKit cannot read its molecule: {_why_unreadable(path)}; correct the file")
    molecule = Chem.AddHs(molecules[0], addCoords=True)
    if len(Chem.GetMolFrags(molecule)) != 1:
        raise ValueError(
            f"{path} holds several fragments (a salt?), one molecule is expected; remove the others"
        )
    return molecule


def _why_unreadable(path: Path) -> str:
    from rdkit import Chem, rdBase

    silence = rdBase.BlockLogs()  # the first reading has complained already
    molecule = next(iter(Chem.SDMolSupplier(str(path), sanitize=False, removeHs=False)), None)
    problems = [] if molecule is None else Chem.DetectChemistryProblems(molecule)
    del silence
    if not problems:
        return "its text does not follow the mol format (V2000 or V3000)"
    return "; ".join(problem.Message() for problem in problems) + " (atoms counted from 0)"


def _check_closed_shell(molecule: Any, path: Path) -> None:
    radicals = [
        f"{atom.GetSymbol()}{atom.GetIdx() + 1}"
        for atom in molecule.GetAtoms()
        if atom.GetNumRadicalElectrons()
    ]
    if radicals:
        raise ValueError(
            f"{path} holds unpaired electrons at {', '.join(radicals)} (atoms counted from 1), a closed "
            "shell is expected; check hydrogens and charges, radicals and carbenes cannot be labelled"
        )


def _check_stereo(molecule: Any, path: Path) -> None:
    """RDKit would embed stereoisomers at random: conformers of several molecules."""
    from rdkit import Chem
    from rdkit.Chem import EnumerateStereoisomers

    unspecified = [
        element
        for element in Chem.FindPotentialStereo(molecule)
        if element.specified != Chem.StereoSpecified.Specified
    ]
    if not unspecified:
        return
    # Bridges and cages leave no choice at some centres: what counts is how many isomers exist in space.
    options = EnumerateStereoisomers.StereoEnumerationOptions(tryEmbedding=True, unique=True)
    isomers = list(islice(EnumerateStereoisomers.EnumerateStereoisomers(molecule, options=options), 2))
    if len(isomers) < 2:
        return
    names = ", ".join(_name_stereo(molecule, element) for element in unspecified)
    raise ValueError(
        f"{path} leaves open which stereoisomer is meant ({names}, counted from 1), one molecule "
        "is expected; specify them (wedges, double bonds drawn cis or trans), or give a structure "
        "in three dimensions"
    )


def _name_stereo(molecule: Any, element: Any) -> str:
    if str(element.type).startswith("Bond"):
        bond = molecule.GetBondWithIdx(element.centeredOn)
        return f"the bond of atoms {bond.GetBeginAtomIdx() + 1} and {bond.GetEndAtomIdx() + 1}"
    return f"atom {element.centeredOn + 1} ({molecule.GetAtomWithIdx(element.centeredOn).GetSymbol()})"
