"""Drift and fluctuation of the total energy of dynamics that should conserve it."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class EnergyDrift:
    """How well a trajectory at constant energy (NVE) conserved it.

    Attributes:
        drift: slope of the total energy, in meV per atom and nanosecond.
        drift_error: standard error of the drift, from blocks.
        fluctuation: standard deviation of the total energy around the fitted line, in meV per atom.
        duration: length of the trajectory in picoseconds.
    """

    drift: float
    drift_error: float
    fluctuation: float
    duration: float


def nve_drift(
    time: np.ndarray, total_energy: np.ndarray, num_atoms: int, num_blocks: int = 10
) -> EnergyDrift:
    """Drift of the total energy: a straight line fitted to the means of consecutive blocks.

    Neighbouring samples are correlated, so that the scatter of single samples would make the error of the
    slope too small; block means that are longer than the correlation time are independent.

    Args:
        time: (T,) in picoseconds, ascending.
        total_energy: (T,) potential plus kinetic energy in meV.
        num_atoms: number of atoms.
        num_blocks: number of blocks, at least 3.

    Raises:
        ValueError: fewer than two samples per block, shapes that disagree, or energies that are not finite.
    """
    time, total_energy = np.asarray(time, dtype=float), np.asarray(total_energy, dtype=float)
    if time.ndim != 1 or time.shape != total_energy.shape:
        raise ValueError(f"times {time.shape} and energies {total_energy.shape} must be two equal rows")
    if num_blocks < 3 or len(time) < 2 * num_blocks:
        raise ValueError(
            f"{len(time)} samples in {num_blocks} blocks were given, at least 3 blocks of 2 samples are "
            "expected; run longer or record more often"
        )
    if not np.isfinite(total_energy).all():
        raise ValueError("the total energy is not finite: the dynamics blew up; use a shorter time step")
    block_times = np.array([block.mean() for block in np.array_split(time, num_blocks)])
    block_energies = np.array([block.mean() for block in np.array_split(total_energy, num_blocks)])
    # scipy's linregress has no error for a line that fits exactly, e.g. a constant energy.
    since, change = block_times - block_times.mean(), block_energies - block_energies.mean()
    spread = np.square(since).sum()
    slope = (since * change).sum() / spread
    squares = np.square(change - slope * since).sum()
    residual = total_energy - slope * time
    per_nanosecond = 1000.0 / num_atoms
    return EnergyDrift(
        drift=float(slope * per_nanosecond),
        drift_error=float(np.sqrt(squares / (num_blocks - 2) / spread) * per_nanosecond),
        fluctuation=float(residual.std() / num_atoms),
        duration=float(time[-1] - time[0]),
    )
