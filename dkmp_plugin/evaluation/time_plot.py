"""Pictures of quantities over time."""

from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Sequence, Union

import numpy as np

from dkmp_plugin.files import replaced_on_success


@dataclass(frozen=True)
class Panel:
    """One set of axes: the label of its vertical axis, and curves as legend -> column name."""

    label: str
    curves: Dict[str, str]


def plot_over_time(
    path: Union[str, Path],
    columns: Dict[str, np.ndarray],
    time: str,
    time_label: str,
    panels: Sequence[Panel],
    logarithmic: bool = False,
) -> None:
    """Draws panels under each other into a PNG file.

    Args:
        path: the PNG to write.
        columns: name -> (T,) values.
        time: name of the column on the common horizontal axis.
        time_label: its label, with the unit.
        panels: what to draw.
        logarithmic: whether the vertical axes are logarithmic.
    """
    # The object interface leaves matplotlib's global state and display settings alone.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.6 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, panel in zip(axes, panels, strict=True):
        for legend, name in panel.curves.items():
            known = np.isfinite(columns[name])
            axis.plot(columns[time][known], columns[name][known], label=legend, linewidth=1)
        axis.set_ylabel(panel.label)
        axis.legend(loc="best", fontsize="small")
        if logarithmic:
            axis.set_yscale("log")
    axes[-1].set_xlabel(time_label)
    with replaced_on_success(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
