"""What a training may go on with from a checkpoint: the same optimisation, of labels that mean the same."""

import warnings
from pathlib import Path
from typing import Any, Mapping, Optional

from dkmp_plugin.config import defaults
from dkmp_plugin.training.checkpoint import (
    DISPLACED_OVER,
    read_contents,
    recorded_dataset,
    recorded_energy_unit,
)
from dkmp_plugin.training.dataset_checks import disagree


def refuse_other_optimization(given: Mapping[str, Any], of_checkpoint: Mapping[str, Any]) -> None:
    """A training goes on with the optimiser and the schedule whose states its checkpoint holds.

    Args:
        given: Hyper-parameters of the training that goes on.
        of_checkpoint: Those of its checkpoint.

    Raises:
        ValueError: ``optimizer`` or ``lr_schedule`` is another.
    """
    for key in ("optimizer", "lr_schedule"):
        # Checkpoints older than the keys were trained as torchmd-net does by itself.
        before = of_checkpoint.get(key, defaults()[key])
        if given[key] != before:
            raise ValueError(
                f"{key}: {given[key]!r} was given, but the checkpoint to go on from was trained with "
                f"{before!r}; give that, or reset_trainer: true to start anew with its weights"
            )


def refuse_other_energies(
    metadata: Mapping[str, Any], given: Mapping[str, Any], checkpoint: Mapping[str, Any]
) -> None:
    """A training goes on with energies in the same unit, of structures with the same charge.

    What either side does not say is not compared.

    Args:
        metadata: What the dataset declares about itself.
        given: Hyper-parameters of the training that goes on.
        checkpoint: Contents of the checkpoint to go on from.

    Raises:
        ValueError: The energy unit or the total charge is another.
    """
    unit, before = _energy_unit(metadata, given), recorded_energy_unit(checkpoint)
    if disagree(unit, before):
        raise ValueError(
            f"the energies of the training data are in {unit}, but the checkpoint to go on from was trained "
            f"on energies in {before}; convert the data, or train anew"
        )
    charge, charge_before = metadata.get("total_charge"), recorded_dataset(checkpoint).get("total_charge")
    if disagree(charge, charge_before):
        raise ValueError(
            f"the structures of the training data have the total charge {charge}, but the checkpoint to go "
            f"on from was trained on structures of charge {charge_before}, and models do not see charges; "
            "give data of that charge, or reset_trainer: true to start anew with its weights"
        )


def refuse_other_displacements(metadata: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> None:
    """A training goes on with displacements over as many frames.

    Args:
        metadata: What the dataset declares about itself.
        checkpoint: Contents of the checkpoint to go on from.

    Raises:
        ValueError: ``lag`` or ``stride`` is another. What either side does not say is not compared.
    """
    recorded = recorded_dataset(checkpoint)
    for key in DISPLACED_OVER:
        given, before = metadata.get(key), recorded.get(key)
        if disagree(given, before):
            raise ValueError(
                f"{key}: {given} was given in dataset_arg, but the checkpoint to go on from was trained with "
                f"{before}: displacements would be over another time; give that, or reset_trainer: true to "
                "start anew with its weights"
            )


def warn_of_other_energy_unit(metadata: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Warns where a training starts with weights that were trained on energies in another unit.

    Args:
        metadata: What the dataset declares about itself.
        given: Hyper-parameters of the training; ``load_weights`` or, with ``reset_trainer``, ``load_model``
            names the checkpoint.
    """
    weights = given.get("load_weights") or (given.get("load_model") if given.get("reset_trainer") else None)
    if not weights:
        return
    try:
        before = recorded_energy_unit(read_contents(Path(weights)))
    except ValueError:
        # torchmd-net loads the weights next, and says so.
        return
    unit = _energy_unit(metadata, given)
    if disagree(unit, before):
        warnings.warn(
            f"{weights} was trained on energies in {before}, the training data are in {unit}: the model "
            "starts a factor off; convert the data, or give data in the same unit",
            stacklevel=2,
        )


def _energy_unit(metadata: Mapping[str, Any], given: Mapping[str, Any]) -> Optional[str]:
    return given.get("energy_unit") or metadata.get("energy_unit")
