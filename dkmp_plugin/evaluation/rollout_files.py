"""``dkmp rollout``: a trained DKMP^R on a trajectory file, errors printed, rollout written."""

from pathlib import Path
from typing import Any, Dict, List, Optional, Union

from dkmp_plugin.datasets.run import Run
from dkmp_plugin.datasets.run_borders import same_spacing
from dkmp_plugin.datasets.trajectory_files import load_topology, select_atoms
from dkmp_plugin.datasets.trajectory_runs import load_runs, split_run
from dkmp_plugin.evaluation.rollout import (
    FramePredictor,
    RolloutReport,
    check_trajectory_suffix,
    evaluate_run,
    load_displacement_model,
    write_trajectory,
)
from dkmp_plugin.files import check_keeps_inputs
from dkmp_plugin.training.checkpoint import check_propagates, trained_rerank_interval


def roll_out_trajectory(
    checkpoint: Union[str, Path],
    topology: Union[str, Path],
    trajectory: Union[str, Path],
    output: Optional[Union[str, Path]] = None,
    rerank_interval: Optional[int] = None,
    device: str = "cpu",
) -> List[RolloutReport]:
    """Compares a model with every uninterrupted run of a trajectory file.

    Atoms and lag are those of the training; they come from the checkpoint.

    Args:
        checkpoint: ``dkmp-r`` checkpoint (``.ckpt``) of torchmd-train.
        topology: topology file of the whole system.
        trajectory: trajectory file; ``FILE#2`` takes only the third run in it.
        output: trajectory file to write the rollout to: .pdb, or .dcd or .xtc with a PDB file of its first
            frame beside it; with several runs each name gets the number of its run.
        rerank_interval: rank neighbours anew after this many predictions; 0 for never, None as in training
            (never for checkpoints that do not say).
        device: where the model runs; see :func:`dkmp_plugin.device.resolve_device`.

    Returns:
        One report per run.

    Raises:
        ValueError: files that are unreadable, do not fit each other or the model, a model that was trained on
            superposed frames without a canonical frame, or with periodic boxes, an output that would
            overwrite one of the inputs, or a device that is not there.
    """
    model, dataset = load_displacement_model(checkpoint, device)
    check_propagates(checkpoint, model.representation_model, dataset)
    if "lag" not in dataset:
        raise ValueError(
            f"{checkpoint} does not say over how many frames it predicts (lag): it was not trained on one of "
            "dkmp_plugin's datasets of trajectories, such as DKMPTrajectory; train it on one"
        )
    if rerank_interval is None:
        rerank_interval = trained_rerank_interval(dataset)
    selection, stride = dataset.get("selection", "full"), dataset.get("stride", 1)
    chemistry = load_topology(topology)
    # Two predictions of a rollout need this many frames.
    runs = load_runs(trajectory, chemistry, selection, stride, min_frames=2 * dataset["lag"] + 1)
    _check_spacing(checkpoint, dataset, runs)
    outputs = _output_files(output, runs)
    inputs = (checkpoint, topology, split_run(trajectory)[0])
    check_keeps_inputs((path for files in outputs for path in files), inputs)
    if output is not None:
        check_trajectory_suffix(output)
    reports = []
    for index, run in enumerate(runs):
        predictor = FramePredictor(model, run.numbers, rerank_interval)
        report, rollout = evaluate_run(predictor, run.positions, dataset["lag"], run.name)
        reports.append(report)
        if outputs:
            selected = chemistry.subset(select_atoms(chemistry, selection))
            for path, frames in zip(outputs[index], (rollout, rollout[:1]), strict=False):
                write_trajectory(path, frames, selected)
    return reports


def _check_spacing(checkpoint: Union[str, Path], dataset: Dict[str, Any], runs: List[Run]) -> None:
    """A lag is a time: frames as far apart as in the training, where both are known."""
    trained = dataset.get("picoseconds_per_frame")
    for run in runs:
        if not same_spacing(trained, run.spacing):
            raise ValueError(
                f"{run.name} has {run.spacing:g} ps between frames (stride {dataset.get('stride', 1)}), "
                f"{checkpoint} was trained with {trained:g}; give a trajectory of that spacing"
            )


def _output_files(output: Optional[Union[str, Path]], runs: List[Run]) -> List[List[Path]]:
    """Of each run, the trajectory and, where that holds no topology itself, the PDB file beside it."""
    if output is None:
        return []
    path = Path(output)
    if not path.suffix:  # no trajectory, as check_trajectory_suffix will say; a folder may have no name
        return [[path]]
    paths = [path]
    if len(runs) > 1:
        # Runs that were too short have left gaps in the numbers.
        numbers = [run.name.rpartition("#")[2] for run in runs]
        paths = [path.with_name(f"{path.stem}_{number}{path.suffix}") for number in numbers]
    if path.suffix.lower() == ".pdb":
        return [[path] for path in paths]
    return [[path, path.with_suffix(".pdb")] for path in paths]
