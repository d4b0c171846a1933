"""The checks of scripts/gpu_smoke.py on the CPU, so that on a GPU they fail for one reason only."""

import sys

import pytest
import torch

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def gpu():
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from gpu import models, report, simulation, training
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    return {"models": models, "report": report, "simulation": simulation, "training": training}


def test_potentials_and_propagators(gpu):
    models = gpu["models"]
    numbers, positions = models.grid_structure(40, 2.15)
    assert "40 atoms, forces to" in models.check_potential(
        models.random_potential(), numbers, positions, "cpu"
    )
    for frame in ("principal", "first"):
        model = models.random_propagator(canonical_frame=frame)
        numbers, positions = models.grid_structure(60, 2.15)
        assert "repeated bit for bit" in models.check_propagator(model, numbers, positions, "cpu")


def test_wrong_forces_fail(gpu, monkeypatch):
    models = gpu["models"]
    real = models.energy_and_gradient

    def wrong(module, positions, box):
        energy, gradient = real(module, positions, box)
        return energy, gradient * (1.01 if positions.dtype == torch.float32 else 1.0)

    monkeypatch.setattr(models, "energy_and_gradient", wrong)
    with pytest.raises(AssertionError, match=r"relative error 1\.0e-02, allowed"):
        models.check_potential(models.random_potential(), *models.grid_structure(20, 2.15), "cpu")


def test_ase_and_training(gpu):
    assert "relative error 0" in gpu["simulation"].check_ase("cpu")
    assert "agree with the CPU's to 0e+00" in gpu["training"].check_training("cpu")


def test_python_force(gpu):
    pytest.importorskip("openmmtools")
    simulation = gpu["simulation"]
    try:
        assert "2621 atoms on CPU: eager" in simulation.check_python_force("cpu", "CPU", 4)
    except gpu["report"].NotHereError as error:
        assert "TorchForce" in str(error)


def test_what_is_not_here_is_skipped(gpu, capsys):
    report = gpu["report"].Report()

    def step():
        raise gpu["report"].NotHereError("no such thing")

    report.step("something", step)
    assert (report.skipped, report.failed) == (["something"], [])
    assert "skipped  something: no such thing" in capsys.readouterr().out


def test_benchmark_of_a_gpu_runs_on_the_cpu(capsys):
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import benchmark_gpu
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    benchmark_gpu.main(
        ["--device", "cpu", "--tables", "kernels", "propagator", "--atoms", "40", "--rounds", "1"]
    )
    lines = capsys.readouterr().out.splitlines()
    assert {"dilated_message with gradients", "prediction"} <= {line.split("  ")[0] for line in lines}
