"""Units of lengths and energies. Inside the package lengths are in Å, energies in the unit of the labels."""

from typing import Tuple

ANGSTROM_PER_NANOMETER = 10.0
# CODATA 2018, which all that follow are from; 1 kcal = 4.184 kJ by definition.
ANGSTROM_PER_BOHR = 0.529177210903
KILOJOULE_PER_MOLE = {
    "eV": 96.48533212331,
    "kcal/mol": 4.184,
    "kJ/mol": 1.0,
    "hartree": 2625.4996394798,
}
ENERGY_UNITS: Tuple[str, ...] = tuple(KILOJOULE_PER_MOLE)
GAS_CONSTANT = 8.31446261815324e-3  # kJ/mol/K
BOLTZMANN_CONSTANT = GAS_CONSTANT / KILOJOULE_PER_MOLE["eV"]  # eV/K


def kilojoule_per_mole(energy_unit: str) -> float:
    """One unit of energy in kJ/mol, OpenMM's unit.

    Args:
        energy_unit: One of ``ENERGY_UNITS``.

    Raises:
        ValueError: If the unit is unknown.
    """
    if energy_unit not in KILOJOULE_PER_MOLE:
        known = ", ".join(KILOJOULE_PER_MOLE)
        raise ValueError(f"energy unit: {energy_unit!r} was given, one of {known} is expected")
    return KILOJOULE_PER_MOLE[energy_unit]


def energy_factor(given: str, wanted: str) -> float:
    """What an energy is multiplied by to be in another unit; exactly 1 where it is the same.

    Args:
        given: The unit it is in, one of ``ENERGY_UNITS``.
        wanted: The other unit.

    Raises:
        ValueError: If a unit is unknown.
    """
    return kilojoule_per_mole(given) / kilojoule_per_mole(wanted)
