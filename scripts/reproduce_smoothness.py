"""Bond Smoothness Characterization Test (after arXiv:2602.04861) and neighbour scan of four potentials.

dkmp-c with smooth and with hard shells, torchmd-net's equivariant-transformer and TensorNet are trained
alike on the demo's p-xylene labels (GFN2-xTB; scripts/demo.sh writes them). Then bonds are stretched from
compressed to broken, and a second p-xylene is pulled away past every shell border and cutoff. GFN2-xTB
itself shows how many minima there should be. Everything in float64. A finished training is not repeated.
"""

import argparse
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import torch
from ase import Atoms
from ase.neighborlist import build_neighbor_list, natural_cutoffs
from matplotlib.figure import Figure
from peer_settings import EQUIVARIANT_TRANSFORMER, common_settings, stock_settings
from scipy.sparse.csgraph import connected_components
from torchmdnet.models.model import load_model

from dkmp_plugin.datasets.label_file import read_label_file
from dkmp_plugin.evaluation.smoothness import LineScan, Scan, count_minima, smoothness
from dkmp_plugin.files import replaced_on_success
from dkmp_plugin.labeling.gfn2 import label_conformations
from dkmp_plugin.training.log_dir import best_checkpoint
from dkmp_plugin.training.torchmd_train import run_training, write_configuration

ROOT = Path(__file__).resolve().parent.parent
LOCAL = {"cutoff_upper": 5.0, "max_num_neighbors": 64}
MODELS: Dict[str, Dict[str, Any]] = {
    "dkmp-c, smooth shells": {"shell_overlap": 1.0},
    "dkmp-c, hard shells": {"shell_overlap": 0.0},
    "equivariant-transformer": {**LOCAL, **EQUIVARIANT_TRANSFORMER},
    "tensornet": {**LOCAL, "model": "tensornet", "num_layers": 2},
}
PROMINENCE = 0.5  # kcal/mol: shallower dips are not counted as minima
STEP = 0.04  # Å between the points of a scan


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"), help="folder of scripts/demo.sh")
    parser.add_argument("--output", type=Path, default=Path("runs/smoothness"), help="folder of trainings")
    parser.add_argument("--epochs", type=int, default=3, help="of each training")
    parser.add_argument("--labels", type=int, default=3000, help="for training, evenly spread over all")
    parser.add_argument("--train-only", nargs="*", choices=list(MODELS), help="train these and stop")
    parser.add_argument("--results", type=Path, default=ROOT / "scripts/results/smoothness")
    return parser.parse_args()


def write_splits(arguments: argparse.Namespace) -> Path:
    """The demo's splits with fewer labels; of those that are not for training a few are enough here."""
    with np.load(arguments.demo / "splits.npz") as demo:
        splits = {name: demo[name] for name in demo.files}
    for name, count in {"idx_train": arguments.labels, "idx_val": 50, "idx_test": 50}.items():
        splits[name] = splits[name][np.linspace(0, len(splits[name]) - 1, count).astype(int)]
    path = arguments.output / "splits.npz"
    with replaced_on_success(path) as temporary:
        np.savez(temporary, **splits)
    return path


def train(name: str, arguments: argparse.Namespace) -> Path:
    """Stock torchmd-train with the demo's settings; returns the best checkpoint."""
    folder = arguments.output / name.replace(", ", "-").replace(" ", "-")
    if not (folder / "finished").is_file():
        settings = common_settings()
        if "model" in MODELS[name]:
            settings = stock_settings(settings)
        settings.update(
            dataset_root=str(arguments.demo / "p_xylene.h5"),
            splits=str(write_splits(arguments)),
            batch_size=4,
            lr_warmup_steps=20,
            num_epochs=arguments.epochs,
            log_dir=str(folder),
            **MODELS[name],
        )
        # What an interrupted one has left may be of other settings.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        configuration = write_configuration(folder.with_suffix(".yaml"), settings)
        run_training(configuration, log=folder.with_suffix(".log"))
        (folder / "finished").touch()
    return best_checkpoint(folder)


def energy_function(checkpoint: Path, numbers: np.ndarray) -> Callable[[torch.Tensor], torch.Tensor]:
    model = load_model(str(checkpoint), derivative=False).double().eval()
    z = torch.from_numpy(numbers).long()
    return lambda positions: model(z, positions, torch.zeros_like(z))[0].sum()


def bonds_to_scan(atoms: Atoms) -> Dict[str, Tuple[int, int]]:
    """One bond of each kind: (atom that stays, atom that moves with its side of the molecule)."""
    neighbours = build_neighbor_list(atoms, natural_cutoffs(atoms), self_interaction=False)
    bonded = neighbours.get_connectivity_matrix(sparse=False)
    bonded = bonded + bonded.T
    carbons = [i for i in range(len(atoms)) if atoms.numbers[i] == 6]
    methyl = next(i for i in carbons if bonded[i].sum() == 4)
    root = next(j for j in carbons if bonded[methyl, j])
    ring = next(
        i
        for i in carbons
        if bonded[i].sum() == 3 and any(atoms.numbers[j] == 1 for j in np.flatnonzero(bonded[i]))
    )

    def hydrogen_of(carbon: int) -> int:
        return next(j for j in np.flatnonzero(bonded[carbon]) if atoms.numbers[j] == 1)

    return {
        "ring C-H": (ring, hydrogen_of(ring)),
        "methyl C-H": (methyl, hydrogen_of(methyl)),
        "ring C - methyl C": (root, methyl),
    }


def moving_side(atoms: Atoms, fixed: int, moving: int) -> np.ndarray:
    neighbours = build_neighbor_list(atoms, natural_cutoffs(atoms), self_interaction=False)
    bonded = neighbours.get_connectivity_matrix(sparse=False)
    bonded[fixed, moving] = bonded[moving, fixed] = 0
    _, component = connected_components(bonded, directed=False)
    return np.flatnonzero(component == component[moving])


def scans_of(numbers: np.ndarray, positions: np.ndarray) -> Dict[str, Dict[str, Any]]:
    """Every scan: numbers, positions at s = 0, moving atoms, direction, grid, and what s + offset means."""
    atoms = Atoms(numbers, positions)
    scans: Dict[str, Dict[str, Any]] = {}
    for name, (fixed, moving) in bonds_to_scan(atoms).items():
        bond = positions[moving] - positions[fixed]
        length = float(np.linalg.norm(bond))
        scans[name] = {
            "numbers": numbers,
            "positions": positions,
            "moving": moving_side(atoms, fixed, moving),
            "direction": bond,
            "grid": np.arange(0.6 * length, 2.5 * length, STEP) - length,
            "offset": length,
            "label": "bond length, Å",
        }
    ring = positions[numbers == 6] - positions[numbers == 6].mean(0)
    normal = np.linalg.svd(ring)[2][2]
    scans["second molecule"] = {
        "numbers": np.concatenate([numbers, numbers]),
        "positions": np.concatenate([positions, positions]),
        "moving": np.arange(len(numbers), 2 * len(numbers)),
        "direction": normal,
        "grid": np.arange(3.0, 10.0, STEP),
        "offset": 0.0,
        "label": "distance of the ring planes, Å",
    }
    return scans


def reference_scan(scan: Dict[str, Any]) -> np.ndarray:
    """GFN2-xTB energies in kcal/mol; NaN where it does not converge."""
    line = LineScan(lambda p: p.sum(), scan["positions"], scan["moving"], scan["direction"])
    energies = []
    for coordinate in scan["grid"]:
        try:
            energies.append(label_conformations(scan["numbers"], line.positions_at(coordinate)[None])[0][0])
        except ValueError:
            energies.append(np.nan)
    return np.array(energies)


def draw(
    path: Path, scan: Dict[str, Any], curves: Dict[str, Scan], reference: np.ndarray, title: str
) -> None:
    figure = Figure(figsize=(8, 8), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    x = scan["grid"] + scan["offset"]
    start = int(np.argmin(np.abs(scan["grid"]))) if scan["offset"] else len(x) - 1
    axes[0].plot(x, reference - reference[start], "k--", label="GFN2-xTB", linewidth=1)
    for name, curve in curves.items():
        axes[0].plot(x, curve.energy - curve.energy[start], label=name, linewidth=1)
        axes[1].plot(x, curve.force, linewidth=1)
        axes[2].plot(x, curve.force_slope, linewidth=1)
    for axis, label, limit in zip(
        axes,
        ("energy, kcal/mol", "force, kcal/mol/Å", "its slope, kcal/mol/Å²"),
        (300.0, 600.0, 3000.0),
        strict=True,
    ):
        axis.set_ylabel(label)
        low, high = axis.get_ylim()
        axis.set_ylim(max(low, -limit), min(high, limit))
    axes[0].legend(fontsize="small")
    axes[0].set_title(f"p-xylene: {title}; models of GFN2-xTB labels", fontsize="medium")
    axes[2].set_xlabel(scan["label"])
    with replaced_on_success(path) as temporary:
        figure.savefig(temporary, dpi=90, format="png")


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    if arguments.train_only is not None:
        for name in arguments.train_only:
            print(train(name, arguments))
        return
    labels = read_label_file(arguments.demo / "p_xylene.h5")
    relaxed = labels.positions[int(np.argmin(labels.energies))]
    checkpoints = {name: train(name, arguments) for name in MODELS}
    rows: List[Dict[str, Any]] = []
    for title, scan in scans_of(labels.atomic_numbers, relaxed).items():
        reference = reference_scan(scan)
        minima = count_minima(reference, PROMINENCE)
        curves: Dict[str, Scan] = {}
        for name, checkpoint in checkpoints.items():
            energy = energy_function(checkpoint, scan["numbers"])
            line = LineScan(energy, scan["positions"], scan["moving"], scan["direction"])
            curves[name] = line.run(scan["grid"])
            judged = asdict(smoothness(line, curves[name], PROMINENCE))
            rows.append({"scan": title, "model": name, "extra_minima": judged["minima"] - minima, **judged})
        draw(arguments.results / f"{title.replace(' ', '-')}.png", scan, curves, reference, f"{title} scan")
    print("labels: GFN2-xTB; jumps in kcal/mol, per Å, per Å^2; minima beyond those of GFN2-xTB")
    print(
        f"{'scan':20s}{'model':26s}{'E jump':>10s}{'F jump':>10s}{'dF/dx jump':>12s}{'E-F misfit':>12s}"
        f"{'extra minima':>14s}"
    )
    for row in rows:
        print(
            f"{row['scan']:20s}{row['model']:26s}{row['energy_jump']:10.1e}{row['force_jump']:10.1e}"
            f"{row['force_slope_jump']:12.1e}{row['inconsistency']:12.1e}{row['extra_minima']:14d}"
        )
    report = {
        "labels": labels.level_of_theory,
        "training_labels": arguments.labels,
        "epochs": arguments.epochs,
        "unit": "kcal/mol, Å",
        "rows": rows,
    }
    with replaced_on_success(arguments.results / "results.json") as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
