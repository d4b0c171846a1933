"""Reads and checks molecular-dynamics trajectories: topology + frames -> runs of selected atoms."""

import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any, List, Optional, Tuple, Union

import numpy as np

from dkmp_plugin.datasets.dcd import check_dcd_is_whole
from dkmp_plugin.datasets.run import Run
from dkmp_plugin.optional import require
from dkmp_plugin.units import ANGSTROM_PER_NANOMETER

PathLike = Union[str, Path]

# Names of common selections; anything else is mdtraj's selection language.
SELECTIONS = {
    "full": "all",
    "backbone": "protein and (name N or name CA or name C or name O)",
    "heavy": "element != H",
    # Everything but solvent and the monatomic ions of the usual force fields.
    "protein+ligand": (
        "not water and not (resname NA or resname CL or resname K or resname SOD or resname CLA or "
        "resname POT or resname 'Na+' or resname 'Cl-' or resname 'K+')"
    ),
}
# Typical lengths in Å of covalent bonds and of the gap between neighbouring selected atoms.
_BOND_RANGE = (0.7, 2.6)
# Topologies with guessed bonds hold a few wrong ones of 4 to 6 Å; a molecule cut by the box is longer.
_LONGEST_BOND = 10.0
# A jump is this many times the median step and moves atoms by at least this much (root mean square, Å).
_JUMP_FACTOR, _JUMP_MINIMUM = 4.0, 1.0
_CHUNK_FRAMES = 100


def load_topology(path: PathLike) -> Any:
    """An mdtraj topology from any file mdtraj can read one from.

    Raises:
        ValueError: the file is missing or unreadable.
        MissingPackageError: mdtraj is not installed.
    """
    require("mdtraj", "reading topologies and trajectories")
    import mdtraj

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; a topology (PDB, PSF, prmtop, GRO, ...) is expected")
    try:
        with warnings.catch_warnings():
            # mdtraj comments on force-field details of the file that do not matter here.
            warnings.simplefilter("ignore")
            return mdtraj.load_topology(str(path))
    except Exception as error:
        # Every format of mdtraj has error types of its own.
        raise ValueError(f"{path} cannot be read as a topology: {error}") from error


def select_atoms(topology: Any, selection: str) -> np.ndarray:
    """Indices of the selected atoms, ascending.

    Args:
        topology: mdtraj topology.
        selection: ``full``, ``backbone`` (N, CA, C, O), ``heavy``, ``protein+ligand`` (no water, no ions), or
            an expression in mdtraj's selection language.

    Raises:
        ValueError: the expression is malformed or matches nothing.
    """
    expression = SELECTIONS.get(selection, selection)
    try:
        atoms = topology.select(expression)
    except Exception as error:
        # mdtraj's parser raises several types of its own.
        raise ValueError(
            f"selection: {selection!r} is neither one of {', '.join(SELECTIONS)} nor in mdtraj's selection "
            f"language ({error})"
        ) from error
    if len(atoms) == 0:
        raise ValueError(f"selection: {selection!r} matches none of the {topology.n_atoms} atoms")
    return np.asarray(atoms)


def atomic_numbers(topology: Any, atoms: np.ndarray) -> np.ndarray:
    """Atomic numbers (n,) int64 of the chosen atoms.

    Raises:
        ValueError: the topology does not know an element.
    """
    elements = [topology.atom(int(index)).element for index in atoms]
    for index, element in zip(atoms, elements, strict=True):
        if element is None or element.atomic_number == 0:
            raise ValueError(
                f"atom {index} ({topology.atom(int(index))}) has no element; "
                "use a topology that states elements"
            )
    return np.array([element.atomic_number for element in elements], dtype=np.int64)


def read_frames(
    path: PathLike, topology: Any, atoms: np.ndarray, stride: int = 1
) -> Tuple[np.ndarray, np.ndarray, Optional[np.ndarray]]:
    """Positions of the chosen atoms in all frames; only these atoms are kept in memory.

    Args:
        path: trajectory in any format mdtraj reads.
        topology: mdtraj topology of the whole system.
        atoms: (n,) indices to keep.
        stride: keep every stride-th frame.

    Returns:
        positions (T, n, 3) in Å, float32; times (T,) in ps; boxes (T, 3, 3) in Å or None.

    Raises:
        ValueError: missing, truncated or unreadable file, or another number of atoms than the topology.
    """
    import mdtraj

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; a trajectory that mdtraj reads is expected")
    if path.suffix.lower() == ".dcd":
        check_dcd_is_whole(path)
    positions: List[np.ndarray] = []
    times: List[np.ndarray] = []
    boxes: List[np.ndarray] = []
    try:
        for chunk in mdtraj.iterload(str(path), chunk=_CHUNK_FRAMES, top=topology, stride=stride):
            positions.append(ANGSTROM_PER_NANOMETER * chunk.xyz[:, atoms])
            times.append(chunk.time)
            if chunk.unitcell_vectors is not None:
                boxes.append(ANGSTROM_PER_NANOMETER * chunk.unitcell_vectors)
    except (OSError, ValueError, RuntimeError, TypeError, IndexError) as error:
        raise ValueError(
            f"{path} cannot be read with a topology of {topology.n_atoms} atoms: {error}; check that both "
            "files belong together and that the trajectory is complete"
        ) from error
    if not positions:
        raise ValueError(f"{path} holds no frames")
    together = np.concatenate(positions).astype(np.float32)
    box = np.concatenate(boxes).astype(np.float32) if boxes else None
    return together, np.concatenate(times), box


def check_frames(
    name: str, positions: np.ndarray, bonds: np.ndarray, boxes: Optional[np.ndarray] = None
) -> None:
    """Refuses frames that cannot be what they claim to be.

    Args:
        name: What to call the frames in errors.
        positions: (T, n, 3) in Å.
        bonds: (b, 2) indices of bonded atoms; may be empty.
        boxes: (T, 3, 3) in Å, or None.

    Raises:
        ValueError: NaN positions, bonds of impossible length (unit mix-up), or molecules cut by the box.
    """
    finite = np.isfinite(positions).all(axis=(1, 2))
    if not finite.all():
        raise ValueError(f"{name}: frame {int(np.argmin(finite))} holds NaN or infinite positions")
    if len(bonds) == 0:
        return
    lengths = np.linalg.norm(positions[:, bonds[:, 0]] - positions[:, bonds[:, 1]], axis=2)
    median = float(np.median(lengths[0]))
    if not _BOND_RANGE[0] <= median <= _BOND_RANGE[1]:
        raise ValueError(
            f"{name}: its bonds have a median length of {median:.3g} Å, about 1 to 1.5 is expected; the file "
            "mixes nm and Å, or the topology belongs to another system"
        )
    frame, bond = np.unravel_index(int(np.argmax(lengths)), lengths.shape)
    longest = _LONGEST_BOND
    if boxes is not None:
        longest = min(longest, 0.5 * float(np.linalg.norm(boxes, axis=2).min()))
    if lengths[frame, bond] > longest:
        raise ValueError(
            f"{name}: in frame {frame} atoms {bonds[bond, 0]} and {bonds[bond, 1]} are bonded but "
            f"{lengths[frame, bond]:.1f} Å apart: a molecule is cut by the periodic box; make molecules "
            "whole (mdtraj: trajectory.image_molecules(), GROMACS: trjconv -pbc whole)"
        )


def find_jumps(positions: np.ndarray, times: np.ndarray) -> List[int]:
    """Frames at which another replica begins.

    A frame begins a new run where time does not advance, or where the atoms move several times farther than
    they do in a typical step.

    Args:
        positions: (T, n, 3) in Å.
        times: (T,) in ps.

    Returns:
        Ascending frame numbers, without 0.
    """
    if len(positions) < 3:
        return []
    steps = np.array([np.sqrt(np.square(after - before).mean()) for before, after in pairwise(positions)])
    far = (steps > _JUMP_FACTOR * np.median(steps)) & (steps > _JUMP_MINIMUM)
    return [int(frame) + 1 for frame in np.flatnonzero(far | (np.diff(times) <= 0))]


def _bonds_among(topology: Any, atoms: np.ndarray) -> np.ndarray:
    place = {int(atom): index for index, atom in enumerate(atoms)}
    pairs = [(place.get(first.index), place.get(second.index)) for first, second in topology.bonds]
    return np.array([pair for pair in pairs if None not in pair], dtype=np.int64).reshape(-1, 2)


def split_run(path: Union[str, Path]) -> Tuple[str, Optional[int]]:
    """Name of the file and which of its runs is meant by ``FILE#2``; None where nothing says so."""
    name, _, wanted = str(path).rpartition("#")
    if not wanted.isdigit() or Path(path).is_file():
        return str(path), None
    return name, int(wanted)


def load_runs(
    path: PathLike, topology: Any, selection: str = "full", stride: int = 1, periodic: bool = False
) -> List[Run]:
    """All uninterrupted runs of one trajectory file.

    Args:
        path: trajectory in any format mdtraj reads; ``FILE#2`` takes only the third run in it.
        topology: mdtraj topology of the whole system.
        selection: see :func:`select_atoms`.
        stride: keep every stride-th frame.
        periodic: keep the boxes.

    Raises:
        ValueError: see :func:`read_frames`, :func:`check_frames`, :func:`select_atoms`; or no such run.
    """
    name, wanted = split_run(path)
    atoms = select_atoms(topology, selection)
    positions, times, boxes = read_frames(name, topology, atoms, stride)
    check_frames(name, positions, _bonds_among(topology, atoms), boxes)
    if periodic and boxes is None:
        raise ValueError(f"{name} has no periodic box; set periodic: false")
    numbers = atomic_numbers(topology, atoms)
    borders = [0, *find_jumps(positions, times), len(positions)]
    runs = [
        Run(
            Path(name).name if len(borders) == 2 else f"{Path(name).name}#{index}",
            numbers,
            positions[start:stop],
            boxes[start:stop] if periodic and boxes is not None else None,
        )
        for index, (start, stop) in enumerate(pairwise(borders))
    ]
    if wanted is None:
        return runs
    if wanted >= len(runs):
        raise ValueError(f"{path}: the file holds runs #0 to #{len(runs) - 1}")
    return [runs[wanted]]
