"""Validation errors over a training, from the metrics that torchmd-train leaves in its log_dir."""

import csv
from pathlib import Path
from typing import Dict, Union

import numpy as np

from dkmp_plugin.evaluation.time_plot import Panel, plot_over_time

# What the panels show, and the unit beside that of the energies.
_CURVES = {"val_y_l1_loss": ("energy MAE", ""), "val_neg_dy_l1_loss": ("force MAE", "/Å")}


def read_learning_curve(log_dir: Union[str, Path]) -> Dict[str, np.ndarray]:
    """Validation errors of every epoch, also of a training that was resumed.

    Each start of torchmd-train begins a new ``metrics.csv`` and keeps the old one beside it; where two
    hold the same epoch, the later one counts.

    Returns:
        ``epoch``, and of ``val_y_l1_loss`` and ``val_neg_dy_l1_loss`` what torchmd-net has computed: not what
        has the weight 0 (``y_weight``, ``neg_dy_weight``). Each (epochs,), NaN for epochs without.

    Raises:
        ValueError: If there are no metrics.
    """
    # metrics_DATE-TIME.csv sorts by time; the unnumbered file is the newest.
    log_dir = Path(log_dir)
    files = [*sorted(log_dir.glob("metrics_*.csv")), log_dir / "metrics.csv"]
    by_epoch: Dict[float, Dict[str, float]] = {}
    for path in files:
        if path.is_file():
            by_epoch.update(_errors_by_epoch(path))
    if not by_epoch:
        raise ValueError(f"{log_dir} holds no metrics.csv with validation errors; train first")
    rows = [by_epoch[epoch] for epoch in sorted(by_epoch)]
    curves = {
        name: np.array([row.get(name, np.nan) for row in rows])
        for name in _CURVES
        if any(name in row for row in rows)
    }
    return {"epoch": np.array(sorted(by_epoch)), **curves}


def _errors_by_epoch(path: Path) -> Dict[float, Dict[str, float]]:
    found: Dict[float, Dict[str, float]] = {}
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        names = [name for name in _CURVES if name in (reader.fieldnames or ())]
        for row in reader:
            # Rows of training steps have no validation error; a killed process may leave half a row.
            if names and row.get("epoch") and all(row[name] for name in names):
                found[float(row["epoch"])] = {name: float(row[name]) for name in names}
    return found


def plot_learning_curve(path: Union[str, Path], log_dir: Union[str, Path], energy_unit: str) -> None:
    """Draw the validation errors of a training into a PNG file."""
    curve = read_learning_curve(log_dir)
    panels = [
        Panel(f"{quantity} ({energy_unit}{per})", {"validation": name})
        for name, (quantity, per) in _CURVES.items()
        if name in curve
    ]
    plot_over_time(path, curve, "epoch", "epoch", panels, logarithmic=True)
