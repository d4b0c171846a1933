"""``dkmp bespoke`` as users run it: to the end, killed at any point, on a cluster, with bad input."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from dkmp_plugin import cli
from dkmp_plugin.bespoke.settings import BespokeSettings
from dkmp_plugin.bespoke.training import loss_weights
from dkmp_plugin.cli import main
from dkmp_plugin.datasets.label_file import read_label_file
from dkmp_plugin.simulation.model_file import load_model_file
from dkmp_plugin.training.log_dir import newest_checkpoint

DKMP = Path(sys.executable).with_name("dkmp")
SIZES = {
    "--temperatures": 300,
    "--train-runs": 2,
    "--train-frames": 10,
    "--val-frames": 4,
    "--test-frames": 4,
    "--epochs": 4,
    "--width": 16,
}


@pytest.fixture(scope="module")
def ligand(p_xylene_files):
    """Amber files of p-xylene alone."""
    return p_xylene_files[0].with_name("ligand.prmtop")


@pytest.fixture(scope="module")
def methane(tmp_path_factory):
    """An SDF file: no force field, five atoms."""
    Chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed (extra `bespoke`)")
    path = tmp_path_factory.mktemp("ligand") / "methane.sdf"
    with Chem.SDWriter(str(path)) as writer:
        writer.write(Chem.MolFromSmiles("C"))
    return path


def command(ligand, output, *arguments, **changes):
    sizes = {**SIZES, **{f"--{name}": value for name, value in changes.items()}}
    return [
        *(DKMP, "bespoke", ligand, "--output", output, *arguments),
        *(str(part) for pair in sizes.items() for part in pair),
    ]


def run_here(capfd, *arguments, **changes):
    """The command in this process: status, output, errors."""
    status = main([str(part) for part in command(*arguments, **changes)[1:]])
    captured = capfd.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize(("num_atoms", "weight"), [(5, 0.2), (18, 0.2), (52, 3.6 / 52), (166, 0.0217)])
def test_energies_of_larger_molecules_weigh_less(num_atoms, weight):
    weights = loss_weights(num_atoms)
    assert weights["y_weight"] == pytest.approx(weight, rel=1e-2)
    assert sum(weights.values()) == pytest.approx(1.0)


def kill_when(condition, ligand, output):
    """Start the command, kill -9 it as soon as the condition holds; returns its children of that moment."""
    with open(output.with_suffix(".log"), "w") as log:
        process = subprocess.Popen(
            command(ligand, output), stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 240
        while not condition():
            assert process.poll() is None, output.with_suffix(".log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    return children


@pytest.fixture(scope="module")
def survivor(ligand, tmp_path_factory):
    """Killed while labelling and again while training, then finished: folder, observations, last output."""
    output = tmp_path_factory.mktemp("bespoke") / "p_xylene"
    runs = output / "labels.h5.runs"
    kill_when(lambda: any(runs.glob("run_*/labels_*.npz")), ligand, output)
    seen = {"frames": {path: path.stat().st_mtime_ns for path in runs.glob("run_*/frames.npy")}}
    assert seen["frames"] and not (output / "labels.h5").exists()
    # Between the first epoch's checkpoint and the end of the training.
    children = kill_when(lambda: any((output / "training").glob("epoch=*.ckpt")), ligand, output)
    seen["children"] = children
    seen["epochs"] = len(list((output / "training").glob("epoch=*.ckpt")))
    seen["labels"] = (output / "labels.h5").stat().st_mtime_ns
    done = subprocess.run(
        command(ligand, output), capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    return output, seen, done.stdout


def test_a_killed_command_goes_on(survivor):
    output, seen, text = survivor
    assert "sample and label: kept (labels.h5)" in text
    assert (output / "labels.h5").stat().st_mtime_ns == seen["labels"]
    assert 1 <= seen["epochs"] < 4
    logs = list((output / "training").glob("metrics*.csv"))
    assert len(logs) == 2, "the training was begun twice, the second time from the checkpoint"
    newest = newest_checkpoint(output / "training")
    assert newest[0] == 3
    # Every epoch was trained once, in batches of 8.
    contents = torch.load(newest[1], weights_only=True)
    steps_per_epoch = len(np.load(output / "splits.npz")["idx_train"]) // 8
    assert contents["global_step"] == 4 * steps_per_epoch


def test_a_killed_command_leaves_no_training_behind(survivor):
    _, seen, _ = survivor
    assert seen["children"]
    assert not any(
        Path(f"/proc/{child}/cmdline").exists() and b"torchmd" in Path(f"/proc/{child}/cmdline").read_bytes()
        for child in seen["children"]
    )


def test_labels_are_those_of_a_straight_campaign(survivor, ligand, tmp_path):
    from dkmp_plugin.labeling.campaign import run_campaign

    settings = BespokeSettings(
        str(ligand), temperatures=(300.0,), train_runs=2, train_frames=10, val_frames=4, test_frames=4
    )
    straight = run_campaign(
        settings.read_molecule(), settings.plan_runs(), tmp_path / "labels.h5", progress=False
    )
    labels = read_label_file(survivor[0] / "labels.h5")
    np.testing.assert_array_equal(labels.positions, straight.positions)
    np.testing.assert_array_equal(labels.energies, straight.energies)


def test_what_it_leaves(survivor):
    output, _, text = survivor
    _, info = load_model_file(output / "model.pt")
    assert info.elements == [1, 6] and info.total_charge == 0
    assert info.level_of_theory.startswith("GFN2-xTB") and info.energy_unit == "kcal/mol"
    evaluation = json.loads((output / "evaluation.json").read_text())
    assert evaluation["labels"] == {"train": 40, "val": 8, "test": 8}
    page = (output / "report.html").read_text()
    errors = evaluation["errors"]["all held-out runs"]["model"]
    for number in (f"{errors['force_mae']:.3f}", "ligand.prmtop", "TMP", "300 K strained"):
        assert number in page
    assert page.count("data:image/png;base64,") == 1
    assert f"{errors['force_mae']:.3f}" in text
    # Even this small training has learnt something.
    assert errors["force_mae"] < evaluation["errors"]["all held-out runs"]["baseline"]["force_mae"]


def test_finished_folder_and_other_settings(survivor, ligand, capfd):
    output, _, _ = survivor
    before = (output / "model.pt").stat().st_mtime_ns
    status, text, errors = run_here(capfd, ligand, output)
    assert status == 0, errors
    assert text.count("kept (") == 5 and (output / "model.pt").stat().st_mtime_ns == before
    status, _, errors = run_here(capfd, ligand, output, seed=2)
    assert status == 2 and "seed 1, now 2" in errors and "Traceback" not in errors
    status, _, errors = run_here(capfd, ligand, output, epochs=5)
    assert status == 2 and "epochs 4, now 5" in errors and "train anew" in errors


def test_ligand_without_force_field(methane):
    settings = BespokeSettings(str(methane))
    molecule = settings.read_molecule()
    assert molecule.force_field is None and sorted(molecule.atomic_numbers) == [1, 1, 1, 1, 6]
    # Each step costs a GFN2-xTB calculation: fewer of them between frames.
    with_force_field = BespokeSettings("ligand.prmtop")
    assert settings.plan_runs()[0].steps_between_frames < with_force_field.plan_runs()[0].steps_between_frames


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ligand.mol2", b"@<TRIPOS>MOLECULE\n"),
        ("ligand.sdf.gz", b"\x1f\x8b\x08\x00"),
        ("ligand.xyz", b"5\n\nC 0 0 0\n"),
        ("ligand.pdb", b"HETATM    1  C1  LIG\n"),
    ],
)
def test_other_kinds_of_files_are_refused(tmp_path, capfd, name, content):
    (tmp_path / name).write_bytes(content)
    status, _, errors = run_here(capfd, tmp_path / name, tmp_path / "out")
    assert status == 2, errors
    assert f"{name} is neither an Amber prmtop nor an SDF file" in errors and "convert it" in errors
    assert not (tmp_path / "out").exists()


def test_bad_input(methane, tmp_path, capfd):
    for arguments, changes, message in (
        ((tmp_path / "none.sdf", tmp_path / "out"), {}, "no such file"),
        ((methane, tmp_path / "out2", "--residue", "MOL"), {}, "residue and coordinates belong to a prmtop"),
        ((methane, tmp_path / "out3"), {"epochs": 0}, "epochs: 0 was given"),
        ((methane, tmp_path / "out3"), {"temperatures": "nan"}, "temperatures: (nan,) was given"),
        ((methane, tmp_path / "out3"), {"temperatures": "inf"}, "temperatures: (inf,) was given"),
        ((methane, tmp_path / "out4", "--scheduler", "tcp://127.0.0.1:9"), {}, "no Dask scheduler answers"),
    ):
        status, _, errors = run_here(capfd, *arguments, **changes)
        assert status == 2 and message in errors and "Traceback" not in errors, errors


@pytest.mark.parametrize("name", ["labels.h5", "training", "model.pt"])
def test_results_of_unknown_settings_are_not_taken_over(methane, tmp_path, name):
    """A folder of something else, such as the demo's, with files of the same names."""
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=rf"holds {name}, but no settings\.json"):
        BespokeSettings(str(methane)).claim(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.fixture
def files(p_xylene_files, methane, tmp_path):
    """Ligand files of a user's own: with and without a force field, coordinates beside the prmtop."""
    folder = tmp_path / "files"
    folder.mkdir()
    for suffix in (".prmtop", ".crd"):
        source = p_xylene_files[0].with_name("ligand").with_suffix(suffix)
        (folder / source.name).write_bytes(source.read_bytes())
    (folder / "ligand.sdf").write_bytes(methane.read_bytes())
    return folder


@pytest.mark.parametrize(
    ("ligand", "changed"), [("ligand.sdf", "ligand.sdf"), ("ligand.prmtop", "ligand.crd")]
)
def test_other_content_under_the_same_name_is_refused(files, tmp_path, ligand, changed):
    settings = BespokeSettings(str(files / ligand))
    settings.claim(tmp_path)
    settings.claim(tmp_path)
    with open(files / changed, "a") as file:
        file.write("\n")
    with pytest.raises(ValueError, match=rf"was begun with other settings \(the content of .*{changed}"):
        settings.claim(tmp_path)


def test_a_folder_can_move_with_its_ligand(files, tmp_path):
    BespokeSettings(str(files / "ligand.prmtop")).claim(tmp_path)
    moved = files.rename(tmp_path / "moved")
    BespokeSettings(str(moved / "ligand.prmtop"), str(moved / "ligand.crd")).claim(tmp_path)


def test_folders_of_earlier_versions_go_on(files, tmp_path):
    """They know the paths only."""
    settings = BespokeSettings(str(files / "ligand.prmtop"))
    text = json.dumps(dataclasses.asdict(settings))
    (tmp_path / "settings.json").write_text(text)
    settings.claim(tmp_path)
    with pytest.raises(ValueError, match=r"ligand '.*ligand.prmtop', now '.*ligand.sdf'"):
        BespokeSettings(str(files / "ligand.sdf")).claim(tmp_path)
    assert (tmp_path / "settings.json").read_text() == text


def test_a_refused_ligand_does_not_claim_the_folder(files, tmp_path, capfd):
    output = tmp_path / "out"
    for ligand, arguments, message in (
        ("ligandd.sdf", (), "no such file"),
        ("ligand.prmtop", ("--residue", "XYZ"), "0 residues are called 'XYZ'"),
        ("ligand.prmtop", ("--coordinates", files / "none.crd"), "no such file"),
    ):
        status, _, errors = run_here(capfd, files / ligand, output, *arguments)
        assert status == 2 and re.search(message, errors), errors
        assert not output.exists()
    BespokeSettings(str(files / "ligand.prmtop")).claim(output)
    assert json.loads((output / "settings.json").read_text())["residue"] is None


@pytest.mark.parametrize("width", [10, 0, -8])
def test_impossible_widths_are_refused_before_anything_is_labelled(width):
    with pytest.raises(ValueError, match=f"width: {width} was given, a positive multiple of 8"):
        BespokeSettings("ligand.sdf", width=width)


def test_training_may_change_until_it_has_begun(files, tmp_path):
    settings = BespokeSettings(str(files / "ligand.sdf"))
    settings.claim(tmp_path)
    (tmp_path / "labels.h5").touch()
    longer = dataclasses.replace(settings, epochs=20, width=32)
    longer.claim(tmp_path)
    assert json.loads((tmp_path / "settings.json").read_text())["epochs"] == 20
    (tmp_path / "training").mkdir()
    (tmp_path / "model.pt").touch()
    longer.claim(tmp_path)
    with pytest.raises(ValueError, match=r"epochs 20, now 16.* remove training, model.pt .*train anew"):
        settings.claim(tmp_path)
    with pytest.raises(ValueError, match="seed 1, now 2") as error:
        dataclasses.replace(longer, seed=2).claim(tmp_path)
    assert "train anew" not in str(error.value)


def test_sampling_may_change_until_the_labels_are_finished(files, tmp_path):
    settings = BespokeSettings(str(files / "ligand.sdf"))
    settings.claim(tmp_path)
    colder = dataclasses.replace(settings, temperatures=(300.0, 400.0), train_runs=4, test_frames=9)
    colder.claim(tmp_path)
    assert json.loads((tmp_path / "settings.json").read_text())["temperatures"] == [300.0, 400.0]
    (tmp_path / "labels.h5").touch()
    (tmp_path / "training").mkdir()
    colder.claim(tmp_path)
    with pytest.raises(ValueError, match=r"remove labels.h5, training in it to sample and train anew"):
        settings.claim(tmp_path)
    with pytest.raises(ValueError, match="seed 1, now 2"):
        dataclasses.replace(colder, seed=2).claim(tmp_path)


def test_what_a_kill_after_the_last_label_left_is_removed(survivor, ligand, tmp_path, capfd):
    output = tmp_path / "copy"
    shutil.copytree(survivor[0], output)
    (output / "labels.h5.runs" / "run_000").mkdir(parents=True)
    status, _, errors = run_here(capfd, ligand, output)
    assert status == 0, errors
    assert not (output / "labels.h5.runs").exists()


def test_a_missing_torchmd_train_is_told_before_anything_is_labelled(methane, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    status, _, errors = run_here(capfd, methane, tmp_path / "out")
    assert status == 2 and "torchmd-train is needed for the training" in errors, errors
    assert not list((tmp_path / "out").glob("labels.h5*"))


def test_explicit_sizes_win_over_quick():
    arguments = [
        "bespoke",
        "ligand.sdf",
        "--output",
        "out",
        "--quick",
        "--epochs",
        "9",
        "--train-frames",
        "50",
    ]
    settings = cli._bespoke_settings(cli._parser().parse_args(arguments))
    assert (settings.epochs, settings.train_frames) == (9, 50)
    assert (settings.width, settings.temperatures, settings.train_runs) == (16, (300.0,), 1)
    settings = cli._bespoke_settings(cli._parser().parse_args(arguments[:4]))
    assert settings == BespokeSettings(str(Path("ligand.sdf").absolute()))


def test_two_commands_do_not_work_in_one_folder(tmp_path):
    from dkmp_plugin.files import only_here

    with (
        only_here(tmp_path),
        pytest.raises(RuntimeError, match="another process works in"),
        only_here(tmp_path),
    ):
        pass
