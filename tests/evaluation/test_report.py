import re

import matplotlib.image
import numpy as np
import pytest

from dkmp_plugin.evaluation.columns import read_columns
from dkmp_plugin.evaluation.html_page import Table, write_html
from dkmp_plugin.evaluation.time_plot import Panel, plot_over_time


def test_page_holds_numbers_and_pictures_and_needs_no_other_file(tmp_path):
    picture = tmp_path / "curve.png"
    time = np.linspace(0, 1, 20)
    plot_over_time(
        picture, {"t": time, "energy": np.sin(time)}, "t", "time (ps)", (Panel("E", {"e": "energy"}),)
    )
    page = tmp_path / "report.html"
    write_html(
        page,
        "A < B",
        "introduction",
        (Table("Errors", ("run", "MAE"), (("300 K & more", "0.123"),), "a note"),),
        {"Energy": picture},
    )
    text = page.read_text(encoding="utf-8")
    for expected in ("A &lt; B", "0.123", "300 K &amp; more", "a note", "data:image/png;base64,"):
        assert expected in text
    assert not re.search(r'(src|href)="(?!data:)', text)


def test_picture_shows_what_is_plotted(tmp_path):
    time = np.arange(5.0)
    columns = {"t": time, "a": time**2, "gaps": np.array([1.0, np.nan, 2.0, np.nan, 3.0])}
    panels = (Panel("x", {"square": "a"}), Panel("y", {"gaps": "gaps"}))
    plot_over_time(tmp_path / "both.png", columns, "t", "t", panels)
    plot_over_time(tmp_path / "one.png", columns, "t", "t", panels[:1])
    both, one = (matplotlib.image.imread(tmp_path / name) for name in ("both.png", "one.png"))
    assert both.shape[0] > one.shape[0] > 100
    assert both[..., :3].std() > 0.01


def test_columns_of_a_csv_file(tmp_path):
    path = tmp_path / "state.csv"
    path.write_text("step,energy\n0,-1.5\n10,\n")
    columns = read_columns(path)
    np.testing.assert_array_equal(columns["step"], [0.0, 10.0])
    assert columns["energy"][0] == -1.5 and np.isnan(columns["energy"][1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("step,energy\n", "has no rows"),
        ("step,energy\n1,high\n", "not a table of numbers"),
        (None, "there is no"),
    ],
)
def test_broken_csv_files_are_refused(tmp_path, content, message):
    path = tmp_path / "state.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_columns(path)
