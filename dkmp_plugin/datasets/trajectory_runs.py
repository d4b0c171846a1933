"""Uninterrupted runs of a trajectory file: selected atoms, molecules followed across borders of the box."""

import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any, List, Optional, Tuple, Union

import numpy as np

from dkmp_plugin.datasets.run import Run
from dkmp_plugin.datasets.run_borders import find_borders, frame_spacing, stores_times
from dkmp_plugin.datasets.trajectory_files import PathLike, atomic_numbers, read_frames, select_atoms
from dkmp_plugin.datasets.unwrapping import (
    bonds_of,
    gather,
    molecules_and_residues,
    molecules_of,
    step_lengths,
    unwrap,
)

_NAMED_RUNS = 10


def _steps(positions: np.ndarray) -> np.ndarray:
    """Root mean square displacement (T - 1,) from each frame to the next."""
    return np.array([np.sqrt(np.square(after - before).mean()) for before, after in pairwise(positions)])


def split_run(path: Union[str, Path]) -> Tuple[str, Optional[int]]:
    """Name of the file and which of its runs is meant by ``FILE#2``; None where nothing says so."""
    name, _, wanted = str(path).rpartition("#")
    if not wanted.isdigit() or Path(path).is_file():
        return str(path), None
    return name, int(wanted)


def load_runs(
    path: PathLike,
    topology: Any,
    selection: str = "full",
    stride: int = 1,
    periodic: bool = False,
    min_frames: int = 1,
) -> List[Run]:
    """All uninterrupted runs of one trajectory file.

    Where the file has boxes, molecules are followed across their borders; see :func:`unwrap`. Unless the
    boxes are kept, they start from the images nearest to the largest molecule; see :func:`gather`.

    Args:
        path: trajectory in any format mdtraj reads; ``FILE#2`` takes only the third run in it.
        topology: mdtraj topology of the whole system.
        selection: see :func:`select_atoms`.
        stride: keep every stride-th frame.
        periodic: keep the boxes.
        min_frames: of several runs, shorter ones are left out with a warning, unless ``FILE#2`` names one.

    Raises:
        ValueError: see :func:`read_frames`, :func:`check_bonds`, :func:`select_atoms`; no such run; or all of
            several runs are too short.
        MissingPackageError: see :func:`read_frames`.
    """
    name, wanted = split_run(path)
    atoms = select_atoms(topology, selection)
    bonds = bonds_of(topology)
    molecules = molecules_of(bonds, topology.n_atoms)
    # Selections without bonds among themselves, too, belong to molecules that must be whole.
    must_be_whole = bonds[np.isin(molecules[bonds[:, 0]], molecules[atoms])]
    positions, times, boxes = read_frames(name, topology, atoms, stride, must_be_whole)
    if periodic and boxes is None:
        raise ValueError(f"{name} has no periodic box; set periodic: false")
    numbers = atomic_numbers(topology, atoms)
    molecules = molecules[atoms]
    gathers = boxes is not None and not periodic
    if gathers:
        residues = ([atom.index for atom in residue.atoms] for residue in topology.residues)
        together = molecules_and_residues(bonds, residues, topology.n_atoms)[atoms]
    steps = _steps(positions) if boxes is None else step_lengths(positions, boxes, molecules)
    knows_times = stores_times(Path(name), times, stride)
    borders = [0, *find_borders(steps, times, knows_times), len(positions)]
    runs = []
    for index, (start, stop) in enumerate(pairwise(borders)):
        if boxes is not None:
            # Each run by itself: the replica before says nothing about the images of its first frame.
            if gathers:
                gather(positions[start], boxes[start], molecules, together)
            unwrap(positions[start:stop], boxes[start:stop], molecules)
        runs.append(
            Run(
                Path(name).name if len(borders) == 2 else f"{Path(name).name}#{index}",
                numbers,
                positions[start:stop],
                boxes[start:stop] if periodic and boxes is not None else None,
                frame_spacing(times[start:stop]) if knows_times else None,
            )
        )
    if wanted is None:
        return _long_enough(name, runs, min_frames) if len(runs) > 1 else runs
    if wanted >= len(runs):
        raise ValueError(f"{path}: the file holds runs #0 to #{len(runs) - 1}; name one of them, or the file")
    return [runs[wanted]]


def _long_enough(path: str, runs: List[Run], min_frames: int) -> List[Run]:
    """The runs of a file that have at least so many frames; a warning names the others."""
    kept = [run for run in runs if len(run.positions) >= min_frames]
    if not kept:
        longest = max(len(run.positions) for run in runs)
        raise ValueError(
            f"{path} is interrupted {len(runs) - 1} times, and its longest run has {longest} frames, at "
            f"least {min_frames} are needed; lower lag, or give a trajectory with fewer gaps"
        )
    short = [f"{run.name} ({len(run.positions)})" for run in runs if len(run.positions) < min_frames]
    if short:
        named = ", ".join(short[:_NAMED_RUNS]) + (", ..." if len(short) > _NAMED_RUNS else "")
        warnings.warn(
            f"{path}: {len(short)} of its {len(runs)} runs have fewer than the {min_frames} frames that are "
            f"needed and are left out: {named}",
            stacklevel=3,
        )
    return kept
