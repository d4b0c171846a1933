"""Chignolin in Amber14 + OBC2, the force field that its shared conformations were sampled with."""

from pathlib import Path
from typing import Tuple

import openmm
from openmm import app

from dkmp_plugin.evaluation.molecular_dynamics import AMBER14_OBC2


def load_amber_chignolin(folder: Path) -> Tuple[app.PDBFile, openmm.System]:
    """Structure and System, without constraints, of the chignolin.pdb in a folder (shared/data/chignolin)."""
    with (folder / "chignolin.pdb").open() as file:
        pdb = app.PDBFile(file)
    force_field = app.ForceField(*AMBER14_OBC2)
    return pdb, force_field.createSystem(pdb.topology, nonbondedMethod=app.NoCutoff, constraints=None)
