"""A labelling campaign: independent runs, sampled, then labelled in chunks, joined into one file.

Whatever is finished waits in ``<output>.runs/run_<index>/``: ``plan.json`` (what was asked for),
``frames.npy``, ``labels_<first frame>.npz``. A campaign that was killed goes on from there.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence, Tuple, Union

import numpy as np
import openmm
from tqdm import tqdm

from dkmp_plugin.datasets.label_file import (
    LabelledConformations,
    merge_runs,
    write_label_file,
)
from dkmp_plugin.files import only_here, replaced_on_success
from dkmp_plugin.labeling import gfn2
from dkmp_plugin.labeling.executors import TaskMap, in_this_process
from dkmp_plugin.labeling.molecule import Molecule
from dkmp_plugin.labeling.sampling import sample_gfn2, sample_langevin, strain
from dkmp_plugin.seeds import check_seed

# More than this share of conformations without converged labels says that the sampling is wrong.
MAX_FAILED = 0.05
# Labels that are saved together: what an interruption can cost, and one task of a cluster.
CHUNK_SIZE = 25


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
        steps_between_frames: of the dynamics, 0.5 fs each.
        equilibration_steps: before the first frame.
    """

    index: int
    split: str
    temperature: float
    strained: bool
    num_frames: int
    seed: int
    steps_between_frames: int = 500
    equilibration_steps: int = 2000

    @property
    def condition(self) -> str:
        """What the run samples, in words: ``300 K`` or ``300 K strained``."""
        return f"{self.temperature:g} K" + (" strained" if self.strained else "")


def check_temperatures(temperatures: Sequence[float]) -> None:
    """Refuse temperatures in kelvin that nothing can be sampled at.

    Raises:
        ValueError: none, or one that is not positive and finite.
    """
    if not temperatures or not all(0 < kelvin < float("inf") for kelvin in temperatures):
        raise ValueError(f"temperatures: {temperatures} was given, positive numbers are expected")


def plan_runs(
    frames_per_run: Mapping[str, Sequence[int]],
    temperatures: Sequence[float],
    seed: int,
    steps_between_frames: int = 500,
    equilibration_steps: int = 2000,
) -> List[SamplingRun]:
    """Independent runs for each split: every temperature, plus strained frames of the lowest temperature.

    Args:
        frames_per_run: split -> frames of each replica, e.g. ``{"train": (100, 100), "val": (50,)}``.
        temperatures: in kelvin.
        seed: of the first run; each further run takes the next number.
        steps_between_frames: of every run.
        equilibration_steps: of every run.

    Raises:
        ValueError: a split without runs, a run without frames, an impossible temperature or seed.
    """
    # Not after hours of sampling.
    for split, replicas in frames_per_run.items():
        if not replicas or min(replicas) < 1:
            raise ValueError(
                f"{split}: runs of {list(replicas)} frames were given, at least one run of at least one "
                "frame is expected for each split"
            )
    check_temperatures(temperatures)
    conditions = [(temperature, False) for temperature in temperatures] + [(min(temperatures), True)]
    runs: List[SamplingRun] = []
    for split, replicas in frames_per_run.items():
        for num_frames in replicas:
            for temperature, strained in conditions:
                index = len(runs)
                runs.append(
                    SamplingRun(
                        index=index,
                        split=split,
                        temperature=temperature,
                        strained=strained,
                        num_frames=num_frames,
                        seed=seed + index,
                        steps_between_frames=steps_between_frames,
                        equilibration_steps=equilibration_steps,
                    )
                )
    for run in runs:
        check_seed(run.seed)
    return runs


def sample_run(molecule: Molecule, run: SamplingRun) -> np.ndarray:
    """Conformations (num_frames, N, 3) in Å of one run; run i starts from conformer i, cyclically."""
    start = molecule.conformers[run.index % len(molecule.conformers)]
    dynamics: Dict[str, Any] = {
        "temperature": run.temperature,
        "num_frames": run.num_frames,
        "seed": run.seed,
        "steps_between_frames": run.steps_between_frames,
        "equilibration_steps": run.equilibration_steps,
    }
    if molecule.force_field is None:
        dynamics.update(charge=molecule.charge, bonds=molecule.bonds)
        frames = sample_gfn2(molecule.atomic_numbers.tolist(), start, **dynamics)
    else:
        frames = sample_langevin(openmm.XmlSerializer.deserialize(molecule.force_field), start, **dynamics)
    return strain(frames, np.random.default_rng(run.seed)) if run.strained else frames


def label_frames(
    atomic_numbers: np.ndarray, frames: np.ndarray, charge: int
) -> Tuple[np.ndarray, np.ndarray]:
    """GFN2-xTB labels as ``gfn2.label_conformations``; NaN where a conformation does not converge."""
    return gfn2.label_conformations(atomic_numbers.tolist(), frames, charge=charge, keep_going=True)


def run_campaign(
    molecule: Molecule,
    runs: Sequence[SamplingRun],
    output: Union[str, Path],
    *,
    task_map: TaskMap = in_this_process,
    progress: bool = True,
) -> LabelledConformations:
    """Samples and labels all runs and writes one file; one that was interrupted goes on where it stopped.

    Args:
        molecule: what to sample and label.
        runs: how (see :func:`plan_runs`).
        output: the label file.
        task_map: where the work is done (see ``dkmp_plugin.labeling.executors``).
        progress: whether to show progress bars.

    Returns:
        What was written to ``output``.

    Raises:
        ValueError: the dynamics failed, or too many conformations have no converged labels.
        OSError: files cannot be written, or those of another plan cannot be removed.
        RuntimeError: another process labels for the same file.
    """
    output = Path(output)
    folder = _runs_folder(output)
    # Frames of another process would replace those that are labelled here.
    with only_here(folder):
        folders = {run.index: _run_folder(folder, molecule, run) for run in runs}
        total = sum(run.num_frames for run in runs)
        with tqdm(total=total, desc="sampling", unit="frame", disable=not progress) as bar:
            _sample(molecule, runs, folders, task_map, bar)
        with tqdm(total=total, desc="labelling", unit="frame", disable=not progress) as bar:
            _label(molecule, runs, folders, task_map, bar)
        labels = merge_runs([_finished_run(molecule, run, folders[run.index]) for run in runs])
        labels.sampling["description"] = molecule.source
        write_label_file(output, labels)
    remove_runs(output)
    return labels


def _runs_folder(output: Path) -> Path:
    return output.with_name(output.name + ".runs")


def remove_runs(output: Path) -> None:
    """Remove the runs of a finished campaign, which one that was killed at its very end left behind.

    Args:
        output: the label file.
    """
    if _runs_folder(output).is_dir():
        shutil.rmtree(_runs_folder(output))


def _run_folder(folder: Path, molecule: Molecule, run: SamplingRun) -> Path:
    """The folder of one run, emptied where it was planned otherwise."""
    path = folder / f"run_{run.index:03d}"
    plan = json.dumps(
        {
            **asdict(run),
            "molecule": molecule.fingerprint,
            "labels": gfn2.level_of_theory(),
            "chunk_size": CHUNK_SIZE,
        },
        indent=1,
    )
    record = path / "plan.json"
    if not record.is_file() or record.read_text() != plan:
        if path.exists():
            # Frames that stay would be taken for those of the new plan: this must not fail unseen.
            shutil.rmtree(path)
        with replaced_on_success(record) as temporary:
            temporary.write_text(plan)
    return path


def _sample(
    molecule: Molecule, runs: Sequence[SamplingRun], folders: Dict[int, Path], task_map: TaskMap, bar: Any
) -> None:
    missing = []
    for run in runs:
        if (folders[run.index] / "frames.npy").is_file():
            bar.update(run.num_frames)
        else:
            missing.append(run)
    for task, frames in task_map(sample_run, [(molecule, run) for run in missing]):
        run = missing[task]
        with replaced_on_success(folders[run.index] / "frames.npy") as temporary:
            np.save(temporary, frames)
        bar.set_postfix_str(f"{run.split}, {run.condition}")
        bar.update(run.num_frames)


def _chunk_path(folder: Path, first: int) -> Path:
    return folder / f"labels_{first:06d}.npz"


def _label(
    molecule: Molecule,
    runs: Sequence[SamplingRun],
    folders: Dict[int, Path],
    task_map: TaskMap,
    bar: Any,
) -> None:
    arguments, paths = [], []
    for run in runs:
        frames = np.load(folders[run.index] / "frames.npy")
        for first in range(0, len(frames), CHUNK_SIZE):
            chunk = frames[first : first + CHUNK_SIZE]
            path = _chunk_path(folders[run.index], first)
            if path.is_file():
                bar.update(len(chunk))
                continue
            arguments.append((molecule.atomic_numbers, chunk, molecule.charge))
            paths.append(path)
    for task, (energies, forces) in task_map(label_frames, arguments):
        with replaced_on_success(paths[task]) as temporary:
            np.savez(temporary, energies=energies, forces=forces)
        bar.update(len(energies))


def _finished_run(molecule: Molecule, run: SamplingRun, folder: Path) -> LabelledConformations:
    frames = np.load(folder / "frames.npy")
    energies = np.empty(len(frames))
    forces = np.empty(frames.shape)
    for first in range(0, len(frames), CHUNK_SIZE):
        with np.load(_chunk_path(folder, first)) as chunk:
            energies[first : first + CHUNK_SIZE] = chunk["energies"]
            forces[first : first + CHUNK_SIZE] = chunk["forces"]
    converged = np.isfinite(energies)
    failed = int((~converged).sum())
    if failed > MAX_FAILED * len(energies):
        raise ValueError(
            f"GFN2-xTB did not converge for {failed} of {len(energies)} conformations of the run at "
            f"{run.condition}; sample at lower temperatures"
        )
    return LabelledConformations(
        atomic_numbers=molecule.atomic_numbers,
        positions=frames[converged],
        energies=energies[converged],
        forces=forces[converged],
        run=np.full(converged.sum(), run.index, dtype=np.int64),
        energy_unit=gfn2.ENERGY_UNIT,
        level_of_theory=gfn2.level_of_theory(),
        total_charge=molecule.charge,
        sampling={"runs": [{**asdict(run), "condition": run.condition, "not_converged": failed}]},
    )
