"""Fixtures: p-xylene in T4 lysozyme L99A, from the data files of openmmtools."""

import sys

import pytest
from openmm import app

from tests.conftest import ROOT

EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="session")
def t4_lysozyme():
    sys.path.insert(0, str(EXAMPLES))
    try:
        from t4_lysozyme import load_complex
    finally:
        sys.path.remove(str(EXAMPLES))
    return load_complex()


@pytest.fixture(scope="session")
def p_xylene_files():
    """Amber topology and coordinates of the complex."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        from t4_lysozyme import complex_files
    finally:
        sys.path.remove(str(EXAMPLES))
    return complex_files()


@pytest.fixture(scope="session")
def p_xylene(t4_lysozyme):
    """System of the ligand alone, atomic numbers, positions (18, 3) in Å."""
    from dkmp_plugin.labeling.extraction import atomic_numbers, extract_molecule

    ligand = t4_lysozyme.ligand
    return (
        extract_molecule(t4_lysozyme.system, ligand),
        atomic_numbers(t4_lysozyme.topology, ligand),
        t4_lysozyme.positions[ligand],
    )


@pytest.fixture(scope="session")
def p_xylene_topology(t4_lysozyme):
    """OpenMM topology of the ligand alone (elements only, no bonds)."""
    topology = app.Topology()
    residue = topology.addResidue("TMP", topology.addChain())
    atoms = list(t4_lysozyme.topology.atoms())
    for index in t4_lysozyme.ligand:
        topology.addAtom(atoms[index].name, atoms[index].element, residue)
    return topology
