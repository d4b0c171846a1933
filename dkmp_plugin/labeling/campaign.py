"""A labelling campaign: independent runs, each sampled and labelled on its own, joined into one file."""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Sequence, Union

import numpy as np
import openmm

from dkmp_plugin.datasets.label_file import (
    LabelledConformations,
    merge_runs,
    read_label_file,
    write_label_file,
)
from dkmp_plugin.labeling import gfn2
from dkmp_plugin.labeling.sampling import sample_langevin, strain


@dataclass(frozen=True)
class SamplingRun:
    """One independent run.

    Attributes:
        index: its number in the label file.
        split: ``train``, ``val`` or ``test``: a run belongs to one split as a whole.
        temperature: in kelvin.
        strained: whether the frames are strained (see ``sampling.strain``) before they are labelled.
        num_frames: number of labels.
        seed: of everything random in the run.
    """

    index: int
    split: str
    temperature: float
    strained: bool
    num_frames: int
    seed: int

    @property
    def condition(self) -> str:
        """What the run samples, in words: ``300 K`` or ``300 K strained``."""
        return f"{self.temperature:g} K" + (" strained" if self.strained else "")


def plan_runs(
    frames_per_run: Dict[str, Sequence[int]], temperatures: Sequence[float], seed: int
) -> List[SamplingRun]:
    """Independent runs for each split: every temperature, plus strained frames of the lowest temperature.

    Args:
        frames_per_run: split -> frames of each replica, e.g. ``{"train": (100, 100), "val": (50,)}``.
        temperatures: in kelvin.
        seed: of the first run; each further run takes the next number.
    """
    conditions = [(temperature, False) for temperature in temperatures] + [(min(temperatures), True)]
    runs: List[SamplingRun] = []
    for split, replicas in frames_per_run.items():
        for num_frames in replicas:
            for temperature, strained in conditions:
                index = len(runs)
                runs.append(SamplingRun(index, split, temperature, strained, num_frames, seed + index))
    return runs


def label_run(
    run: SamplingRun,
    system: openmm.System,
    atomic_numbers: Sequence[int],
    positions: np.ndarray,
    charge: int,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> LabelledConformations:
    """Samples and labels one run; arguments as in ``sample_langevin`` and ``label_conformations``."""
    frames = sample_langevin(
        system, positions, temperature=run.temperature, num_frames=run.num_frames, seed=run.seed
    )
    if run.strained:
        frames = strain(frames, np.random.default_rng(run.seed))
    energies, forces = gfn2.label_conformations(atomic_numbers, frames, charge=charge, progress=progress)
    return LabelledConformations(
        atomic_numbers=np.asarray(atomic_numbers, dtype=np.int64),
        positions=frames,
        energies=energies,
        forces=forces,
        run=np.full(run.num_frames, run.index, dtype=np.int64),
        energy_unit=gfn2.ENERGY_UNIT,
        level_of_theory=gfn2.level_of_theory(),
        total_charge=charge,
        sampling={"runs": [{**asdict(run), "condition": run.condition}]},
    )


def run_campaign(
    runs: Sequence[SamplingRun],
    output: Union[str, Path],
    label: Callable[[SamplingRun], LabelledConformations],
    description: str,
) -> LabelledConformations:
    """Labels all runs and writes one file; a campaign that was interrupted goes on where it stopped.

    Finished runs wait in ``<output>.runs/`` until the whole file is written; then the folder is removed.

    Args:
        runs: what to do.
        output: the label file.
        label: samples and labels one run (see ``label_run``).
        description: how the conformations were made, in words; kept in the file.

    Returns:
        What was written to ``output``.
    """
    output = Path(output)
    folder = output.with_name(output.name + ".runs")
    parts = []
    for run in runs:
        path = folder / f"run_{run.index:03d}.h5"
        part = _finished_run(path, run)
        if part is None:
            part = label(run)
            write_label_file(path, part)
        parts.append(part)
    labels = merge_runs(parts)
    labels.sampling["description"] = description
    write_label_file(output, labels)
    shutil.rmtree(folder)
    return labels


def _finished_run(path: Path, run: SamplingRun) -> Union[LabelledConformations, None]:
    """The run as an interrupted campaign left it, or None where it is missing or was made otherwise."""
    if not path.exists():
        return None
    part = read_label_file(path)
    made_alike = part.sampling["runs"] == [{**asdict(run), "condition": run.condition}]
    return part if made_alike and part.level_of_theory == gfn2.level_of_theory() else None
