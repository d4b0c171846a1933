"""Errors of predicted energies and forces, and the trivial baseline they must beat."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Errors:
    """Of one quantity, predicted less labelled.

    Attributes:
        mae: Mean absolute error.
        rmse: Root of the mean squared error.
        mean: Mean error.
    """

    mae: float
    rmse: float
    mean: float


def errors_of(name: str, predicted: np.ndarray, labels: np.ndarray) -> Errors:
    """Compares predictions of one quantity with its labels.

    Args:
        name: What to call the quantity in errors.
        predicted: Any shape.
        labels: The same shape.

    Raises:
        ValueError: shapes that differ, no labels, or predictions that are NaN or infinite.
    """
    if predicted.shape != labels.shape or len(labels) == 0:
        raise ValueError(
            f"predicted {name} have shape {predicted.shape}, labels {labels.shape}; "
            "expected the same shape with at least one conformation"
        )
    if not np.isfinite(predicted).all():
        raise ValueError(f"predicted {name} hold NaN or infinity; the model is broken or was not trained")
    errors = predicted - labels
    return Errors(
        mae=float(np.abs(errors).mean()),
        rmse=float(np.sqrt(np.square(errors).mean())),
        mean=float(errors.mean()),
    )


@dataclass(frozen=True)
class EnergyForceErrors:
    """Errors over M conformations of N atoms, in the unit of the labels (forces: per Å).

    Attributes:
        energy_mae: mean absolute error of the energies, not divided by the number of atoms.
        energy_rmse: root of their mean squared error.
        force_mae: mean absolute error of the force components.
        force_rmse: root of their mean squared error.
        conformations: M.
    """

    energy_mae: float
    energy_rmse: float
    force_mae: float
    force_rmse: float
    conformations: int


def energy_force_errors(
    predicted_energies: np.ndarray,
    predicted_forces: np.ndarray,
    energies: np.ndarray,
    forces: np.ndarray,
) -> EnergyForceErrors:
    """Compares predictions with labels.

    Args:
        predicted_energies: (M,).
        predicted_forces: (M, N, 3).
        energies: (M,) labels, in the same unit.
        forces: (M, N, 3) labels.

    Raises:
        ValueError: shapes that differ, no conformations, or predictions that are NaN or infinite.
    """
    energy = errors_of("energies", predicted_energies, energies)
    force = errors_of("forces", predicted_forces, forces)
    return EnergyForceErrors(
        energy_mae=energy.mae,
        energy_rmse=energy.rmse,
        force_mae=force.mae,
        force_rmse=force.rmse,
        conformations=len(energies),
    )


def trivial_baseline(
    training_energies: np.ndarray, energies: np.ndarray, forces: np.ndarray
) -> EnergyForceErrors:
    """Errors of predicting the mean training energy and zero forces; shapes as in energy_force_errors.

    Raises:
        ValueError: no training energies; and as energy_force_errors.
    """
    if len(training_energies) == 0:
        raise ValueError("no training energies were given; the baseline is their mean")
    # Of its own type: labels may be whole numbers.
    mean_energies = np.full(energies.shape, training_energies.mean())
    return energy_force_errors(mean_energies, np.zeros_like(forces), energies, forces)
