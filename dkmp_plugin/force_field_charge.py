"""The charge that the force field of an OpenMM System gives to some of its atoms."""

from typing import Any, Iterable, Optional

# Force fields state charges with a few digits, which add up to a whole number within this.
CHARGE_ROUNDING = 0.02


def force_field_charge(system: Any, atoms: Iterable[int]) -> Optional[float]:
    """Sum of the charges in the ``NonbondedForce``, in elementary charges; None where there is none.

    Args:
        system: ``openmm.System``.
        atoms: Indices.
    """
    import openmm
    from openmm import unit

    for force in system.getForces():
        if isinstance(force, openmm.NonbondedForce):
            charges = (force.getParticleParameters(index)[0] for index in atoms)
            return sum(charge.value_in_unit(unit.elementary_charge) for charge in charges)
    return None
