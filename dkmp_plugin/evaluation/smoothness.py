"""Is a potential smooth? Scans along one coordinate, and the jumps and extra minima that they show.

After the Bond Smoothness Characterization Test (arXiv:2602.04861), which deforms bonds from compressed to
broken and looks for discontinuities, artificial minima and spurious forces. The scan here is one number s
that moves a group of atoms along a straight line; energy, force and slope of the force along it are exact
derivatives of the model (automatic differentiation), not finite differences.
"""

from dataclasses import dataclass
from typing import Callable, Sequence

import numpy as np
import torch
from scipy.signal import find_peaks
from torch import Tensor

# Width in Å to which an interval is halved: what still changes across it is a jump.
_JUMP_WIDTH = 1e-5
_CANDIDATES = 2


@dataclass(frozen=True)
class Scan:
    """Energy along a coordinate, and its derivatives.

    Attributes:
        coordinate: (S,) in Å, ascending.
        energy: (S,) in the unit of the model.
        force: (S,) minus the derivative of the energy, per Å.
        force_slope: (S,) derivative of the force, per Å^2.
    """

    coordinate: np.ndarray
    energy: np.ndarray
    force: np.ndarray
    force_slope: np.ndarray


@dataclass(frozen=True)
class Smoothness:
    """What a scan shows.

    Attributes:
        energy_jump: largest discontinuity of the energy.
        force_jump: largest discontinuity of the force, per Å.
        force_slope_jump: largest discontinuity of the slope of the force, per Å^2.
        inconsistency: largest difference between the change of the energy over one interval of the scan and
            the integral of minus the force over it (Hermite rule, exact for quartic polynomials).
        minima: number of minima of the energy inside the scan.
    """

    energy_jump: float
    force_jump: float
    force_slope_jump: float
    inconsistency: float
    minima: int


class LineScan:
    """A group of atoms moved along a line.

    Args:
        energy: positions (N, 3) in Å, float64 -> energy (), differentiable twice.
        positions: (N, 3) at s = 0.
        moving: indices of the atoms that move.
        direction: (3,); its length is divided out.
    """

    def __init__(
        self,
        energy: Callable[[Tensor], Tensor],
        positions: np.ndarray,
        moving: Sequence[int],
        direction: np.ndarray,
    ) -> None:
        self._energy = energy
        self._positions = torch.as_tensor(positions, dtype=torch.float64)
        self._shift = torch.zeros_like(self._positions)
        unit = np.asarray(direction, dtype=np.float64) / np.linalg.norm(direction)
        self._shift[list(moving)] = torch.as_tensor(unit)

    def positions_at(self, coordinate: float) -> np.ndarray:
        """Positions (N, 3) in Å at one value of the coordinate."""
        return (self._positions + coordinate * self._shift).numpy()

    def at(self, coordinate: float) -> np.ndarray:
        """Energy, force and slope of the force, (3,), at one value of the coordinate."""
        s = torch.tensor(float(coordinate), dtype=torch.float64, requires_grad=True)
        energy = self._energy(self._positions + s * self._shift)
        if not energy.requires_grad:  # nothing interacts
            return np.array([energy.item(), 0.0, 0.0])
        (slope,) = torch.autograd.grad(energy, s, create_graph=True)
        curvature = None
        if slope.requires_grad:
            (curvature,) = torch.autograd.grad(slope, s, allow_unused=True)
        return np.array([energy.item(), -slope.item(), 0.0 if curvature is None else -curvature.item()])

    def run(self, coordinates: np.ndarray) -> Scan:
        """Energy and derivatives on a grid."""
        values = np.array([self.at(coordinate) for coordinate in coordinates])
        return Scan(np.asarray(coordinates, dtype=float), *values.T)


def _defects(left: float, right: float, at_left: np.ndarray, at_right: np.ndarray) -> np.ndarray:
    """What derivatives do not explain of the changes of energy, force and slope over an interval, (3,)."""
    step = right - left
    energy, force, slope = at_right - at_left
    mean_force, mean_slope = (at_left[1:] + at_right[1:]) / 2
    # Hermite and trapezoidal rules; of the slope's own derivative nothing is known.
    return np.array([energy + step * mean_force - step**2 / 12 * slope, force - step * mean_slope, slope])


def largest_jumps(function: Callable[[float], np.ndarray], scan: Scan) -> np.ndarray:
    """Largest discontinuities of energy, force and slope of the force, (3,).

    The intervals whose changes are least explained are halved again and again, each time keeping the half
    with the larger unexplained change: what is smooth shrinks with the interval, a jump does not. What the
    slope of a smooth curve still contributes at the end cancels between the last two widths. A jump of the
    slope alone is missed where it is smaller than the ordinary changes of the slope from point to point.

    Args:
        function: energy, force and slope (3,) at one value of the coordinate.
        scan: the same on a grid of at least four points.
    """
    points = np.stack([scan.energy, scan.force, scan.force_slope], axis=1)
    grid = scan.coordinate
    defects = np.array([_defects(*grid[i : i + 2], *points[i : i + 2]) for i in range(len(grid) - 1)])
    before, after = np.roll(defects, 1, axis=0), np.roll(defects, -1, axis=0)
    before[0], after[-1] = defects[1], defects[-2]
    suspicion = np.maximum(np.abs(defects - before), np.abs(defects - after))
    suspects = np.argsort(suspicion, axis=0)[-_CANDIDATES:]
    jumps = np.zeros(3)
    for column in range(3):
        # Where the energy jumps its derivatives may as well, hidden among their ordinary changes.
        for interval in np.unique(suspects[:, : column + 1]):
            left, right = grid[interval], grid[interval + 1]
            at_left, at_right = points[interval], points[interval + 1]
            defect = jump = _defects(left, right, at_left, at_right)[column]
            while right - left > _JUMP_WIDTH:
                middle = 0.5 * (left + right)
                at_middle = function(middle)
                first = _defects(left, middle, at_left, at_middle)[column]
                second = _defects(middle, right, at_middle, at_right)[column]
                if abs(first) > abs(second):
                    right, at_right, half = middle, at_middle, first
                else:
                    left, at_left, half = middle, at_middle, second
                jump, defect = 2 * half - defect, half
            jumps[column] = max(jumps[column], abs(jump))
    return jumps


def count_minima(energy: np.ndarray, prominence: float) -> int:
    """Minima inside a scan that are deeper than ``prominence`` on both sides.

    Args:
        energy: (S,); not finite where it is not known. What lies between such points is a scan by itself.
        prominence: in the unit of the energy.
    """
    energy = np.asarray(energy, dtype=float)
    unknown = np.flatnonzero(~np.isfinite(energy))
    stretches = (part[np.isfinite(part)] for part in np.split(energy, unknown))
    return sum(len(find_peaks(-part, prominence=prominence)[0]) for part in stretches)


def smoothness(line: LineScan, scan: Scan, prominence: float) -> Smoothness:
    """Judge a scan.

    Args:
        line: the scan's line, for points between those of the grid.
        scan: the scan.
        prominence: depth below which a minimum is not counted, in the model's unit of energy.
    """
    step = np.diff(scan.coordinate)
    work = step * (scan.force[:-1] + scan.force[1:]) / 2 - step**2 * np.diff(scan.force_slope) / 12
    energy_jump, force_jump, force_slope_jump = largest_jumps(line.at, scan).tolist()
    return Smoothness(
        energy_jump,
        force_jump,
        force_slope_jump,
        inconsistency=float(np.abs(np.diff(scan.energy) + work).max()),
        minima=count_minima(scan.energy, prominence),
    )
