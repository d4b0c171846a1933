"""Whether molecules have the charge that a model was trained at: it has no charge input of its own."""

import math
from numbers import Real
from pathlib import Path
from typing import Any, List

from dkmp_plugin.force_field_charge import CHARGE_ROUNDING, force_field_charge
from dkmp_plugin.simulation.model_file import ModelInfo


def check_charge(charge: Any, info: ModelInfo, path: Path) -> None:
    """Compare the charge that the user names with the model's.

    Args:
        charge: Total charge, a number of elementary charges or an ``openmm.unit.Quantity``; None where none
            was given.
        info: The model's description.
        path: Its file, for messages.

    Raises:
        ValueError: If they differ, the charge is no whole number, or the model does not say what it was
            trained at.
    """
    if charge is None:
        return
    charge, trained = _whole_charge(charge), info.total_charge
    if trained is None:
        raise ValueError(
            f"charge: {charge} was given, but {path.name} does not say which charge it was trained on; leave "
            "charge out, or train on labels that declare their total_charge"
        )
    if charge != trained:
        described = "neutral molecules" if not trained else f"molecules of charge {trained:+d}"
        raise ValueError(
            f"charge: {charge} was given, but {path.name} was trained on {described}; a DKMP model has no "
            "charge input, give it a model trained at this charge"
        )


def _whole_charge(charge: Any) -> int:
    value = charge
    if hasattr(value, "value_in_unit"):
        from openmm import unit

        value = value.value_in_unit(unit.elementary_charge)
    if isinstance(value, bool) or not isinstance(value, Real) or not float(value).is_integer():
        raise ValueError(f"charge: {charge!r} was given, a whole number of elementary charges is expected")
    return round(float(value))


def check_force_field_charge(system: Any, indices: List[int], info: ModelInfo, path: Path) -> None:
    """A molecule that the force field gives another charge than the model's is most likely a mistake.

    Args:
        system: ``openmm.System`` with the force field's charges, if it has any.
        indices: The modelled atoms.
        info: The model's description.
        path: Its file, for messages.

    Raises:
        ValueError: If the charges of the modelled atoms add up to another whole charge.
    """
    charge = force_field_charge(system, indices)
    if charge is not None:
        _check_sum(charge, "the force field gives the modelled atoms", info, path)


def check_charge_of_atoms(atoms: Any, info: ModelInfo, path: Path) -> None:
    """As :func:`check_force_field_charge`, of ``ase.Atoms``: ``info["charge"]``, else initial charges.

    Raises:
        ValueError: If the atoms say that they have another charge than the model's.
    """
    charge = atoms.info.get("charge")
    if charge is not None:
        if not isinstance(charge, Real):
            raise ValueError(f'atoms.info["charge"] is {charge!r}, a number (elementary charges) is expected')
        _check_sum(float(charge), 'atoms.info["charge"] gives the atoms', info, path)
    elif atoms.has("initial_charges") and atoms.get_initial_charges().any():
        _check_sum(atoms.get_initial_charges().sum(), "initial_charges give the atoms", info, path)


def _check_sum(charge: float, who: str, info: ModelInfo, path: Path) -> None:
    trained = info.total_charge
    if not math.isfinite(charge):
        raise ValueError(f"{who} the charge {charge}, a number of elementary charges is expected; correct it")
    # Charges of a part of a molecule add up to anything: nothing can be said about them.
    is_whole = abs(charge - round(charge)) < CHARGE_ROUNDING
    if trained is not None and is_whole and round(charge) != trained:
        raise ValueError(
            f"{who} the charge {round(charge):+d}, but {path.name} was trained at charge {trained:+d}; give "
            f"a model of this charge (or, to combine them all the same, charge={trained})"
        )
