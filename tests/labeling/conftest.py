"""Fixtures of this folder."""

import numpy as np
import pytest

from dkmp_plugin.labeling.amber import read_amber
from dkmp_plugin.labeling.molecule import Molecule
from tests.p_xylene import p_xylene, p_xylene_files, p_xylene_topology, t4_lysozyme

__all__ = ["p_xylene", "p_xylene_files", "p_xylene_topology", "t4_lysozyme"]


@pytest.fixture(scope="session")
def p_xylene_molecule(p_xylene_files) -> Molecule:
    """p-xylene with its force field."""
    prmtop, coordinates = p_xylene_files
    return read_amber(prmtop, coordinates, "TMP")


@pytest.fixture(scope="session")
def water() -> Molecule:
    """Water without a force field: GFN2-xTB samples it."""
    positions = np.array([[[0.0, 0.0, 0.12], [0.0, 0.76, -0.47], [0.0, -0.76, -0.47]]])
    return Molecule("water", np.array([8, 1, 1]), positions, 0, None, "water, sampled with GFN2-xTB")
