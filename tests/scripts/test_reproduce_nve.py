"""Which models scripts/reproduce_nve.py needs for the runs that were asked for."""

from tests.conftest import ROOT


def test_models_of_other_runs_need_not_exist(tmp_path, monkeypatch):
    """--runs smooth asked for the training with hard shells, which scripts/reproduce_smoothness.py makes."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import reproduce_nve

    exported = []
    monkeypatch.setattr(reproduce_nve, "export_once", lambda checkpoint, model: exported.append(model.name))
    (tmp_path / "start.pdb").touch()
    nowhere = tmp_path / "nowhere"
    reproduce_nve.prepare_p_xylene(tmp_path, nowhere, nowhere, ["smooth", "smooth-ase"])
    reproduce_nve.prepare_p_xylene(tmp_path, nowhere, nowhere, ["classical"])
    assert exported == ["smooth.pt"]
