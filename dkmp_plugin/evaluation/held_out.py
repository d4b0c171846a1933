"""Errors of a trained model on the held-out runs of a label file, beside the trivial baseline."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, Union

import numpy as np
from torchmdnet.models.model import load_model

from dkmp_plugin.datasets import DKMPHDF5
from dkmp_plugin.datasets.label_file import read_label_file, split_indices
from dkmp_plugin.device import resolve_device
from dkmp_plugin.evaluation.metrics import energy_force_errors, trivial_baseline
from dkmp_plugin.evaluation.prediction import predict
from dkmp_plugin.evaluation.report import Table


def evaluate_held_out(
    checkpoint: Union[str, Path], labels: Union[str, Path], device: str = "cpu"
) -> Dict[str, Any]:
    """Errors on the test runs, together and run by run.

    Args:
        checkpoint: A checkpoint written by ``torchmd-train``.
        labels: The label file it was trained on.
        device: Where the model runs; see :func:`dkmp_plugin.device.resolve_device`.

    Returns:
        Plain values: ``checkpoint``, ``level_of_theory``, ``energy_unit``, ``labels`` (split -> number),
        ``parameters``, and ``errors``: group -> ``model`` and ``baseline`` (mean training energy, zero
        forces), each as ``evaluation.metrics`` defines them.

    Raises:
        ValueError: If the label file is unreadable or has an empty split, or the device is not there.
    """
    place = str(resolve_device(device))
    labelled = read_label_file(labels)
    splits = split_indices(labelled)
    test = splits["test"]
    model = load_model(str(checkpoint), derivative=True, device=place).eval()
    predicted_energies, predicted_forces = predict(model, DKMPHDF5(str(labels)), test.tolist())
    energies, forces = labelled.energies - labelled.reference_energy, labelled.forces

    groups = {"all held-out runs": np.ones(len(test), dtype=bool)}
    for entry in labelled.sampling["runs"]:
        if entry["split"] == "test":
            groups[f"held-out run at {entry['condition']}"] = labelled.run[test] == entry["index"]
    results = {}
    for name, members in groups.items():
        chosen = test[members]
        errors = energy_force_errors(
            predicted_energies[members], predicted_forces[members], energies[chosen], forces[chosen]
        )
        baseline = trivial_baseline(energies[splits["train"]], energies[chosen], forces[chosen])
        results[name] = {"model": asdict(errors), "baseline": asdict(baseline)}
    return {
        "checkpoint": str(checkpoint),
        "level_of_theory": labelled.level_of_theory,
        "energy_unit": labelled.energy_unit,
        "labels": {name: len(members) for name, members in splits.items()},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "errors": results,
    }


def error_table(evaluation: Dict[str, Any]) -> Table:
    """What :func:`evaluate_held_out` returned, as a table of the report."""
    unit = evaluation["energy_unit"]
    rows = [
        [
            name,
            str(errors["model"]["conformations"]),
            *(
                f"{errors[whose][quantity]:.3f}"
                for quantity in ("energy_mae", "force_mae")
                for whose in ("model", "baseline")
            ),
        ]
        for name, errors in evaluation["errors"].items()
    ]
    labels = evaluation["labels"]
    return Table(
        "Errors on held-out runs",
        ("runs", "conformations", f"energy MAE ({unit})", "trivial", f"force MAE ({unit}/Å)", "trivial"),
        rows,
        f"Labels: {evaluation['level_of_theory']}; {labels['train']} for training, {labels['val']} for "
        f"validation, {labels['test']} held out, split by independent run. Trivial: mean training energy, "
        f"zero forces. The model has {evaluation['parameters']:,} parameters.",
    )


def error_text(evaluation: Dict[str, Any]) -> str:
    """What :func:`evaluate_held_out` returned, as lines for a terminal."""
    unit = evaluation["energy_unit"]
    lines = [
        f"{evaluation['checkpoint']}: labels {evaluation['level_of_theory']}, {unit} and {unit}/Å",
        f"{'mean absolute errors':32s}{'energy':>10s}{'(trivial)':>12s}{'force':>10s}{'(trivial)':>12s}",
    ]
    for name, errors in evaluation["errors"].items():
        model, baseline = errors["model"], errors["baseline"]
        lines.append(
            f"{name:32s}{model['energy_mae']:10.3f}{baseline['energy_mae']:12.3f}"
            f"{model['force_mae']:10.3f}{baseline['force_mae']:12.3f}"
        )
    return "\n".join(lines)
