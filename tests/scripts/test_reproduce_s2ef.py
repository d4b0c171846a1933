"""The comparison trains, resumes where it stopped, and prints what it measured (real acetylacetone, DFT)."""

import json
import math
import subprocess
import sys

import pytest
import torch
import yaml

from tests.conftest import ROOT, shared_data

FILE = "3bpa-acac/dataset_acac_train_300K.xyz"
SCRIPT = ROOT / "scripts/reproduce_s2ef.py"


@pytest.fixture(scope="module")
def protocol_file(tmp_path_factory):
    """The real protocol with one tiny row."""
    if not (shared_data() / FILE).is_file():
        pytest.skip(f"{shared_data() / FILE} is absent; set DKMP_DATA to the folder of the shared data sets")
    protocol = yaml.safe_load((ROOT / "scripts/s2ef/protocol.yaml").read_text())
    row = {
        **protocol["rows"]["acac"],
        "train": [f"{FILE}@:12"],
        "validation": [f"{FILE}@12:16"],
        "test": [f"{FILE}@16:20"],
        "batch_size": 4,
        "epochs": 2,
        "cpu_seconds": 0.2,
        "models": ["dkmp-c", "graph-network"],
    }
    protocol["rows"] = {"acac": row}
    protocol["common"].update(embedding_dimension=16, num_layers=2, learning_rates=[1.0e-3])
    path = tmp_path_factory.mktemp("protocol") / "protocol.yaml"
    path.write_text(yaml.safe_dump(protocol))
    return path


@pytest.fixture
def s2ef(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from s2ef import protocol, structures, table, training

    modules = (protocol, structures, table, training)
    return {module.__name__.removeprefix("s2ef."): module for module in modules}


def reproduce(protocol_file, results, *arguments):
    command = [sys.executable, str(SCRIPT), "--protocol", str(protocol_file), "--results", str(results)]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=300)


def test_trains_once_and_prints_a_table(protocol_file, tmp_path):
    results = tmp_path / "results"
    train = ("train", "--work", str(tmp_path / "work"), "--models", "dkmp-c")
    done = reproduce(protocol_file, results, *train)
    assert done.returncode == 0, done.stderr
    files = sorted(path.name for path in results.iterdir())
    assert files == [
        f"acac__dkmp-c__{kind}.json" for kind in ("cpu", "epochs", "learning_rate", "measurement")
    ]
    result = json.loads((results / "acac__dkmp-c__epochs.json").read_text())
    assert (result["epochs"], result["steps"]) == (2.0, 6)
    assert result["structures"] == {"train": 12, "validation": 4, "test": 4}
    assert 0 < result["test"]["force_mae"] < result["test"]["force_rmse"]
    assert json.loads((results / "acac__dkmp-c__cpu.json").read_text())["cpu_seconds"] >= 0.2

    again = reproduce(protocol_file, results, *train)
    assert again.returncode == 0, again.stderr
    assert "epoch" not in again.stdout

    # The same structures give the same errors; other structures others. Times are the checkpoint's own.
    recorded = {**result, "cpu_seconds": 12345.0}
    (results / "acac__dkmp-c__epochs.json").write_text(json.dumps(recorded))
    for part, same in (("16:20", True), ("20:24", False)):
        evaluated = reproduce(
            protocol_file, results, "evaluate", "acac", f"{FILE}@{part}", "--work", str(tmp_path / "work")
        )
        assert evaluated.returncode == 0, evaluated.stderr
        printed = f"| {1e3 * result['test']['force_mae']:.3g} | {1e3 * result['test']['force_rmse']:.3g} |"
        assert (printed in evaluated.stdout) == same and "12345" not in evaluated.stdout
    moved = reproduce(protocol_file, results, "displace", "acac", "--work", str(tmp_path / "work"))
    assert moved.returncode == 0, moved.stderr
    (line,) = [line for line in moved.stdout.splitlines() if line.startswith("| dkmp-c |")]
    assert len(line.split("|")) == 8 and "nan" not in line
    parted = reproduce(protocol_file, results, "energies", "acac", "--work", str(tmp_path / "work"))
    assert parted.returncode == 0, parted.stderr
    (line,) = [line for line in parted.stdout.splitlines() if line.startswith("| dkmp-c |")]
    *_, of_test, correlation = line.strip(" |").split(" | ")
    assert math.hypot(*map(float, of_test.split(" ± "))) == pytest.approx(result["test"]["energy_rmse"], 0.1)
    assert correlation == "1.00"
    absent = reproduce(protocol_file, results, "evaluate", "acac", f"{FILE}@20:24", "--work", str(tmp_path))
    assert absent.returncode != 0 and "no checkpoint of acac" in absent.stderr


def fake_result(protocol, model, /, **changes):
    """A result file's contents with made-up numbers: only the table is under test."""
    return {
        "protocol": protocol.version,
        "row": "acac",
        "labels": "DFT",
        "energy_unit": "eV",
        "model": model,
        "budget": "epochs",
        "test": {"energy_mae": 0.02, "energy_rmse": 0.03, "force_mae": 0.01, "force_rmse": 0.0123},
        "epochs": 2.0,
        "cpu_seconds": 4.0,
        "cpu_seconds_per_epoch": 2.0,
        "inference_cpu_ms": 5.0,
        "training_memory_mib": 100.0,
        "parameters": 1000,
        **changes,
    }


def test_table_and_margins(protocol_file, s2ef, tmp_path):
    protocol = s2ef["protocol"].load_protocol(protocol_file)
    worse = {"energy_mae": 0.04, "energy_rmse": 0.05, "force_mae": 0.04, "force_rmse": 0.06}
    results = [fake_result(protocol, "dkmp-c"), fake_result(protocol, "graph-network", test=worse)]
    text = s2ef["table"].markdown(results)
    version = protocol.version
    line = (
        f"| acac (DFT; meV) | epochs | dkmp-c | {version} | 20 | 30 | 10 | 12.3 | 2.0 | 4 (2.0) | 5.0 | 100 |"
    )
    assert line in text
    assert "dkmp-c force MAE -75 % against graph-network, energy MAE -50 % against graph-network" in text
    s2ef["table"].write_csv(tmp_path / "table.csv", results)
    assert (
        (tmp_path / "table.csv")
        .read_text()
        .splitlines()[1]
        .startswith(f"acac,DFT,meV,epochs,dkmp-c,{version},20.0")
    )


def test_results_hold_since_the_version_that_last_changed_their_model(protocol_file, s2ef, tmp_path):
    protocol = s2ef["protocol"].load_protocol(protocol_file)
    for model, version in protocol.valid_since.items():
        for budget, written in (("epochs", version), ("cpu", version - 1)):
            result = fake_result(protocol, model, protocol=written, budget=budget)
            (tmp_path / f"acac__{model}__{budget}.json").write_text(json.dumps(result))
    results = s2ef["table"].load_results(tmp_path, protocol)
    assert [(result["model"], result["budget"]) for result in results] == [
        ("dkmp-c", "epochs"),
        ("graph-network", "epochs"),
    ]


def test_a_pilot_leaves_validation_errors_only(protocol_file, tmp_path):
    command = [sys.executable, "-m", "s2ef.levers", "--protocol", str(protocol_file)]
    command += ["--results", str(tmp_path / "levers")]
    settings = ["train", "narrow", "{cutoff_upper: 4.0}", "--row", "acac", "--epochs", "1"]
    for arguments in (settings, ["table"]):
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, timeout=300, cwd=ROOT / "scripts"
        )
        assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "levers/acac__narrow.json").read_text())
    assert result["changes"] == {"cutoff_upper": 4.0} and "test" not in result
    assert result["validation"]["conformations"] == 4
    assert "| acac (eV) | 1 | narrow | cutoff_upper: 4.0 |" in done.stdout


@pytest.mark.parametrize(("energy_loss", "batch_size"), [("squares", 4), ("relative_norm", 1)])
def test_resumed_training_ends_at_the_same_weights(energy_loss, batch_size, protocol_file, s2ef, tmp_path):
    protocol = s2ef["protocol"].load_protocol(protocol_file)
    row = protocol.rows["acac"]
    structures = s2ef["structures"].load_structures(row)
    training = s2ef["training"]

    def make(checkpoint=None, learning_rate=1e-3):
        settings = {**protocol.settings("acac", "dkmp-c"), "energy_loss": energy_loss}
        budget = training.Budget(epochs=3)
        return training.Training(
            "dkmp-c", settings, learning_rate, structures, batch_size, budget, checkpoint
        )

    whole = make()
    whole.run()
    checkpoint = tmp_path / "checkpoint.pt"
    first = make(checkpoint)
    batches = s2ef["structures"].shuffled_batches(12, batch_size, 1, 0)
    for _ in range(2):
        first.train_step(next(batches))
    first.save()
    second = make(checkpoint)
    assert second.progress.step == 2
    second.run()
    assert second.progress.step == 36 // batch_size
    for name, weight in whole.averaged.state_dict().items():
        torch.testing.assert_close(second.averaged.state_dict()[name], weight, rtol=0, atol=1e-6)
    with pytest.raises(SystemExit, match="other settings"):
        make(checkpoint, learning_rate=2e-3)


def test_unusually_long_gradients_are_cut(protocol_file, s2ef):
    protocol = s2ef["protocol"].load_protocol(protocol_file)
    row = protocol.rows["acac"]
    structures = s2ef["structures"].load_structures(row)
    training = s2ef["training"]

    def step(usual, outlier):
        """Length of the gradient that the optimiser got."""
        settings = {**protocol.settings("acac", "dkmp-c"), "gradient_outlier": outlier}
        one = training.Training("dkmp-c", settings, 1e-3, structures, 4, training.Budget(epochs=1))
        one.progress.gradient_norm = usual
        one.train_step(torch.arange(4))
        gradients = [p.grad for p in one.model.parameters() if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients).item()

    whole = step(None, 5.0)
    assert step(1e-3 * whole, 5.0) == pytest.approx(5e-3 * whole, rel=1e-3)
    for usual, outlier in ((whole, 5.0), (1e-3 * whole, None)):
        assert step(usual, outlier) == pytest.approx(whole, rel=1e-6)


def test_the_optimizer_is_the_protocols(protocol_file, s2ef):
    protocol = s2ef["protocol"].load_protocol(protocol_file)
    row, training = protocol.rows["acac"], s2ef["training"]
    structures = s2ef["structures"].load_structures(row)
    settings = protocol.settings("acac", "graph-network")

    def make(**changes):
        budget = training.Budget(epochs=1)
        return training.Training("graph-network", {**settings, **changes}, 1e-3, structures, 4, budget)

    assert type(make().optimizer).__name__ == "AdamW"
    muon = make(optimizer="muon")
    assert type(muon.optimizer).__name__ == "MuonWithAdamW"
    muon.run()
    assert 0 < muon.progress.losses[-1] < 100
    with pytest.raises(ValueError, match="'sgd' was given"):
        make(optimizer="sgd")


def test_the_loss_of_forces_is_the_protocols(protocol_file, s2ef):
    protocol = s2ef["protocol"].load_protocol(protocol_file)
    row, training = protocol.rows["acac"], s2ef["training"]
    structures = s2ef["structures"].load_structures(row)
    settings = {**protocol.settings("acac", "graph-network"), "energy_weight_per_atom": [1e-9, 2e-9]}

    def first_loss(**changes):
        budget = training.Budget(epochs=1)
        one = training.Training("graph-network", {**settings, **changes}, 1e-3, structures, 4, budget)
        _, forces = one.model(*one.data.batch(torch.arange(4)))
        errors = forces.detach() - one.scaling.forces(one.data.forces[:4].reshape(-1, 3))
        return one.train_step(torch.arange(4)), errors

    loss, errors = first_loss()
    assert loss == pytest.approx(settings["force_weight"] * errors.square().mean().item(), rel=1e-5)
    loss, errors = first_loss(force_loss="norm")
    assert loss == pytest.approx(settings["force_weight"] * errors.norm(dim=1).mean().item(), rel=1e-5)
    with pytest.raises(ValueError, match="'l1' was given"):
        first_loss(force_loss="l1")


def test_a_single_learning_rate_needs_no_search(protocol_file, tmp_path):
    values = yaml.safe_load(protocol_file.read_text())
    values["rows"]["acac"]["common"]["learning_rates"] = [2.0e-3]
    protocol = tmp_path / "protocol.yaml"
    protocol.write_text(yaml.safe_dump(values))
    results = tmp_path / "results"
    arguments = (
        "train",
        "--work",
        str(tmp_path / "work"),
        "--models",
        "graph-network",
        "--budgets",
        "epochs",
    )
    done = reproduce(protocol, results, *arguments)
    assert done.returncode == 0, done.stderr
    assert json.loads((results / "acac__graph-network__epochs.json").read_text())["learning_rate"] == 2e-3
    assert not (results / "acac__graph-network__learning_rate.json").exists()


def test_a_search_over_all_epochs_is_the_training(protocol_file, tmp_path):
    values = yaml.safe_load(protocol_file.read_text())
    values["rows"]["acac"]["common"].update(learning_rates=[1.0e-3, 2.0e-3], learning_rate_search_epochs=2)
    protocol, results, work = tmp_path / "protocol.yaml", tmp_path / "results", tmp_path / "work"
    protocol.write_text(yaml.safe_dump(values))
    arguments = ("train", "--work", str(work), "--models", "graph-network", "--budgets", "epochs")
    done = reproduce(protocol, results, *arguments)
    assert done.returncode == 0, done.stderr
    result = json.loads((results / "acac__graph-network__epochs.json").read_text())
    search = json.loads((results / "acac__graph-network__learning_rate.json").read_text())
    best = result["learning_rate"]
    assert result["validation"]["force_mae"] == min(search["validation_force_mae"].values())
    searched = torch.load(work / f"acac__graph-network__rate_{best}__2_epochs.pt", weights_only=True)
    assert result["cpu_seconds"] == searched["progress"]["cpu_seconds"]
    assert "resumed at step 6" in done.stdout


def test_models_of_one_seed_start_at_the_mean_energy(protocol_file, s2ef):
    """Where an untrained model's energies lie must not decide the comparison."""
    protocol = s2ef["protocol"].load_protocol(protocol_file)
    structures = s2ef["structures"].load_structures(protocol.rows["acac"])
    training = s2ef["training"]
    for model in ("dkmp-c", "graph-network", "equivariant-transformer"):
        settings = protocol.settings("acac", model)
        run = training.Training(model, settings, 1e-3, structures, 4, training.Budget(epochs=1))
        energies, _ = run.model(*structures["train"].batch(torch.arange(4)))
        expected = run.scaling.energies(structures["train"].energy[:4]).mean()
        assert energies.mean().item() == pytest.approx(expected.item(), abs=1e-3)


def test_relative_energies_leave_the_mean_error_to_the_end(protocol_file, s2ef, tmp_path):
    protocol = s2ef["protocol"].load_protocol(protocol_file)
    structures = s2ef["structures"].load_structures(protocol.rows["acac"])
    training = s2ef["training"]
    settings = {**protocol.settings("acac", "dkmp-c"), "energy_loss": "relative"}

    def mean_error(run):
        energies, _ = run.predict(structures["train"])
        return float((energies - structures["train"].energy).mean())

    arguments = ("dkmp-c", settings, 1e-3, structures, 4, training.Budget(epochs=2), tmp_path / "run.pt")
    run = training.Training(*arguments)
    error = torch.tensor([0.5, -1.0, 2.0])
    assert run._energy_loss(error + 7.0).item() == pytest.approx(run._energy_loss(error).item())
    assert run._energy_loss(error[:1]).item() == 0.0
    # A batch of one: relative to the running mean, which the first one starts, and which is saved.
    assert run._energy_loss(error[2:]).item() == pytest.approx((2.0 - 0.5) ** 2)
    assert run.progress.energy_error.item() == pytest.approx(0.5 + 0.03 * 1.5)
    run.averaged.module.shift += 1.0
    run.run()
    assert mean_error(run) == pytest.approx(0.0, abs=1e-4)
    spent = run.progress.cpu_seconds
    again = training.Training(*arguments)
    again.run()
    assert again.progress.cpu_seconds == spent
    assert again.progress.energy_error.item() == run.progress.energy_error.item()
    assert mean_error(again) == pytest.approx(0.0, abs=1e-4)


def test_a_training_that_collapses_is_done_anew_at_half_the_rate(protocol_file, s2ef, tmp_path, monkeypatch):
    protocol = s2ef["protocol"].load_protocol(protocol_file)
    structures = s2ef["structures"].load_structures(protocol.rows["acac"])
    training = s2ef["training"]
    train_step = training.Training.train_step

    def collapsing(self, indices):
        loss = train_step(self, indices)
        return 1000.0 * loss if self.learning_rate > 1e-3 and self.progress.step > 3 else loss

    monkeypatch.setattr(training.Training, "train_step", collapsing)
    arguments = (
        "dkmp-c",
        protocol.settings("acac", "dkmp-c"),
        3e-3,
        structures,
        4,
        training.Budget(epochs=2),
    )
    checkpoint = tmp_path / "work/acac.pt"
    assert training.train_to_the_end(*arguments, checkpoint).learning_rate == 0.75e-3
    marks = [path.name for path in sorted(checkpoint.parent.glob("*.diverged"))]
    assert marks == ["acac.0.0015.diverged", "acac.0.003.diverged"]

    # Called again: what diverged is not repeated, what is done stays done.
    monkeypatch.setattr(training.Training, "train_step", None)
    assert training.train_to_the_end(*arguments, checkpoint).epochs == 2.0
