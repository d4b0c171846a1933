"""torchmd-net dataset over any trajectory that mdtraj reads: ``dataset: DKMPTrajectory``."""

from dataclasses import replace
from itertools import chain, combinations
from pathlib import Path
from typing import Any, List, Mapping, Sequence, Tuple, Union

from dkmp_plugin import superposition
from dkmp_plugin.datasets.arguments import check_boolean
from dkmp_plugin.datasets.frame_pairs import FramePairs, refuse_with_boxes
from dkmp_plugin.datasets.run import Run, holds_start_of, same_atoms
from dkmp_plugin.datasets.sampling import Sampling
from dkmp_plugin.datasets.trajectory_files import load_topology
from dkmp_plugin.datasets.trajectory_runs import load_runs, split_run

SUPERPOSITIONS = ("none", "runs", "frames")


def superpose_runs(runs: Sequence[Run], reference: Run, how: str) -> List[Run]:
    """Moves runs of one system into the orientation of the first frame of a reference run.

    Args:
        runs: the runs.
        reference: a run of the same system.
        how: ``none``; ``runs`` (one rigid motion per run, fitted to its first frame); ``frames`` (every frame
            by itself, which removes overall tumbling).

    Raises:
        ValueError: unknown ``how``, or runs of different systems.
    """
    if how not in SUPERPOSITIONS:
        raise ValueError(f"superpose: {how!r} was given, one of {', '.join(SUPERPOSITIONS)} is expected")
    if how == "none":
        return list(runs)
    if not same_atoms([reference, *runs]):
        raise ValueError("superpose: the runs are of different systems; use superpose: none")
    start = reference.positions[0]
    each_frame = how == "frames"
    return [replace(run, positions=superposition.superpose(run.positions, start, each_frame)) for run in runs]


def without_drift(runs: Sequence[Run]) -> List[Run]:
    """The runs without overall motion; see :func:`dkmp_plugin.superposition.remove_drift`."""
    return [replace(run, positions=superposition.remove_drift(run.positions)) for run in runs]


def refuse_shared_runs(parts: Mapping[str, Sequence[Tuple[Path, Run]]]) -> None:
    """Refuses runs in two parts: errors on a run that training has seen say nothing about others.

    Copies under another name, in another format or of a piece are found by their frames; in one part, too,
    where they would count twice.

    Args:
        parts: Of each part the files, perhaps with ``#`` and a number, and the runs read from them.

    Raises:
        ValueError: naming the parts and the run.
    """
    places = {
        part: {(Path(split_run(path)[0]).resolve(), run.name): run for path, run in runs}
        for part, runs in parts.items()
    }
    for first, second in combinations(places, 2):
        for place, run in places[first].items():
            if place in places[second]:
                raise ValueError(
                    f"{first} and {second} share {len(run.positions)} frames of {run.name}; name "
                    "other files, or other runs of this one (FILE#0, FILE#1)"
                )
    given = chain.from_iterable([(part, run) for _, run in runs] for part, runs in parts.items())
    for (part, run), (other_part, other) in combinations(given, 2):
        if holds_start_of(run, other) or holds_start_of(other, run):
            raise ValueError(
                f"{run.name} ({part}) and {other.name} ({other_part}) hold the same frames: one is the other "
                "or a piece of it; name only one of them"
            )


def _file_names(part: str, files: Union[str, Sequence[str]]) -> List[str]:
    """The names given for a part, one or several.

    Raises:
        ValueError: they are no names.
    """
    names = [files] if isinstance(files, (str, Path)) else files
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, (str, Path)) for name in names):
        raise ValueError(f"{part}: {files!r} was given, the name of a file or a list of names is expected")
    return [str(name) for name in names]


class DKMPTrajectory(FramePairs):
    """Frame pairs of trajectories of one system: all files have one topology.

    Whole runs go to training, validation or test. A file that holds several replicas one after the other is
    taken apart where time does not advance, frames are missing, or atoms jump; frames are never paired across
    such a border, and runs that are too short for a pair are left out with a warning.
    Where files have boxes, molecules must be whole, and are followed across the borders of the box; a run
    starts with all in the images nearest to the largest molecule, unless the model is given the box.
    The selected atoms of all frames are kept in memory (12 bytes per atom and frame).

    Args:
        root: folder that the other paths are relative to (torchmd-train's ``dataset_root``).
        topology: topology file (PDB, PSF, prmtop, GRO, ...).
        train: trajectory files; ``FILE#2`` takes only the third run in a file.
        val: the same for validation.
        test: the same for test.
        selection: ``full``, ``backbone``, ``heavy``, ``protein+ligand``, or mdtraj's selection language.
        stride: keep every stride-th frame. Molecules in a box are followed from one of these to the next: a
            water that moves by more than half of the box in between ends up in another image.
        superpose: ``none``, ``runs`` or ``frames``; see :func:`superpose_runs`.
        periodic: hand the periodic box to the model; not together with options that turn structures
            (``superpose``, ``remove_drift``, ``augment_rotation``, ``augment_crossing``). Rollouts and the
            propagator, which have no box, refuse such a model.
        remove_drift: superpose every frame of the training runs onto the one before. How a molecule drifts
            and tumbles as a whole cannot be predicted from its structure: it is noise in the targets.
        **sampling: see :class:`dkmp_plugin.datasets.sampling.Sampling` (``lag``, ``augment_...``, ...).

    Raises:
        ValueError: files that are missing, damaged or do not belong together, a run in two parts or twice in
            one, a selection that matches nothing, a lag longer than a run, NaN positions, molecules cut by
            the box, nm taken for Å, files with different times between frames, or options that turn periodic
            structures.
    """

    def __init__(
        self,
        root: str,
        topology: str,
        train: Sequence[str],
        val: Sequence[str] = (),
        test: Sequence[str] = (),
        selection: str = "full",
        stride: int = 1,
        superpose: str = "none",
        periodic: bool = False,
        remove_drift: bool = False,
        **sampling: Any,
    ) -> None:
        options = Sampling(**sampling)
        check_boolean("periodic", periodic)
        check_boolean("remove_drift", remove_drift)
        if periodic:
            refuse_with_boxes(superpose=superpose, remove_drift=remove_drift)
        folder = Path(root).expanduser()
        chemistry = load_topology(folder / topology if isinstance(topology, (str, Path)) else topology)
        found = {
            part: [
                (folder / name, run)
                for name in _file_names(part, files)
                for run in load_runs(folder / name, chemistry, selection, stride, periodic, options.lag + 1)
            ]
            for part, files in (("train", train), ("val", val), ("test", test))
        }
        refuse_shared_runs(found)
        parts: List[List[Run]] = []
        for of_part in found.values():
            runs = [run for _, run in of_part]
            if runs:
                runs = superpose_runs(runs, parts[0][0] if parts and parts[0] else runs[0], superpose)
            parts.append(runs)
        if remove_drift:
            parts[0] = without_drift(parts[0])
        super().__init__(
            (parts[0], parts[1], parts[2]),
            options,
            {"selection": selection, "stride": stride, "superpose": superpose, "periodic": periodic},
        )
