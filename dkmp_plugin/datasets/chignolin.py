"""Chignolin with DFT labels as AI2BMD publishes it: ``dataset: DKMPChignolin``."""

from pathlib import Path
from typing import Any, Callable, Mapping, Optional

import numpy as np

from dkmp_plugin.datasets.energy_forces import EnergyForces
from dkmp_plugin.datasets.file_selections import add_selection, read_splits
from dkmp_plugin.datasets.labelled_structures import LabelledStructures
from dkmp_plugin.datasets.npz import open_archive
from dkmp_plugin.units import ANGSTROM_PER_BOHR, energy_factor

FILE = "chignolin.npz"
SOURCE = (
    "download chignolin_data/raw/chignolin.npz from the ViSNet branch of "
    "https://github.com/microsoft/AI2BMD (described in chignolin_data/README.md there)"
)
LEVEL_OF_THEORY = "DFT (Gaussian 16; AI2BMD's Chignolin set)"


def read_chignolin(path: Path) -> LabelledStructures:
    """Reads the published file into kcal/mol and kcal/mol/Å.

    Its arrays run over all atoms of all structures: ``R`` (M * 166, 3) in Å, ``Z`` (M * 166,), ``N`` (M,),
    ``E`` (M,) in hartree, and ``F`` (M * 166, 3) in hartree/bohr, which holds gradients, not forces.

    Raises:
        ValueError: the file is missing (the message has its address), damaged, or its arrays disagree.
    """
    arrays = open_archive(path, ["R", "Z", "N", "E", "F"], SOURCE)
    gradients = arrays["F"].astype(np.float64)
    in_kcal = energy_factor("hartree", "kcal/mol")
    try:
        return LabelledStructures(
            atom_counts=arrays["N"].astype(np.int64).reshape(-1),
            atomic_numbers=arrays["Z"].astype(np.int64).reshape(-1),
            positions=arrays["R"],
            energies=arrays["E"].astype(np.float64).reshape(-1) * in_kcal,
            forces=-gradients * (in_kcal / ANGSTROM_PER_BOHR),
            energy_unit="kcal/mol",
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


class DKMPChignolin(EnergyForces):
    """9,543 conformations of the 166-atom protein chignolin (doi:10.1038/s41467-023-43720-2).

    Not the two million of the figshare archive of AIMD-Chig (doi:10.1038/s41597-023-02465-9), which come as
    XYZ files of another layout.

    Args:
        root: folder of ``chignolin.npz``.
        selection: ``start:stop:step`` of the file, all by default.
        total_charge: of the molecule; unknown by default, because the publication's files do not say it.
        reference_energies: see :class:`EnergyForces`.
        transform: applied to each item.

    Raises:
        ValueError: see :func:`read_chignolin`.
    """

    def __init__(
        self,
        root: str,
        selection: str = "",
        total_charge: Optional[int] = None,
        reference_energies: Optional[Mapping[int, float]] = None,
        transform: Optional[Callable[[Any], Any]] = None,
    ) -> None:
        structures, _ = read_splits(root, add_selection(FILE, selection), (), (), (), read_chignolin)
        super().__init__(structures, None, LEVEL_OF_THEORY, total_charge, reference_energies, transform)
