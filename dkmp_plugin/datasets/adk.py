"""Adenylate kinase (3341 atoms) in two protocols: ``dataset: DKMPAdK``."""

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any, List, Sequence, Tuple, Union

from dkmp_plugin.datasets.arguments import check_boolean
from dkmp_plugin.datasets.frame_pairs import FramePairs
from dkmp_plugin.datasets.run import Run
from dkmp_plugin.datasets.sampling import Sampling
from dkmp_plugin.datasets.trajectory import refuse_shared_runs, superpose_runs, without_drift
from dkmp_plugin.datasets.trajectory_files import load_topology
from dkmp_plugin.datasets.trajectory_runs import load_runs
from dkmp_plugin.optional import require

PROTOCOLS = ("dims", "equilibrium")
# The benchmark's 855 backbone atoms leave out the oxygens of the C-terminal carboxylate.
BACKBONE = "protein and (name N or name CA or name C or (name O and not resid 213))"
EQUILIBRIUM_SOURCE = (
    "https://www.mdanalysis.org/MDAnalysisData/adk_equilibrium.html (MDAnalysisData.datasets."
    "fetch_adk_equilibrium(): adk4AKE.psf and 1ake_007-nowater-core-dt240ps.dcd)"
)
EQUILIBRIUM_FILES = ("adk4AKE.psf", "1ake_007-nowater-core-dt240ps.dcd")


def dims_test_files() -> Tuple[Path, Path, Path]:
    """Topology and the two DIMS runs of the PyPI package MDAnalysisTests.

    Raises:
        MissingPackageError: the package is not installed.
    """
    require("MDAnalysisTests", "DKMPAdK")
    # Found without importing it: the package itself would import MDAnalysis.
    package = importlib.util.find_spec("MDAnalysisTests")
    assert package is not None and package.submodule_search_locations
    data = Path(next(iter(package.submodule_search_locations))) / "data"
    return data / "adk.psf", data / "adk_dims.dcd", data / "adk_dims2.dcd"


class DKMPAdK(FramePairs):
    """Frame pairs of adenylate kinase.

    - ``dims``: biased transition paths (dynamic importance sampling, closed to open, CHARMM22, implicit
      solvent; about 100 frames each). Training: runs 1 and 2 of MDAnalysisTests; validation and test: the
      DCD files in ``root`` named by ``val`` and ``test``.
    - ``equilibrium``: the benchmark of EGHN: 4,187 frames of ``root/1ake_007-nowater-core-dt240ps.dcd``,
      split chronologically 60/20/20.

    These protocols are different dynamics: numbers of one say nothing about the other.

    Args:
        root: folder of the files that do not come with MDAnalysisTests (torchmd-train's ``dataset_root``).
        protocol: ``dims`` or ``equilibrium``.
        selection: ``full`` (3341 atoms), ``backbone`` (855), ``heavy``, or mdtraj's selection language.
        val: DIMS files in ``root`` for validation; ``run1`` or ``run2`` moves that run out of training.
        test: DIMS files in ``root`` for test, in the same way.
        superpose: see :func:`dkmp_plugin.datasets.trajectory.superpose_runs`.
        remove_drift: superpose every frame of the training runs onto the one before. How a molecule drifts
            and tumbles as a whole cannot be predicted from its structure: it is noise in the targets.
        **sampling: see :class:`dkmp_plugin.datasets.sampling.Sampling` (``lag``, ``augment_...``, ...).

    Raises:
        ValueError: unknown protocol, missing files (the message says where they come from), or as
            :class:`dkmp_plugin.datasets.trajectory.DKMPTrajectory`.
    """

    def __init__(
        self,
        root: str,
        protocol: str = "dims",
        selection: str = "full",
        val: Union[str, Sequence[str]] = ("dims_002.dcd",),
        test: Union[str, Sequence[str]] = (),
        superpose: str = "none",
        remove_drift: bool = False,
        **sampling: Any,
    ) -> None:
        options = Sampling(**sampling)
        check_boolean("remove_drift", remove_drift)
        folder = Path(root).expanduser()
        if selection == "backbone":
            selection = BACKBONE
        if protocol == "dims":
            names = [(files,) if isinstance(files, str) else tuple(files) for files in (val, test)]
            parts = _dims_runs(folder, selection, options.lag + 1, *names)
        elif protocol == "equilibrium":
            parts = _equilibrium_runs(folder, selection)
        else:
            raise ValueError(f"protocol: {protocol!r} was given, one of {', '.join(PROTOCOLS)} is expected")
        reference = parts[0][0]
        train, validation, held_out = (superpose_runs(part, reference, superpose) for part in parts)
        train = without_drift(train) if remove_drift else train
        super().__init__(
            (train, validation, held_out),
            options,
            {
                "system": "adenylate kinase",
                "protocol": protocol,
                "selection": selection,
                "superpose": superpose,
            },
        )


def _dims_runs(
    folder: Path, selection: str, min_frames: int, val: Tuple[str, ...], test: Tuple[str, ...]
) -> List[List[Run]]:
    psf, first, second = dims_test_files()
    topology = load_topology(psf)
    packaged = {"run1": first, "run2": second}
    held_out = [packaged.get(name, folder / name) for name in (*val, *test)]
    train = [path for path in packaged.values() if path not in held_out]
    files = {"train": train, "val": held_out[: len(val)], "test": held_out[len(val) :]}
    parts = {
        part: [
            (path, run)
            for path in paths
            for run in load_runs(path, topology, selection, min_frames=min_frames)
        ]
        for part, paths in files.items()
    }
    refuse_shared_runs(parts)
    return [[run for _, run in runs] for runs in parts.values()]


def _equilibrium_runs(folder: Path, selection: str) -> List[List[Run]]:
    psf, dcd = (folder / name for name in EQUILIBRIUM_FILES)
    for path in (psf, dcd):
        if not path.is_file():
            raise ValueError(f"{path}: no such file; download it from {EQUILIBRIUM_SOURCE}")
    runs = load_runs(dcd, load_topology(psf), selection)
    if len(runs) != 1:
        raise ValueError(f"{dcd}: {len(runs)} runs were found, one uninterrupted run is expected")
    return [[part] for part in chronological_parts(runs[0])]


def chronological_parts(run: Run) -> List[Run]:
    """A run cut into a training, a validation and a test part, in this order in time: 60, 20 and 20 %.

    Args:
        run: the run.
    """
    total = len(run.positions)
    first = round(0.6 * total)
    second = round(0.8 * total)
    parts: List[Run] = []
    for name, start, stop in (("train", 0, first), ("val", first, second), ("test", second, total)):
        boxes = None if run.boxes is None else run.boxes[start:stop]
        positions = run.positions[start:stop]
        parts.append(replace(run, name=f"{run.name} ({name})", positions=positions, boxes=boxes))
    return parts
