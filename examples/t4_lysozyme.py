"""The complex of the examples: T4 lysozyme L99A with p-xylene, from the PyPI package openmmtools.

2,621 atoms, Amber ff96 and GAFF, OBC2 implicit solvent; the ligand is residue TMP, 18 atoms.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import List, Tuple

import numpy as np
import openmm
from openmm import app, unit

from dkmp_plugin.labeling.extraction import residue_atoms

LIGAND_RESIDUE = "TMP"


@dataclass(frozen=True)
class Complex:
    """Topology, flexible force-field System, start positions (atoms, 3) in Å, the ligand's atom indices."""

    topology: app.Topology
    system: openmm.System
    positions: np.ndarray
    ligand: List[int]


def complex_files() -> Tuple[Path, Path]:
    """Amber topology and coordinates that openmmtools ships.

    Raises:
        ValueError: openmmtools is not installed, or its data files have moved.
    """
    # The folder is looked up without importing openmmtools, whose import takes long and prints.
    package = importlib.util.find_spec("openmmtools")
    if package is None or not package.submodule_search_locations:
        raise ValueError(
            "openmmtools is not installed; expected it beside dkmp-plugin: pip install openmmtools"
        )
    folder = Path(package.submodule_search_locations[0]) / "data" / "T4-lysozyme-L99A-implicit"
    if not (folder / "complex.prmtop").is_file():
        raise ValueError(f"{folder} has no complex.prmtop; expected openmmtools 0.24 or newer")
    return folder / "complex.prmtop", folder / "complex.crd"


def load_complex() -> Complex:
    """Reads these files; no constraints anywhere.

    Raises:
        ValueError: as :func:`complex_files`.
    """
    prmtop, crd = complex_files()
    parameters = app.AmberPrmtopFile(str(prmtop))
    coordinates = app.AmberInpcrdFile(str(crd))
    return Complex(
        topology=parameters.topology,
        system=parameters.createSystem(
            nonbondedMethod=app.NoCutoff, constraints=None, implicitSolvent=app.OBC2
        ),
        positions=coordinates.getPositions(asNumpy=True).value_in_unit(unit.angstrom),
        ligand=residue_atoms(parameters.topology, LIGAND_RESIDUE),
    )
