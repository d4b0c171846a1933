"""Errors of a trained model on the held-out runs of a label file, beside the trivial baseline."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List, Mapping, Union

import numpy as np
import torch
from torchmdnet.models.model import load_model

from dkmp_plugin.datasets import DKMPHDF5
from dkmp_plugin.datasets.label_file import LabelledConformations, read_label_file, split_indices
from dkmp_plugin.device import resolve_device
from dkmp_plugin.evaluation.html_page import Table
from dkmp_plugin.evaluation.metrics import energy_force_errors, trivial_baseline
from dkmp_plugin.evaluation.prediction import predict
from dkmp_plugin.models.elements import check_elements
from dkmp_plugin.training.checkpoint import read_contents, recorded_dataset, recorded_energy_unit
from dkmp_plugin.units import energy_factor


def evaluate_held_out(
    checkpoint: Union[str, Path], labels: Union[str, Path], device: str = "cpu"
) -> Dict[str, Any]:
    """Errors on the test runs, together and by the runs' conditions, in the unit of the labels.

    Total energies are compared, so reference energies of the checkpoint and of the file may differ. What a
    checkpoint does not record of its data, as those of torchmd-net's own models, is taken to be the file's.

    Args:
        checkpoint: A checkpoint written by ``torchmd-train``.
        labels: The label file it was trained on, or another one of the same method.
        device: Where the model runs; see :func:`dkmp_plugin.device.resolve_device`.

    Returns:
        Plain values: ``checkpoint``, ``level_of_theory``, ``energy_unit``, ``labels`` (split -> number),
        ``parameters``, and ``errors``: group -> ``model`` and ``baseline`` (mean training energy, zero
        forces), each as ``evaluation.metrics`` defines them.

    Raises:
        ValueError: If the label file is unreadable or has an empty split, the device is not there, or the
            checkpoint is none of a potential, or was trained on other elements or at another charge.
    """
    place = str(resolve_device(device))
    labelled = read_label_file(labels)
    splits = split_indices(labelled)
    test = splits["test"]
    declared = _declared_data(checkpoint)
    _check_charge(declared, labelled, checkpoint, labels)
    trained_unit = declared.get("energy_unit", labelled.energy_unit)
    factor = energy_factor(trained_unit, labelled.energy_unit)
    model = load_model(str(checkpoint), derivative=True, device=place).eval()
    check_elements(labelled.elements, _trained_elements(model, declared, labelled), str(checkpoint))
    predicted_energies, predicted_forces = predict(model, DKMPHDF5(str(labels)), test.tolist())
    energies, forces = labelled.energies - labelled.reference_energy, labelled.forces
    predicted_energies = factor * predicted_energies + _offset(declared, labelled, factor)
    predicted_forces = factor * predicted_forces

    groups: Dict[str, Any] = {"all held-out runs": np.ones(len(test), dtype=bool)}
    for entry in labelled.sampling["runs"]:
        if entry["split"] == "test":
            name = f"held-out run at {entry['condition']}" if "condition" in entry else "held-out run"
            # Several runs may have the same condition.
            groups[name] = groups.get(name, False) | (labelled.run[test] == entry["index"])
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


def _declared_data(checkpoint: Union[str, Path]) -> Dict[str, Any]:
    """What a checkpoint says of its training data; the unit may come from the configuration."""
    contents = read_contents(Path(checkpoint))
    if not isinstance(contents, dict) or "hyper_parameters" not in contents:
        raise ValueError(
            f"{checkpoint} is not a torchmd-train checkpoint: it has no hyper_parameters; name a .ckpt "
            "file of its log_dir"
        )
    if contents["hyper_parameters"].get("model") == "dkmp-r":
        raise ValueError(
            f"{checkpoint} holds a 'dkmp-r' model, which predicts structures; one of energies and forces is "
            "expected. Evaluate this one with dkmp rollout"
        )
    declared, unit = recorded_dataset(contents), recorded_energy_unit(contents)
    return {**declared, "energy_unit": unit} if unit else declared


def _check_charge(
    declared: Mapping[str, Any],
    labelled: LabelledConformations,
    checkpoint: Union[str, Path],
    labels: Union[str, Path],
) -> None:
    trained = declared.get("total_charge")
    if trained is not None and trained != labelled.total_charge:
        raise ValueError(
            f"{checkpoint} was trained at charge {trained}, but {labels} holds labels of charge "
            f"{labelled.total_charge}; evaluate it on labels of the charge it was trained at"
        )


def _trained_elements(
    model: torch.nn.Module, declared: Mapping[str, Any], labelled: LabelledConformations
) -> List[int]:
    """Those that a DKMP model has seen; of others what the data had, or else those of the labels."""
    seen = getattr(model.representation_model, "trained_elements", None)
    if seen is not None:
        return seen.nonzero().flatten().tolist()
    return declared.get("elements", labelled.elements)


def _offset(declared: Mapping[str, Any], labelled: LabelledConformations, factor: float) -> float:
    """What training subtracted from the molecule's energies beyond what the file does, in the file's unit."""
    references = declared.get("reference_energies")
    if references is None:
        return 0.0
    per_element = {int(number): float(energy) for number, energy in references.items()}
    subtracted = sum(per_element.get(int(number), 0.0) for number in labelled.atomic_numbers)
    return float(factor * subtracted - labelled.reference_energy)


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
