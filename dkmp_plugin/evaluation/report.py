"""Pictures over time and a self-contained HTML page."""

import base64
import csv
import html
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Sequence, Union

import numpy as np

from dkmp_plugin.files import replaced_on_success

_STYLE = """
body { font-family: sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 1em 0; }
th, td { border-bottom: 1px solid #ccc; padding: 0.3em 1em; text-align: right; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; }
"""


@dataclass(frozen=True)
class Table:
    """A table of the report: ``header`` and each of ``rows`` have the same number of cells."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Panel:
    """One set of axes: the label of its vertical axis, and curves as legend -> column name."""

    label: str
    curves: Dict[str, str]


def read_columns(path: Union[str, Path]) -> Dict[str, np.ndarray]:
    """Reads a CSV file with a header row of names and rows of numbers; empty cells become NaN.

    Raises:
        ValueError: the file is missing, has no rows, or holds something else than numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no {path}; run the step that writes it first")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f"{path} has no rows; the step that writes it did not finish")
    try:
        return {name: np.array([float(row[name] or "nan") for row in rows]) for name in rows[0]}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a table of numbers ({error})") from error


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


def write_html(
    path: Union[str, Path],
    title: str,
    introduction: str,
    tables: Sequence[Table],
    pictures: Dict[str, Union[str, Path]],
) -> None:
    """Writes one HTML page that needs no other file: tables, then pictures.

    Args:
        path: the page to write.
        title: its heading.
        introduction: a paragraph of plain text.
        tables: the numbers.
        pictures: caption -> PNG file; embedded.
    """
    parts: List[str] = [
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>',
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{html.escape(introduction)}</p>",
    ]
    parts += [_table_html(table) for table in tables]
    for caption, picture in pictures.items():
        encoded = base64.b64encode(Path(picture).read_bytes()).decode("ascii")
        escaped = html.escape(caption)
        parts.append(f'<h2>{escaped}</h2>\n<img alt="{escaped}" src="data:image/png;base64,{encoded}">')
    parts.append("</body></html>\n")
    with replaced_on_success(path) as temporary:
        temporary.write_text("\n".join(parts), encoding="utf-8")


def _table_html(table: Table) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    lines = [f"<h2>{html.escape(table.title)}</h2>", "<table>", row(table.header, "th")]
    lines += [row(cells, "td") for cells in table.rows]
    lines.append("</table>")
    if table.note:
        lines.append(f"<p>{html.escape(table.note)}</p>")
    return "\n".join(lines)
