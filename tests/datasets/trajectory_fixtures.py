"""A small molecule and its trajectories in the formats of real simulations."""

import struct
from pathlib import Path
from typing import Optional

import mdtraj
import numpy as np

# Two glycines: N, CA, C, O each, in Å.
GLYCINES = np.array(
    [
        [0.0, 0.0, 0.0],
        [1.46, 0.0, 0.0],
        [2.0, 1.42, 0.0],
        [1.25, 2.39, 0.0],
        [3.33, 1.55, 0.0],
        [3.98, 2.85, 0.0],
        [5.49, 2.7, 0.0],
        [6.02, 1.59, 0.0],
    ]
)


def topology() -> mdtraj.Topology:
    """Glycylglycine without hydrogens, with its bonds."""
    result = mdtraj.Topology()
    chain = result.add_chain()
    for _ in range(2):
        residue = result.add_residue("GLY", chain)
        for name in ("N", "CA", "C", "O"):
            result.add_atom(name, mdtraj.element.get_by_symbol(name[0]), residue)
    result.create_standard_bonds()
    return result


def walk(num_frames: int, seed: int = 0, step: float = 0.05, shift: float = 0.0) -> np.ndarray:
    """A random walk (T, 8, 3) in Å away from the start structure."""
    steps = step * np.random.default_rng(seed).normal(size=(num_frames, 8, 3))
    steps[0] = 0
    return GLYCINES + shift + np.cumsum(steps, axis=0)


def write(
    path: Path, positions: np.ndarray, times: Optional[np.ndarray] = None, box: Optional[float] = None
) -> str:
    """Writes positions in Å; returns the file name."""
    trajectory = mdtraj.Trajectory(positions / 10.0, topology(), times)
    if box is not None:
        trajectory.unitcell_lengths = np.full((len(positions), 3), box / 10.0)
        trajectory.unitcell_angles = np.full((len(positions), 3), 90.0)
    trajectory.save(str(path))
    return path.name


def dcd_bytes(
    positions: np.ndarray,
    charmm: bool = True,
    box: bool = False,
    fourth_dimension: bool = False,
    num_fixed: int = 0,
    length: str = "<i",
) -> bytes:
    """A DCD file as several programs write them, of positions (T, N, 3) in Å; mdtraj writes one kind only.

    Args:
        positions: of which the last ``num_fixed`` atoms are written in the first frame only.
        charmm: otherwise X-PLOR's header.
        box: of 20 Å.
        fourth_dimension: CHARMM's fourth coordinate.
        num_fixed: number of fixed atoms.
        length: byte order and width of the records' lengths.
    """
    integer, num_atoms = length[0] + "i", positions.shape[1]

    def record(content: bytes) -> bytes:
        around = struct.pack(length, len(content))
        return around + content + around

    control = np.zeros(20, dtype=length[0] + "i4")
    control[[0, 1, 2, 3, 8]] = len(positions), 1, 1, len(positions), num_fixed
    header = bytearray(b"CORD" + control.tobytes())
    if charmm:
        header[40:44] = struct.pack(length[0] + "f", 1.0)
        for place, value in ((44, box), (48, fourth_dimension), (80, 24)):
            header[place : place + 4] = struct.pack(integer, value)
    else:
        header[40:48] = struct.pack(length[0] + "d", 0.0123)
    parts = [bytes(header), struct.pack(integer, 1) + 80 * b" ", struct.pack(integer, num_atoms)]
    if num_fixed:
        parts.append(np.arange(1, num_atoms - num_fixed + 1, dtype=length[0] + "i4").tobytes())
    for index, frame in enumerate(positions.astype(length[0] + "f4")):
        if box:
            parts.append(struct.pack(length[0] + "6d", 20, 90, 20, 90, 90, 20))
        written = frame[: num_atoms - num_fixed] if index else frame
        parts += [np.ascontiguousarray(column).tobytes() for column in written.T]
        if fourth_dimension:
            parts.append(bytes(4 * len(written)))
    return b"".join(map(record, parts))
