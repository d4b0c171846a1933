"""Labels of chignolin at the level of theory of shared/data/chignolin, in a file with the same arrays."""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from dkmp_plugin.files import replaced_on_success
from dkmp_plugin.labeling.gfn2 import label_conformations


def write_labelled(path: Path, atomic_numbers: np.ndarray, positions: np.ndarray) -> None:
    """Labels positions (M, N, 3) in Å with GFN2-xTB + ALPB water, and writes them with their labels."""
    energies, forces = label_conformations(
        atomic_numbers, positions, charge=-2, solvent="water", progress=tqdm
    )
    with replaced_on_success(path) as temporary, temporary.open("wb") as file:
        np.savez(file, z=atomic_numbers, R=positions, E=energies, F=forces)
