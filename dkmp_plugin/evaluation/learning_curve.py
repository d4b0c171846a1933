"""Validation errors over a training, from the metrics that torchmd-train leaves in its log_dir."""

import csv
from pathlib import Path
from typing import Dict, Union

import numpy as np

from dkmp_plugin.evaluation.report import Panel, plot_over_time

_CURVES = ("epoch", "val_y_l1_loss", "val_neg_dy_l1_loss")


def read_learning_curve(log_dir: Union[str, Path]) -> Dict[str, np.ndarray]:
    """Validation errors of every epoch, also of a training that was resumed.

    Each start of torchmd-train begins a new ``metrics.csv`` and keeps the old one beside it; where two
    hold the same epoch, the later one counts.

    Returns:
        ``epoch``, ``val_y_l1_loss`` and ``val_neg_dy_l1_loss``, each (epochs,).

    Raises:
        ValueError: If there are no metrics.
    """
    # metrics_DATE-TIME.csv sorts by time; the unnumbered file is the newest.
    log_dir = Path(log_dir)
    files = [*sorted(log_dir.glob("metrics_*.csv")), log_dir / "metrics.csv"]
    by_epoch: Dict[float, list] = {}
    for path in files:
        if not path.is_file():
            continue
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                values = [row.get(name) for name in _CURVES]
                # Rows of training steps have no validation error; a killed process may leave half a row.
                if all(values):
                    by_epoch[float(values[0] or 0)] = [float(value or "nan") for value in values]
    if not by_epoch:
        raise ValueError(f"{log_dir} holds no metrics.csv with validation errors; train first")
    columns = np.array([by_epoch[epoch] for epoch in sorted(by_epoch)]).T
    return dict(zip(_CURVES, columns, strict=True))


def plot_learning_curve(path: Union[str, Path], log_dir: Union[str, Path], energy_unit: str) -> None:
    """Draw the validation errors of a training into a PNG file."""
    plot_over_time(
        path,
        read_learning_curve(log_dir),
        "epoch",
        "epoch",
        (
            Panel(f"energy MAE ({energy_unit})", {"validation": "val_y_l1_loss"}),
            Panel(f"force MAE ({energy_unit}/Å)", {"validation": "val_neg_dy_l1_loss"}),
        ),
        logarithmic=True,
    )
