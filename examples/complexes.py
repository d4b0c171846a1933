"""Complexes of a protein or host with a ligand, each with the ligand's Amber files for ``dkmp bespoke``.

- ``t4-lysozyme``: T4 lysozyme L99A with p-xylene, implicit solvent (openmmtools).
- ``t4-lysozyme-water``: T4 lysozyme L99A with p-xylene in a box of water (openmmtools, OpenMM's Modeller).
- ``thrombin``: thrombin with a ligand of 52 atoms, implicit solvent (``thrombin/`` in the folder DKMP_DATA).
- ``host-guest``: cucurbit[7]uril with the guest B2, implicit solvent (openmmtools).
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List, Optional, Tuple

import numpy as np
import openmm
from explicit_solvent import solvate
from openmm import app, unit
from t4_lysozyme import complex_files

from dkmp_plugin.labeling.amber import read_positions
from dkmp_plugin.labeling.extraction import complete_elements, residue_atoms


@dataclass(frozen=True)
class LigandFiles:
    """The Amber files of a complex and its ligand's residue."""

    prmtop: Path
    coordinates: Path
    residue: str


@dataclass(frozen=True)
class Setup:
    """How a complex becomes a System.

    Attributes:
        padding: Least distance between solute and faces of a box of water in nm.
        cutoff: Of the forces between atoms in implicit solvent in nm; None for none.
        hydrogen_mass: Of the solute's hydrogens, taken from their neighbours; None for the natural one.
    """

    padding: float = 1.0
    cutoff: Optional[float] = None
    hydrogen_mass: Optional[unit.Quantity] = None


@dataclass(frozen=True)
class PreparedComplex:
    """Topology, force-field System, start positions (atoms, 3) in Å, the ligand's atoms."""

    topology: app.Topology
    system: openmm.System
    positions: np.ndarray
    ligand: List[int]


def t4_lysozyme_files() -> LigandFiles:
    return LigandFiles(*complex_files(), "TMP")


def thrombin_files() -> LigandFiles:
    beside_the_repository = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("DKMP_DATA") or beside_the_repository) / "thrombin"
    if not folder.is_dir():
        raise SystemExit(
            f"{folder} is absent; set DKMP_DATA to the folder that holds thrombin/ (structure.prmtop and "
            "structure.pdb of torchmd's tests/data/thrombin-ligand-amber)"
        )
    return LigandFiles(folder / "structure.prmtop", folder / "structure.pdb", "MOL")


def host_guest_files() -> LigandFiles:
    folder = complex_files()[0].parent.parent / "cb7-b2"
    return LigandFiles(folder / "complex-vacuum.prmtop", folder / "complex-vacuum.pdb", "B2")


def in_water(files: LigandFiles, setup: Setup) -> PreparedComplex:
    """The complex in a rhombic dodecahedron of TIP3P water; bonds to hydrogen constrained."""
    prmtop, positions = _read(files)
    topology, system, positions = solvate(
        prmtop,
        positions,
        padding=setup.padding,
        box_shape="dodecahedron",
        constraints=app.HBonds,
        hydrogenMass=setup.hydrogen_mass,
    )
    return PreparedComplex(topology, system, positions, residue_atoms(prmtop.topology, files.residue))


def in_implicit_solvent(files: LigandFiles, setup: Setup) -> PreparedComplex:
    """The complex in OBC2 implicit solvent; bonds to hydrogen constrained."""
    prmtop, positions = _read(files)
    range_of_forces = {"nonbondedMethod": app.NoCutoff}
    if setup.cutoff is not None:
        range_of_forces = {
            "nonbondedMethod": app.CutoffNonPeriodic,
            "nonbondedCutoff": setup.cutoff * unit.nanometer,
        }
    system = prmtop.createSystem(
        **range_of_forces,
        constraints=app.HBonds,
        implicitSolvent=app.OBC2,
        hydrogenMass=setup.hydrogen_mass,
    )
    return PreparedComplex(prmtop.topology, system, positions, residue_atoms(prmtop.topology, files.residue))


def _read(files: LigandFiles) -> Tuple[app.AmberPrmtopFile, np.ndarray]:
    prmtop = app.AmberPrmtopFile(str(files.prmtop))
    # thrombin's prmtop has no atomic numbers, and OpenMM cannot guess all of them from the names.
    complete_elements(prmtop.topology, prmtop.createSystem())
    positions, _ = read_positions(files.coordinates, prmtop.topology, files.prmtop)
    return prmtop, positions


COMPLEXES: Dict[str, Tuple[Callable[[], LigandFiles], Callable[[LigandFiles, Setup], PreparedComplex]]] = {
    "t4-lysozyme": (t4_lysozyme_files, in_implicit_solvent),
    "t4-lysozyme-water": (t4_lysozyme_files, in_water),
    "thrombin": (thrombin_files, in_implicit_solvent),
    "host-guest": (host_guest_files, in_implicit_solvent),
}
