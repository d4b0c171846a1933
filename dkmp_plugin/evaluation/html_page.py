"""A self-contained HTML page of tables and pictures."""

import base64
import html
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Sequence, Union

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
