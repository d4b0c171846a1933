"""Unit conversion at the border to OpenMM (nm, kJ/mol). Nothing else in the package converts."""

ANGSTROM_PER_NANOMETER = 10.0
# CODATA 2018; 1 kcal = 4.184 kJ by definition.
KILOJOULE_PER_MOLE = {"kJ/mol": 1.0, "kcal/mol": 4.184, "eV": 96.48533212, "hartree": 2625.4996395}


def kilojoule_per_mole(energy_unit: str) -> float:
    """One unit of energy in kJ/mol.

    Args:
        energy_unit: One of ``dkmp_plugin.config.ENERGY_UNITS``.

    Raises:
        ValueError: If the unit is unknown.
    """
    if energy_unit not in KILOJOULE_PER_MOLE:
        known = ", ".join(KILOJOULE_PER_MOLE)
        raise ValueError(f"energy unit: {energy_unit!r} was given, one of {known} is expected")
    return KILOJOULE_PER_MOLE[energy_unit]
