"""The parameter figure: every point can be built, trainings give a picture (real acetylacetone, DFT)."""

import importlib
import json
import sys

import pytest

from dkmp_plugin.config import validate
from tests.conftest import ROOT, hyper_parameters, shared_data


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("reproduce_parameters")


def test_every_point_of_dkmp_is_a_possible_model(script):
    protocol = script.load_protocol()
    for point in script.all_points():
        if point.model == "dkmp-c":
            settings = hyper_parameters(**point.settings(protocol))
            validate(settings)
            assert settings[point.parameter] == point.value


def test_points_are_trained_once_and_drawn(script, monkeypatch, tmp_path, capsys):
    if not (shared_data() / "3bpa-acac").is_dir():
        pytest.skip("no 3bpa-acac; set DKMP_DATA to the folder of the shared data sets")
    for name, value in {"ROW": "acac", "CPU_SECONDS": 0.1, "CUTOFFS": (5.0, 6.0), "LAYERS": (2,)}.items():
        monkeypatch.setattr(script, name, value)
    # A rate far too large, and halves of it until it works.
    searches = tmp_path / "searches"
    searches.mkdir()
    (searches / "acac__dkmp-c__learning_rate.json").write_text(json.dumps({"learning_rate": 9e-3}))

    from s2ef import training

    class DivergesAtLargeRates(training.Training):
        def run(self):
            if self.learning_rate > 3e-3:
                raise training.Diverged("too large")
            super().run()

    monkeypatch.setattr(training, "Training", DivergesAtLargeRates)
    results, picture = tmp_path / "results", tmp_path / "figure.png"
    train = ["script", "--results", str(results), "--searches", str(searches)]
    train += ["train", "--models", "dkmp-c", "--work", str(tmp_path / "work")]
    monkeypatch.setattr(sys, "argv", train)
    script.main()
    names = [f"dkmp-c__{name}.json" for name in ("cutoff_upper__5", "cutoff_upper__6", "num_layers__2")]
    assert sorted(path.name for path in results.iterdir()) == names
    point = json.loads((results / names[0]).read_text())
    assert point["cpu_seconds"] >= 0.1
    assert point["validation"]["force_mae"] > 0
    assert point["learning_rate"] == pytest.approx(2.25e-3)

    capsys.readouterr()
    script.main()
    assert capsys.readouterr().out == ""

    monkeypatch.setattr(sys, "argv", ["script", "--results", str(results), "plot", "--output", str(picture)])
    script.main()
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "3 of 9 points" in capsys.readouterr().out
