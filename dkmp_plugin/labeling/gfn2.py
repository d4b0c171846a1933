"""GFN2-xTB energies and forces with tblite (Bannwarth et al., doi:10.1021/acs.jctc.8b01176)."""

from importlib.metadata import version
from typing import Any, Callable, Iterable, Optional, Sequence, Tuple

import numpy as np
from tblite.interface import Calculator

from dkmp_plugin.datasets.label_checks import check_total_charge
from dkmp_plugin.labeling.molecule import check_closed_shell
from dkmp_plugin.units import ANGSTROM_PER_BOHR, energy_factor

ENERGY_UNIT = "kcal/mol"
_FROM_HARTREE = energy_factor("hartree", ENERGY_UNIT)


def level_of_theory() -> str:
    """Method and program, e.g. ``GFN2-xTB (tblite 0.8.0)``."""
    return f"GFN2-xTB (tblite {version('tblite')})"


def label_conformations(
    atomic_numbers: Sequence[int],
    positions: np.ndarray,
    *,
    charge: int = 0,
    solvent: Optional[str] = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
    keep_going: bool = False,
) -> Tuple[np.ndarray, np.ndarray]:
    """Labels conformations of one molecule.

    Args:
        atomic_numbers: (N,).
        positions: (M, N, 3) in Å.
        charge: total charge in elementary charges, with which the number of electrons is even.
        solvent: of the ALPB model, e.g. ``water``; None for vacuum.
        progress: wraps the iteration over conformations, e.g. ``tqdm``.
        keep_going: NaN as the labels of a conformation that does not converge, instead of an error.

    Returns:
        Total energies (M,) in kcal/mol and forces (M, N, 3) in kcal/mol/Å.

    Raises:
        ValueError: a conformation did not converge; the message names it. A charge that is not whole, or an
            odd number of electrons.
    """
    charge = check_total_charge(charge, "charge")
    check_closed_shell([int(number) for number in atomic_numbers], charge, "a molecule")
    energies = np.empty(len(positions))
    forces = np.empty(positions.shape)
    calculator: Any = None
    for index in progress(range(len(positions))):
        in_bohr = positions[index] / ANGSTROM_PER_BOHR
        try:
            if calculator is None:
                calculator = Calculator("GFN2-xTB", np.asarray(atomic_numbers), in_bohr, charge=float(charge))
                calculator.set("verbosity", 0)
                if solvent is not None:
                    calculator.add("alpb-solvation", solvent)
            else:
                calculator.update(in_bohr)
            result = calculator.singlepoint()
        except RuntimeError as error:
            if keep_going:
                energies[index], forces[index] = np.nan, np.nan
                # The next one must not start from this one's density.
                calculator = None
                continue
            raise ValueError(
                f"GFN2-xTB failed for conformation {index} of {len(positions)} ({error}); "
                "strain or heat the molecule less"
            ) from error
        energies[index] = result.get("energy") * _FROM_HARTREE
        forces[index] = -result.get("gradient") * (_FROM_HARTREE / ANGSTROM_PER_BOHR)
    return energies, forces


def ase_calculator(charge: int = 0) -> Any:
    """GFN2-xTB as an ASE calculator, silent (see ``label_conformations`` for the labels themselves)."""
    from tblite.ase import TBLite

    return TBLite(method="GFN2-xTB", charge=charge, verbosity=0)
