"""Energy and force errors on the held-out runs, beside the trivial baseline (mean energy, zero forces)."""

import argparse
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
from torchmdnet.models.model import load_model

from dkmp_plugin.datasets import DKMPHDF5
from dkmp_plugin.datasets.label_file import read_label_file, split_indices
from dkmp_plugin.evaluation.metrics import energy_force_errors, trivial_baseline
from dkmp_plugin.evaluation.prediction import best_checkpoint, predict
from dkmp_plugin.files import replaced_on_success


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=Path("runs/demo/training"),
        help="a checkpoint, or a log_dir of torchmd-train: its best checkpoint",
    )
    parser.add_argument("--labels", type=Path, default=Path("runs/demo/p_xylene.h5"), help="label file")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/demo/evaluation.json"), help="numbers to write"
    )
    parser.add_argument("--keep-best", type=Path, help="copy the checkpoint that was evaluated to this path")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    checkpoint = arguments.checkpoint
    if checkpoint.is_dir():
        checkpoint = best_checkpoint(checkpoint)
    labels = read_label_file(arguments.labels)
    splits = split_indices(labels)
    test = splits["test"]
    model = load_model(str(checkpoint), derivative=True).eval()
    predicted_energies, predicted_forces = predict(model, DKMPHDF5(str(arguments.labels)), test)
    energies, forces, run = labels.energies - labels.reference_energy, labels.forces, labels.run

    groups = {"all held-out runs": np.ones(len(test), dtype=bool)}
    for entry in labels.sampling["runs"]:
        if entry["split"] == "test":
            groups[f"held-out run at {entry['condition']}"] = run[test] == entry["index"]
    results = {}
    unit = labels.energy_unit
    print(f"{checkpoint}: labels {labels.level_of_theory}, {unit} and {unit}/Å")
    print(f"{'mean absolute errors':32s}{'energy':>10s}{'(trivial)':>12s}{'force':>10s}{'(trivial)':>12s}")
    for name, members in groups.items():
        chosen = test[members]
        errors = energy_force_errors(
            predicted_energies[members], predicted_forces[members], energies[chosen], forces[chosen]
        )
        baseline = trivial_baseline(energies[splits["train"]], energies[chosen], forces[chosen])
        results[name] = {"model": asdict(errors), "baseline": asdict(baseline)}
        print(
            f"{name:32s}{errors.energy_mae:10.3f}{baseline.energy_mae:12.3f}"
            f"{errors.force_mae:10.3f}{baseline.force_mae:12.3f}"
        )
    report = {
        "checkpoint": str(checkpoint),
        "level_of_theory": labels.level_of_theory,
        "energy_unit": unit,
        "labels": {name: len(members) for name, members in splits.items()},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "errors": results,
    }
    if arguments.keep_best:
        with replaced_on_success(arguments.keep_best) as temporary:
            shutil.copyfile(checkpoint, temporary)
    with replaced_on_success(arguments.output) as temporary:
        temporary.write_text(json.dumps(report, indent=1))
    print(f"written: {arguments.output}")


if __name__ == "__main__":
    main()
