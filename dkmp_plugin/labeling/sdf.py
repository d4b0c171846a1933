"""Reads a molecule without a force field from an SDF file, and makes its conformers (RDKit)."""

from itertools import islice
from pathlib import Path
from typing import Any, List, NoReturn, Union

import numpy as np

from dkmp_plugin.labeling.molecule import Molecule, check_elements
from dkmp_plugin.optional import require


def read_sdf(path: Union[str, Path], *, num_conformers: int = 10, seed: int = 1) -> Molecule:
    """Read a molecule without force-field parameters: RDKit makes conformers, GFN2-xTB will sample.

    Hydrogens that the file leaves out are added. Conformers: ETKDGv3 (Wang et al.,
    doi:10.1021/acs.jcim.0c00025), relaxed with MMFF94 where it has parameters; the structure in the
    file, where it has three dimensions, is the first and decides between stereoisomers; it is the only one
    where RDKit cannot tell which of them it is.

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
    check_elements(numbers, str(path))
    _check_closed_shell(molecule, path)
    given = molecule.GetNumConformers() and molecule.GetConformer().Is3D()
    if given:
        _take_stereo_of_structure(molecule)
    # RDKit would embed stereoisomers at random: conformers of several molecules.
    undecided = _undecided_stereo(molecule)
    if undecided and not given:
        _refuse_undecided(molecule, undecided, path)
    structures = [molecule.GetConformer().GetPositions()] if given else []
    options = rdDistGeom.ETKDGv3()
    options.randomSeed = seed  # type: ignore[assignment]
    wanted = 0 if undecided else max(1, num_conformers - len(structures))
    identifiers = list(rdDistGeom.EmbedMultipleConfs(molecule, wanted, options)) if wanted else []
    if not identifiers and not structures:
        raise ValueError(f"{path}: RDKit found no three-dimensional structure; give one in the file")
    if identifiers and rdForceFieldHelpers.MMFFHasAllMoleculeParams(molecule):
        rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(molecule)
    structures += [molecule.GetConformer(index).GetPositions() for index in identifiers]
    charge = sum(atom.GetFormalCharge() for atom in molecule.GetAtoms())
    formula = rdMolDescriptors.CalcMolFormula(molecule)
    return Molecule(
        name=_title(molecule) or path.stem,
        atomic_numbers=np.array(numbers, dtype=np.int64),
        conformers=np.array(structures),
        charge=charge,
        force_field=None,
        source=f"{formula} of {path.name}, sampled with GFN2-xTB from {len(structures)} conformers",
        bonds=tuple((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in molecule.GetBonds()),
    )


def _title(molecule: Any) -> str:
    try:
        return molecule.GetProp("_Name")
    except UnicodeDecodeError:
        return ""  # in Latin-1, say: nothing else of the file depends on it


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


def _take_stereo_of_structure(molecule: Any) -> None:
    """Also what the file marks as open: RDKit writes double bonds of unspecified stereo as crossed ones."""
    from rdkit import Chem

    for bond in molecule.GetBonds():
        if bond.GetStereo() == Chem.BondStereo.STEREOANY:
            bond.SetStereo(Chem.BondStereo.STEREONONE)
        bond.SetBondDir(Chem.BondDir.NONE)
        bond.ClearProp("_UnknownStereo")  # of wavy bonds
    Chem.AssignStereochemistryFrom3D(molecule)


def _undecided_stereo(molecule: Any) -> List[Any]:
    """What tells stereoisomers apart and is not specified; nothing where only one isomer exists."""
    from rdkit import Chem
    from rdkit.Chem import EnumerateStereoisomers

    unspecified = [
        element
        for element in Chem.FindPotentialStereo(molecule)
        if element.specified != Chem.StereoSpecified.Specified
    ]
    if not unspecified:
        return []
    # Bridges and cages leave no choice at some centres: what counts is how many isomers exist in space.
    options = EnumerateStereoisomers.StereoEnumerationOptions(tryEmbedding=True, unique=True)
    isomers = list(islice(EnumerateStereoisomers.EnumerateStereoisomers(molecule, options=options), 2))
    return unspecified if len(isomers) > 1 else []


def _refuse_undecided(molecule: Any, undecided: List[Any], path: Path) -> NoReturn:
    names = ", ".join(_name_stereo(molecule, element) for element in undecided)
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
