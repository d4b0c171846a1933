"""The ``dkmp`` command, as a user types it."""

import json
import sys

import pytest

from dkmp_plugin import cli
from dkmp_plugin.bespoke.settings import BespokeSettings
from dkmp_plugin.datasets.adk import dims_test_files
from dkmp_plugin.datasets.trajectory_files import load_topology
from dkmp_plugin.optional import MissingPackageError
from dkmp_plugin.simulation import stack
from tests.simulation.conftest import DATASET, write_checkpoint


def test_export_then_info(tmp_path, capsys):
    write_checkpoint(tmp_path / "model.ckpt")
    assert cli.main(["export", str(tmp_path / "model.ckpt"), str(tmp_path / "model.pt")]) == 0
    assert "kcal/mol" in capsys.readouterr().out
    assert cli.main(["info", str(tmp_path / "model.pt")]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["elements"] == [1, 6, 7, 8]
    assert described["cutoff"] == 6.0
    assert described["reference_energies"] == DATASET["reference_energies"]


def test_info_describes_a_checkpoint_as_it_would_be_exported(tmp_path, capsys):
    write_checkpoint(tmp_path / "model.ckpt", precision=64)
    assert cli.main(["info", str(tmp_path / "model.ckpt")]) == 0
    described = json.loads(capsys.readouterr().out)
    assert cli.main(["export", str(tmp_path / "model.ckpt"), str(tmp_path / "model.pt")]) == 0
    capsys.readouterr()
    assert cli.main(["info", str(tmp_path / "model.pt")]) == 0
    assert json.loads(capsys.readouterr().out) == described
    assert described["dtype"] == "float64"


def test_info_names_the_stack_and_the_ops(capsys):
    status = cli.main(["info"])
    text = capsys.readouterr().out
    assert status == (0 if stack.installed_stack().backend else 1)
    for expected in ("torchmd-net  3.", "ops:", "training: torchmd-train knows dkmp-c"):
        assert expected in text


def test_info_says_what_is_wrong_with_the_stack(monkeypatch, capsys):
    real = stack.version
    monkeypatch.setattr(stack, "version", lambda name: "8.5.0" if name == "openmm" else real(name))
    assert cli.main(["info"]) == 1
    text = capsys.readouterr().out
    assert "openmm 8.5.0 is installed, 8.4.* is needed" in text
    assert "pip install" in text


def test_bad_input_is_an_error_message_not_a_traceback(tmp_path, capsys):
    assert cli.main(["export", str(tmp_path / "none.ckpt"), str(tmp_path / "model.pt")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("package", "command", "extra"),
    [
        ("openmm", ["bespoke", "ligand.sdf", "--output", "out"], "torchforce"),
        ("tblite", ["bespoke", "ligand.sdf", "--output", "out"], "bespoke"),
        ("rdkit", ["bespoke", "ligand.sdf", "--output", "out"], "bespoke"),
        ("distributed", ["bespoke", "ligand.sdf", "--output", "out", "--scheduler", "tcp://a:1"], "bespoke"),
        ("openmm", ["nve", "amber14-obc2", "ligand.pdb", "--output", "out"], "torchforce"),
    ],
)
def test_a_package_that_is_not_installed(tmp_path, capsys, monkeypatch, package, command, extra):
    monkeypatch.chdir(tmp_path)
    for name in ("ligand.sdf", "ligand.pdb"):
        (tmp_path / name).write_text("")
    monkeypatch.setitem(sys.modules, package, None)
    assert cli.main(command) == 2
    said = capsys.readouterr().err
    assert f"needs {package}, which is not installed; run: pip install 'dkmp-plugin[{extra}]'" in said


def test_datasets_without_their_packages(monkeypatch):
    for package in ("mdtraj", "MDAnalysisTests"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=r"pip install 'dkmp-plugin\[trajectories\]'"):
        load_topology("top.pdb")
    with pytest.raises(MissingPackageError, match="pip install --no-deps MDAnalysisTests"):
        dims_test_files()


def test_export_does_not_overwrite_the_checkpoint(tmp_path, capsys):
    checkpoint = tmp_path / "model.ckpt"
    write_checkpoint(checkpoint)
    before = checkpoint.read_bytes()
    assert cli.main(["export", str(checkpoint), str(checkpoint)]) == 2
    assert "would be overwritten" in capsys.readouterr().err
    assert checkpoint.read_bytes() == before


def test_unknown_verb_lists_the_known_ones(capsys):
    with pytest.raises(SystemExit):
        cli.main(["fly"])
    assert "export" in capsys.readouterr().err


def test_export_to_a_device_that_is_not_there(tmp_path, capsys):
    write_checkpoint(tmp_path / "model.ckpt")
    files = [str(tmp_path / "model.ckpt"), str(tmp_path / "model.pt")]
    assert cli.main(["export", *files, "--device", "npu"]) == 2
    assert "device: 'npu' was given, one of cpu, cuda" in capsys.readouterr().err


def test_the_help_of_bespoke_names_the_defaults(capsys):
    """They stand in the command line again: importing the settings takes seconds."""
    with pytest.raises(SystemExit):
        cli.main(["bespoke", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    settings = BespokeSettings("ligand.sdf")
    for name in ("train_runs", "train_frames", "val_frames", "test_frames", "epochs", "width", "seed"):
        described = text.split(f"--{name.replace('_', '-')} {name.upper()}")[-1].split(" --")[0]
        assert f"[{getattr(settings, name)}]" in described, name
    assert f"[{' '.join(f'{kelvin:g}' for kelvin in settings.temperatures)}]" in text
