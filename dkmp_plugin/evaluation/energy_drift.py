"""Drift and fluctuation of the energy of dynamics that should conserve it."""

from dataclasses import dataclass
from typing import Tuple

import numpy as np

NUM_BLOCKS = 10
SAMPLES_PER_BLOCK = 2  # at least


@dataclass(frozen=True)
class EnergyDrift:
    """How well a trajectory at constant energy (NVE) conserved it.

    Attributes:
        drift: slope of the energy, in meV per atom and nanosecond.
        drift_error: standard error of the drift, from blocks.
        fluctuation: standard deviation of the energy around the fitted line, in meV per atom.
        duration: length of the trajectory in picoseconds.
        largest_change: largest change between two neighbouring samples, in meV per atom: what a line through
            all of them does not show, a place that the time step does not resolve.
        largest_change_time: time of the first of those two samples in picoseconds.
    """

    drift: float
    drift_error: float
    fluctuation: float
    duration: float
    largest_change: float
    largest_change_time: float


def nve_drift(
    time: np.ndarray, energy: np.ndarray, num_atoms: int, num_blocks: int = NUM_BLOCKS
) -> EnergyDrift:
    """Drift of an energy: a straight line fitted to the means of consecutive blocks.

    Neighbouring samples are correlated, so that the scatter of single samples would make the error of the
    slope too small; block means that are longer than the correlation time are independent.

    Args:
        time: (T,) in picoseconds, ascending.
        energy: (T,) total or shadow energy in meV.
        num_atoms: number of atoms.
        num_blocks: number of blocks, at least 3.

    Raises:
        ValueError: fewer than two samples per block, shapes that disagree, or energies that are not finite.
    """
    time, energy = np.asarray(time, dtype=float), np.asarray(energy, dtype=float)
    if time.ndim != 1 or time.shape != energy.shape:
        raise ValueError(
            f"times have shape {time.shape} and energies {energy.shape}, two equal rows are expected: one "
            "energy for each time"
        )
    if num_blocks < 3 or len(time) < SAMPLES_PER_BLOCK * num_blocks:
        raise ValueError(
            f"{len(time)} samples in {num_blocks} blocks were given, at least 3 blocks of 2 samples are "
            "expected; run longer or record more often"
        )
    if not np.isfinite(energy).all():
        raise ValueError("the energy is not finite: the dynamics blew up; use a shorter time step")
    block_times = np.array([block.mean() for block in np.array_split(time, num_blocks)])
    block_energies = np.array([block.mean() for block in np.array_split(energy, num_blocks)])
    # scipy's linregress has no error for a line that fits exactly, e.g. a constant energy.
    since, change = block_times - block_times.mean(), block_energies - block_energies.mean()
    spread = np.square(since).sum()
    slope = (since * change).sum() / spread
    squares = np.square(change - slope * since).sum()
    residual = energy - slope * time
    per_nanosecond = 1000.0 / num_atoms
    changes = np.abs(np.diff(energy))
    return EnergyDrift(
        drift=float(slope * per_nanosecond),
        drift_error=float(np.sqrt(squares / (num_blocks - 2) / spread) * per_nanosecond),
        fluctuation=float(residual.std() / num_atoms),
        duration=float(time[-1] - time[0]),
        largest_change=float(changes.max() / num_atoms),
        largest_change_time=float(time[changes.argmax()]),
    )


def shadow_energy(
    total_energy: float, potential_energies: Tuple[float, float, float], kick_energy: float
) -> float:
    """The energy that velocity Verlet itself conserves, to the fourth order of the time step.

    The total energy of velocity Verlet is conserved to the second order only: it swings with every vibration,
    and it wanders as energy moves between fast vibrations and slow ones, whatever the potential. The modified
    Hamiltonian H + h^2 (v.V''v / 12 - F.F/m / 24) does neither (Hairer, Lubich, Wanner, Acta Numerica 2003,
    doi:10.1017/S0962492902000144; Engle, Skeel, Drees, doi:10.1016/j.jcp.2004.12.009). What is left in it is
    the potential's own doing: energy that a rough or non-conservative one gives and takes. Here v.V''v comes
    from the potential energy's second difference along the trajectory.

    Args:
        total_energy: potential plus kinetic energy at time t.
        potential_energies: at t - h, t and t + h, h the time step.
        kick_energy: h^2/2 times the sum of squared forces over masses, at t.

    Returns:
        The shadow energy in the unit of the arguments.
    """
    before, now, after = potential_energies
    return total_energy + (before - 2.0 * now + after + kick_energy) / 12.0
