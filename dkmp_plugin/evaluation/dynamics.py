"""What a stretch of dynamics says about a group of atoms: temperature and internal deviation."""

import numpy as np

from dkmp_plugin.superposition import superpose
from dkmp_plugin.units import GAS_CONSTANT


def temperature(velocities: np.ndarray, masses: np.ndarray) -> float:
    """Instantaneous temperature in kelvin of atoms without constraints.

    Args:
        velocities: (N, 3) in nm/ps.
        masses: (N,) in dalton.
    """
    # In kJ/mol, which is dalton nm²/ps².
    kinetic_energy = 0.5 * float((masses[:, None] * velocities**2).sum())
    return 2.0 * kinetic_energy / (3 * len(masses) * GAS_CONSTANT)


def internal_rmsd(positions: np.ndarray, reference: np.ndarray) -> float:
    """Root-mean-square deviation after the best superposition, in the unit of the positions.

    Args:
        positions: (N, 3).
        reference: (N, 3).
    """
    (moved,) = superpose(positions[None], reference)
    return float(np.sqrt(np.square(moved - reference).sum(axis=1).mean()))
