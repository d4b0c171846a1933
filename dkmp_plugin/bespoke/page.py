"""The HTML page about one bespoke potential."""

from pathlib import Path
from typing import Any, Dict, List, Tuple

from dkmp_plugin.bespoke.settings import BespokeSettings
from dkmp_plugin.datasets.label_file import LabelledConformations, read_label_file
from dkmp_plugin.evaluation.held_out import error_table
from dkmp_plugin.evaluation.html_page import Table, write_html
from dkmp_plugin.evaluation.learning_curve import plot_learning_curve


def write_page(settings: BespokeSettings, output: Path, evaluation: Dict[str, Any]) -> None:
    """Write ``report.html`` and ``learning_curve.png`` into the folder of a potential.

    Args:
        settings: What it was made from.
        output: The folder.
        evaluation: What ``evaluate_held_out`` returned.
    """
    labels = read_label_file(output / "labels.h5")
    curve = output / "learning_curve.png"
    plot_learning_curve(curve, output / "training", labels.energy_unit)
    write_html(
        output / "report.html",
        f"DKMP^C potential of {Path(settings.ligand).name}",
        f"{labels.sampling['description']}; {len(labels.atomic_numbers)} atoms, total charge "
        f"{labels.total_charge:+d}, {labels.level_of_theory} labels in vacuum. The potential knows this "
        "molecule only, near the temperatures it was sampled at.",
        (error_table(evaluation), _runs_table(labels)),
        {"Validation errors during training": curve},
    )


def _runs_table(labels: LabelledConformations) -> Table:
    groups: Dict[Tuple[str, str], List[Dict[str, Any]]] = {}
    for entry in labels.sampling["runs"]:
        groups.setdefault((entry["split"], entry["condition"]), []).append(entry)
    rows = [
        [
            split,
            condition,
            str(len(entries)),
            str(sum(entry["num_frames"] for entry in entries)),
            str(sum(entry["not_converged"] for entry in entries)),
        ]
        for (split, condition), entries in groups.items()
    ]
    return Table(
        "Sampling",
        ("split", "condition", "independent runs", "conformations", "without converged label"),
        rows,
        "Conformations without a converged label are left out.",
    )
