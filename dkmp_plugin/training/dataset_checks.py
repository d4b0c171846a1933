"""Whether a dataset fits the model that is to be trained on it."""

from typing import Any, Mapping


def disagree(first: Any, second: Any) -> bool:
    """Whether both sides say something, and not the same: what one does not say, None, is not compared."""
    return first is not None and second is not None and first != second


def check_dataset_fits(metadata: Mapping[str, Any], hyper_parameters: Mapping[str, Any]) -> None:
    """Refuse a dataset with elements that the model has no place for, or energies in another unit than said.

    What either side does not say is not compared.

    Args:
        metadata: What the dataset declares about itself.
        hyper_parameters: torchmd-net hyper-parameters, ours included.

    Raises:
        ValueError: ``max_z`` is too small, or ``energy_unit`` is another.
    """
    largest, max_z = max(metadata.get("elements") or [0]), hyper_parameters.get("max_z")
    if max_z is not None and largest >= max_z:
        raise ValueError(
            f"max_z: {max_z} was given, but the dataset has atoms of atomic number "
            f"{largest}; give max_z: {largest + 1} or more"
        )
    declared, asked = metadata.get("energy_unit"), hyper_parameters.get("energy_unit")
    if disagree(declared, asked):
        raise ValueError(
            f"energy_unit: {asked!r} was given, but the dataset's energies are in {declared!r}; "
            "remove energy_unit from the configuration or correct it"
        )
