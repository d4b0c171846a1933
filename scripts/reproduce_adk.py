"""DKMP^R on held-out runs of one system: errors, rollout, rotation test, files and a picture.

    torchmd-train --conf examples/dkmp_r_adk.yaml
    python scripts/reproduce_adk.py --checkpoint runs/dkmp_r_adk --run ../shared/data/adk/dims_002.dcd

The runs are DIMS transition paths of adenylate kinase (biased), not the equilibrium trajectory of the paper;
--topology names another system. Given a log_dir, the last checkpoint is taken, not the best one: the held-out
run has no part in the choice. Every run is evaluated as it is and with every frame superposed on the first,
because how the molecule tumbles as a whole cannot be predicted. The numbers also go to a JSON file.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, Tuple

import numpy as np
import torch
from shared_data import data_folder

from dkmp_plugin.datasets import REGISTRY
from dkmp_plugin.datasets.adk import dims_test_files
from dkmp_plugin.datasets.frame_pairs import random_rotation
from dkmp_plugin.datasets.run import Run
from dkmp_plugin.datasets.trajectory_files import atomic_numbers, load_topology, select_atoms
from dkmp_plugin.datasets.trajectory_runs import load_runs, split_run
from dkmp_plugin.evaluation.egnn_baseline import EGNNPredictor, train_egnn
from dkmp_plugin.evaluation.rollout import (
    FramePredictor,
    evaluate_run,
    load_displacement_model,
    write_trajectory,
)
from dkmp_plugin.evaluation.trajectory_metrics import js_tic, next_mse
from dkmp_plugin.files import replaced_on_success
from dkmp_plugin.superposition import superpose
from dkmp_plugin.training.checkpoint import load_checkpoint, trained_rerank_interval
from dkmp_plugin.training.log_dir import checkpoints_by_epoch


def rotation_test(predictor: FramePredictor, positions: np.ndarray, lag: int) -> float:
    """Next-MSE in Å² when every frame is shown in a random orientation (paper, Table 6)."""
    torch.manual_seed(0)
    predicted, target = [], []
    predictor.restart()
    for number, frame in enumerate(positions[:-lag]):
        turn = random_rotation().numpy()
        center = frame.mean(axis=0)
        previous, before, after = (
            (positions[index] - center) @ turn.T + center
            for index in (max(number - lag, 0), number, number + lag)
        )
        predicted.append(predictor(before, previous if number >= lag else None))
        target.append(after)
    return next_mse(np.stack(predicted), np.stack(target))


def draw(path: Path, true: np.ndarray, rollout: np.ndarray, alpha_carbons: np.ndarray, lag: int) -> None:
    """One column per frame of the rollout: true (above) and predicted trace, coloured by error."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    frames = np.unique(np.linspace(0, len(true) - 1, 5).round().astype(int))
    figure, axes = plt.subplots(2, len(frames), figsize=(3 * len(frames), 6), layout="constrained")
    center = true[0].mean(axis=0)
    error = np.linalg.norm(rollout - true, axis=2)[:, alpha_carbons]
    points = None
    reach = 1.05 * float(np.abs((true - center)[:, alpha_carbons, :2]).max())
    for column, frame in enumerate(frames):
        for row, source in enumerate((true, rollout)):
            axis = axes[row][column]
            x, y = (source[frame] - center)[alpha_carbons][:, :2].T
            axis.plot(x, y, color="0.7", linewidth=1)
            colors = error[frame] if row else np.zeros(len(alpha_carbons))
            points = axis.scatter(
                x, y, c=colors, s=8, vmin=0, vmax=max(1.0, float(error.max())), cmap="viridis"
            )
            axis.set(aspect="equal", xticks=[], yticks=[], xlim=(-reach, reach), ylim=(-reach, reach))
        axes[0][column].set_title(f"frame {frame * lag}")
    axes[0][0].set_ylabel("true")
    axes[1][0].set_ylabel("DKMP$^R$ rollout")
    figure.colorbar(points, ax=axes, shrink=0.6, label="error of C$_\\alpha$ (Å)")
    with replaced_on_success(path) as temporary:
        figure.savefig(temporary, dpi=100)
    plt.close(figure)


def parse() -> argparse.Namespace:
    data = data_folder()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--checkpoint", required=True, help="checkpoint, or log_dir of torchmd-train (its last checkpoint)"
    )
    parser.add_argument(
        "--run",
        action="append",
        help="held-out trajectory file, all its runs (default: DIMS run 3); FILE#2: its third",
    )
    parser.add_argument(
        "--topology", type=Path, help="topology of the run (default: adenylate kinase, from MDAnalysisTests)"
    )
    parser.add_argument("--output", default="runs/adk", help="folder for rollouts and pictures")
    parser.add_argument(
        "--egnn-cpu-seconds",
        type=float,
        default=0.0,
        help="train the EGNN baseline on the same pairs for this much processor time (0: leave it out)",
    )
    arguments = parser.parse_args()
    arguments.run = arguments.run or [str(data / "adk" / "dims_002.dcd")]
    return arguments


def last_checkpoint(folder: Path) -> Path:
    """The checkpoint of the latest epoch in a log_dir of torchmd-train.

    Raises:
        SystemExit: there is none.
    """
    found = checkpoints_by_epoch(folder)
    if not found:
        raise SystemExit(f"{folder} holds no checkpoint (*.ckpt); train first, see --help")
    return found[0][1]


def name_of_files(run: Run) -> str:
    """The file's name without suffix, and the number of the run where it holds several."""
    name, number = split_run(run.name)
    return Path(name).stem if number is None else f"{Path(name).stem}_{number}"


def egnn_baseline(checkpoint: Path, numbers: np.ndarray, cpu_seconds: float) -> Dict[str, EGNNPredictor]:
    """EGNN trained on the pairs that the checkpoint was trained on; empty for no processor time."""
    if cpu_seconds <= 0:
        return {}
    _, settings, _ = load_checkpoint(checkpoint)
    data = REGISTRY[settings["dataset"]](settings["dataset_root"], **settings["dataset_arg"])
    model, counts = train_egnn(data, cpu_seconds)
    print(f"EGNN: {counts['steps']} steps, {counts['epochs']:.1f} epochs in {cpu_seconds:.0f} CPU seconds\n")
    return {"EGNN (egnn-pytorch)": EGNNPredictor(model, numbers)}


def measure(
    predictor: FramePredictor, run: Run, lag: int, beside: Dict[str, EGNNPredictor]
) -> Tuple[Dict[str, Any], np.ndarray]:
    """All numbers of a run, printed as they come, and the rollout."""
    report, rollout = evaluate_run(predictor, run.positions, lag, run.name, beside)
    print(report.table())
    still = superpose(run.positions, run.positions[0])
    superposed, _ = evaluate_run(predictor, still, lag, f"{run.name}, superposed", beside)
    print(superposed.table())
    turned = rotation_test(predictor, run.positions, lag)
    print(f"every frame in a random orientation: next {turned:.4f}")
    numbers = {"as it is": asdict(report), "superposed": asdict(superposed), "random orientation": turned}
    try:
        slow, second = js_tic(rollout, run.positions)
        numbers["Jensen-Shannon divergence, TICs 1 and 2"] = [slow, second]
        print(f"Jensen-Shannon divergence on the two slowest TICs (lag 1, 20 bins): {slow:.3f} {second:.3f}")
    except ValueError as error:
        print(f"Jensen-Shannon divergence on TICs: {error}")
    return numbers, rollout


def main() -> None:
    arguments = parse()
    path = Path(arguments.checkpoint)
    path = last_checkpoint(path) if path.is_dir() else path
    model, dataset = load_displacement_model(path)
    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    topology = load_topology(arguments.topology or dims_test_files()[0])
    atoms = select_atoms(topology, dataset["selection"])
    selected = topology.subset(atoms)
    lag = dataset["lag"]
    system = arguments.topology or "adenylate kinase, DIMS transition paths (biased), CHARMM22"
    print(f"{path}\n{system}; all errors in Å² per coordinate\n")
    beside = egnn_baseline(path, atomic_numbers(topology, atoms), arguments.egnn_cpu_seconds)
    runs = [
        run
        for name in arguments.run
        for run in load_runs(
            name, topology, dataset["selection"], dataset.get("stride", 1), min_frames=2 * lag + 1
        )
    ]
    for run in runs:
        predictor = FramePredictor(model, run.numbers, trained_rerank_interval(dataset))
        numbers, rollout = measure(predictor, run, lag, beside)
        stem = output / f"{name_of_files(run)}_rollout"
        with replaced_on_success(stem.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps({"checkpoint": path.name, **numbers}, indent=1) + "\n")
        write_trajectory(stem.with_suffix(".dcd"), rollout, selected)
        write_trajectory(stem.with_suffix(".pdb"), rollout[:1], selected)
        true = run.positions[: (len(rollout) - 1) * lag + 1 : lag]
        draw(stem.with_suffix(".png"), true, rollout, selected.select("name CA"), lag)
        print(f"written: {stem}.json, .dcd, .pdb, .png\n")


if __name__ == "__main__":
    main()
