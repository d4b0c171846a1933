"""Dynamics at constant energy: conservation, the two programs against each other, kills and continuations."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from dkmp_plugin import cli
from dkmp_plugin.evaluation.columns import read_columns
from dkmp_plugin.evaluation.molecular_dynamics import molecular_dynamics
from dkmp_plugin.evaluation.nve import run_nve, simulate_nve
from dkmp_plugin.evaluation.nve_summary import summarise
from dkmp_plugin.evaluation.verlet import OpenMMVerlet
from dkmp_plugin.files import only_here
from dkmp_plugin.simulation.stack import prepare_backend
from tests.conftest import ROOT, ethanol
from tests.simulation.conftest import checkpoint, model_path

__all__ = ["checkpoint", "model_path"]
BACKEND = prepare_backend()  # torch before openmm

import openmm  # noqa: E402
from openmm import app, unit  # noqa: E402


@pytest.fixture(scope="module")
def structure(tmp_path_factory):
    """Ethanol as a PDB file."""
    z, pos = ethanol()
    topology = app.Topology()
    residue = topology.addResidue("EOH", topology.addChain())
    for index, number in enumerate(z.tolist()):
        element = app.Element.getByAtomicNumber(number)
        topology.addAtom(f"{element.symbol}{index}", element, residue)
    path = tmp_path_factory.mktemp("structure") / "ethanol.pdb"
    with path.open("w") as file:
        app.PDBFile.writeFile(topology, pos.numpy() * unit.angstrom, file)
    return path


def run(model_path, structure, folder, engine="openmm", duration=0.01, seed=1):
    """Short steps and many records, so that 100 steps are enough for a drift."""
    dynamics = molecular_dynamics(model_path, structure, engine, time_step=0.1)
    intervals = {"record_interval": 5, "save_interval": 50}
    settings = {"duration": duration, "time_step": 0.1, "equilibration": 0.002, "seed": seed, **intervals}
    return run_nve(dynamics, folder, {"engine": engine, "seed": seed}, **settings)


def test_devices(model_path, structure, tmp_path, capsys, monkeypatch):
    """ASE and PythonForce take one; elsewhere the platform decides, or the System."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    command = ["nve", str(model_path), str(structure), "--output", str(tmp_path / "run"), "--device", "cuda"]
    assert cli.main([*command, "--engine", "ase"]) == 2
    assert "torch sees no GPU" in capsys.readouterr().err
    assert cli.main(command) == 2
    backend_says = {"torchforce": "the platform decides", "pythonforce": "torch sees no GPU"}
    assert backend_says[BACKEND] in capsys.readouterr().err
    for potential in ("amber14-obc2", "system.xml"):
        with pytest.raises(ValueError, match=r"device: 'cuda' was given, but for .* platform decides"):
            molecular_dynamics(potential, structure, device="cuda")
    assert not (tmp_path / "run").exists()


def energies(folder):
    return read_columns(folder / "energies.csv")["total_energy_mev"]


@pytest.mark.parametrize("engine", ["openmm", "ase"])
def test_energy_is_conserved_and_everything_is_written(model_path, structure, tmp_path, engine):
    drifts = run(model_path, structure, tmp_path, engine=engine)
    columns = read_columns(tmp_path / "energies.csv")
    assert len(columns["step"]) == 21
    assert np.ptp(columns["potential_energy_mev"]) > 0.2
    assert np.ptp(columns["total_energy_mev"]) < 0.02 * np.ptp(columns["potential_energy_mev"])
    assert drifts.total.fluctuation < 0.01
    assert drifts.shadow.fluctuation < 0.1 * drifts.total.fluctuation
    assert {path.name for path in tmp_path.iterdir()} == {
        ".lock",
        "before_largest_change.npz",
        "drift.json",
        "energies.csv",
        "energies.png",
        "settings.json",
        "state.npz",
    }


def test_openmm_and_ase_agree(model_path, structure):
    """The same start, the same integrator: the same energies after 100 steps."""
    both = [molecular_dynamics(model_path, structure, engine, time_step=0.1) for engine in ("openmm", "ase")]
    positions = ethanol()[1].numpy()
    velocities = np.random.default_rng(0).normal(scale=5.0, size=positions.shape)  # Å/ps
    from ase import units

    both[0].set_state(positions / 10, velocities / 10)
    both[1].set_state(positions, velocities / (1000.0 * units.fs))
    start = [dynamics.energies() for dynamics in both]
    for dynamics in both:
        dynamics.step(100)
    end = [dynamics.energies() for dynamics in both]
    np.testing.assert_allclose(start[0], start[1], rtol=1e-4)
    change = np.subtract(end, start)
    assert np.abs(change).min() > 0.1
    # Masses and physical constants differ slightly between the two programs.
    np.testing.assert_allclose(change[0], change[1], rtol=1e-3)


@pytest.mark.parametrize("engine", ["openmm", "ase"])
def test_a_continued_run_equals_an_uninterrupted_one(model_path, structure, tmp_path, engine):
    run(model_path, structure, tmp_path / "whole", engine, 0.018)
    run(model_path, structure, tmp_path / "parts", engine, 0.012)
    log = tmp_path / "parts/energies.csv"
    # What a kill leaves behind: rows after the saved state, the last one cut short.
    log.write_text(log.read_text() + "125,0.0125,1,2,3\n13")
    run(model_path, structure, tmp_path / "parts", engine, 0.018)
    np.testing.assert_allclose(energies(tmp_path / "parts"), energies(tmp_path / "whole"), atol=1e-7)
    assert len(energies(tmp_path / "parts")) == 37


@pytest.mark.parametrize("durations", [(0.01,), (0.01, 0.016)])
def test_the_state_before_the_largest_change_is_kept(model_path, structure, tmp_path, durations):
    for duration in durations:
        drifts = run(model_path, structure, tmp_path, duration=duration)
    columns = read_columns(tmp_path / "energies.csv")
    row = np.abs(np.diff(columns["shadow_energy_mev"])).argmax()
    assert drifts.shadow.largest_change_time == columns["time_ps"][row]
    dynamics = molecular_dynamics(model_path, structure, time_step=0.1)
    with np.load(tmp_path / "before_largest_change.npz") as state:
        assert state["step"] == columns["step"][row]
        dynamics.set_state(state["positions"], state["velocities"])
    assert dynamics.energies()[0] == pytest.approx(columns["potential_energy_mev"][row], abs=1e-6)


def test_the_slope_of_a_force_between_two_atoms(model_path, structure, tmp_path):
    """scripts/scan_pair.py against second differences of the energy."""
    from ase import Atoms

    from dkmp_plugin.simulation import DKMPCalculator

    z, positions = (part.numpy() for part in ethanol())
    np.savez(tmp_path / "state.npz", positions=positions / 10)
    command = [sys.executable, str(ROOT / "scripts/scan_pair.py"), str(structure)]
    command += [str(tmp_path / "state.npz"), "8", "2", str(model_path), "--range", "0.8", "1.4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rms, _ = done.stdout.splitlines()[-1].removeprefix(f"{model_path}: ").split(", ", 1)
    line = positions[8] - positions[2]
    atoms = Atoms(z, positions, calculator=DKMPCalculator(model_path))
    energies = []
    for distance in np.arange(0.79, 1.415, 0.01):
        atoms.positions[8] = positions[2] + distance * line / np.linalg.norm(line)
        energies.append(atoms.get_potential_energy())
    expected = np.sqrt(np.mean((np.diff(energies, 2) / 0.01**2) ** 2))
    assert float(rms) == pytest.approx(expected, rel=0.05)


def test_a_killed_run_continues(model_path, structure, tmp_path):
    """kill -9 in the middle, then the same command again."""
    options = ["nve", str(model_path), str(structure), "--output", str(tmp_path / "killed")]
    options += ["--time-step", "0.1", "--equilibration", "0.002", "--duration"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    program = "import sys; from dkmp_plugin.cli import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", program, *options, "100"], env=environment)
    state = tmp_path / "killed/state.npz"
    deadline = time.time() + 120
    try:
        while time.time() < deadline and process.poll() is None:
            if state.is_file() and np.load(state)["step"] >= 400:
                break
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    saved = int(np.load(state)["step"])
    assert saved >= 400
    duration = (saved + 600) * 1e-4
    assert cli.main([*options, str(duration)]) == 0
    whole = {"time_step": 0.1, "equilibration": 0.002, "duration": duration}
    simulate_nve(model_path, structure, tmp_path / "whole", **whole)
    # One program start after another rounds alike up to the order of sums.
    np.testing.assert_allclose(energies(tmp_path / "killed"), energies(tmp_path / "whole"), atol=1e-4)


@pytest.mark.parametrize("engine", ["openmm", "ase"])
def test_a_box_in_the_file_does_not_make_the_run_periodic(model_path, structure, tmp_path, engine):
    boxed = tmp_path / "boxed.pdb"
    record = "CRYST1    5.000    5.000    5.000  90.00  90.00  90.00 P 1           1\n"
    boxed.write_text(record + structure.read_text())
    potentials = [molecular_dynamics(model_path, path, engine).energies()[0] for path in (boxed, structure)]
    assert potentials[0] == pytest.approx(potentials[1], abs=1e-6)


def test_another_structure_under_the_same_name_is_another_run(model_path, structure, tmp_path):
    copy = tmp_path / "ethanol.pdb"
    copy.write_text(structure.read_text())
    options = {"time_step": 0.1, "equilibration": 0.002, "duration": 0.08, "engine": "ase"}
    simulate_nve(model_path, copy, tmp_path / "run", **options)
    settings = tmp_path / "run/settings.json"
    copy.write_text(structure.read_text().replace("2.300", "2.350"))
    assert copy.read_text() != structure.read_text()
    with pytest.raises(ValueError, match="other settings"):
        simulate_nve(model_path, copy, tmp_path / "run", **options)
    # Runs begun before structures were hashed go on.
    known = json.loads(settings.read_text())
    del known["structure_sha256"]
    settings.write_text(json.dumps(known))
    simulate_nve(model_path, structure, tmp_path / "run", **{**options, "duration": 0.084})
    with pytest.raises(ValueError, match="other settings"):
        simulate_nve(model_path, structure, tmp_path / "run", seed=7, **options)


def test_an_extended_run_saves_its_state(model_path, structure, tmp_path):
    """From 110 steps on, which are no multiple of any interval."""
    run(model_path, structure, tmp_path, engine="ase", duration=0.011)
    dynamics = molecular_dynamics(model_path, structure, "ase", time_step=0.1)
    saved = []
    run_nve(
        dynamics,
        tmp_path,
        {"engine": "ase", "seed": 1},
        duration=0.03,
        time_step=0.1,
        record_interval=20,
        save_interval=40,
        progress=lambda step: saved.append((step, int(np.load(tmp_path / "state.npz")["step"]))),
    )
    assert len(saved) == 10
    assert max(step - at for step, at in saved) < 40


def test_a_run_of_another_version_is_not_continued(model_path, structure, tmp_path):
    run(model_path, structure, tmp_path, engine="ase")
    log = tmp_path / "energies.csv"
    log.write_text(log.read_text().replace(",shadow_energy_mev", ""))
    with pytest.raises(ValueError, match="another version wrote it"):
        run(model_path, structure, tmp_path, engine="ase", duration=0.02)
    with pytest.raises(ValueError, match="another version wrote it"):
        summarise(tmp_path, 9)


def test_another_run_in_the_same_folder_is_refused(model_path, structure, tmp_path):
    run(model_path, structure, tmp_path, engine="ase")
    before = (tmp_path / "energies.csv").read_bytes()
    with pytest.raises(ValueError, match=r"other settings \(settings\.json: seed 1, now 2\)"):
        run(model_path, structure, tmp_path, engine="ase", seed=2)
    assert (tmp_path / "energies.csv").read_bytes() == before


def test_two_processes_do_not_write_to_one_run(model_path, structure, tmp_path):
    run(model_path, structure, tmp_path, engine="ase")
    before = (tmp_path / "energies.csv").read_bytes()
    with only_here(tmp_path), pytest.raises(RuntimeError, match="another process works in"):
        run(model_path, structure, tmp_path, engine="ase", duration=0.02)
    assert (tmp_path / "energies.csv").read_bytes() == before


def test_a_damaged_run_is_not_continued(model_path, structure, tmp_path):
    run(model_path, structure, tmp_path, engine="ase")
    (tmp_path / "energies.csv").unlink()
    with pytest.raises(ValueError, match=r"not its energies, energies\.csv; give another folder"):
        run(model_path, structure, tmp_path, engine="ase", duration=0.02)
    state = tmp_path / "state.npz"
    for damaged in (state.read_bytes()[:-100], b"garbage", b""):
        state.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"state\.npz is damaged"):
            run(model_path, structure, tmp_path, engine="ase", duration=0.02)


@pytest.mark.parametrize(("stiffness", "outcome"), [(1e9, r"blew up|NaN"), (2.9e4, "blew up after 0.4 ps")])
def test_a_potential_that_blows_up_is_an_error(tmp_path, stiffness, outcome):
    """A spring too stiff for the time step: energies become infinite, or just absurd."""
    system = openmm.System()
    bond = openmm.HarmonicBondForce()
    for _ in range(2):
        system.addParticle(1.0)
    bond.addBond(0, 1, 0.1, stiffness)
    system.addForce(bond)
    dynamics = OpenMMVerlet(system, np.array([[0.0, 0, 0], [0.11, 0, 0]]), time_step=10.0)
    with pytest.raises((ValueError, openmm.OpenMMException), match=outcome):
        run_nve(dynamics, tmp_path, {}, duration=100.0, time_step=10.0, equilibration=0.0)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("engine", ["openmm", "ase"])
def test_a_seed_is_the_same_start_every_time(model_path, structure, engine, seed):
    """OpenMM itself takes 0 for another seed at every call."""
    starts = []
    for chosen in (seed, seed, seed + 1):
        dynamics = molecular_dynamics(model_path, structure, engine, time_step=0.1)
        dynamics.equilibrate(300.0, 0.002, chosen)
        starts.append(dynamics.get_state()[1])
    np.testing.assert_array_equal(starts[0], starts[1])
    assert np.abs(starts[0] - starts[2]).max() > 0.0


def test_bad_input(model_path, structure, tmp_path, capsys):
    with pytest.raises(ValueError, match="engine"):
        molecular_dynamics(model_path, structure, "gromacs")
    with pytest.raises(ValueError, match="runs in OpenMM only"):
        molecular_dynamics("amber14-obc2", structure, "ase")
    assert cli.main(["nve", str(model_path), "none.pdb", "--output", str(tmp_path)]) == 2
    assert "none.pdb: no such file" in capsys.readouterr().err
    system = openmm.System()
    system.addParticle(1.0)
    system.addParticle(1.0)
    system.addConstraint(0, 1, 0.1)
    with pytest.raises(ValueError, match="constraints"):
        OpenMMVerlet(system, np.zeros((2, 3)), 0.5)
    system.removeConstraint(0)
    system.addParticle(0.0)
    system.setVirtualSite(2, openmm.TwoParticleAverageSite(0, 1, 0.5, 0.5))
    with pytest.raises(ValueError, match="the System has 1 virtual sites"):
        OpenMMVerlet(system, np.zeros((3, 3)), 0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--time-step", "0"], "time_step: 0.0 was given"),
        (["--time-step", "nan"], "time_step: nan was given"),
        (["--duration", "-1"], "duration: -1.0 was given"),
        (["--duration", "0.2"], "duration: 0.2 ps was given, at least 0.38 ps is expected"),
        (["--equilibration", "-1"], "equilibration: -1.0 was given"),
        (["--temperature", "-300"], "temperature: -300.0 was given"),
        (["--seed", "-1"], "seed: -1 was given, a whole number from 0 to 2147483647 is expected"),
        (["--seed", "-1", "--engine", "ase"], "seed: -1 was given, a whole number from 0 to 2147483647"),
        (["--seed", "2147483648"], "seed: 2147483648 was given"),
        (["--platform", "Nope"], "platform: 'Nope' was given, one of Reference"),
        (["--platform", "CPU", "--engine", "ase"], "platform: 'CPU' was given, but ASE has no platforms"),
    ],
)
def test_impossible_options_of_the_command(model_path, structure, tmp_path, capsys, options, message):
    command = ["nve", str(model_path), str(structure), "--output", str(tmp_path / "run"), *options]
    assert cli.main(command) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_too_short_for_a_drift_is_refused_before_anything_is_loaded(structure, tmp_path):
    with pytest.raises(ValueError, match=r"duration: 0\.2 ps was given"):
        simulate_nve("no model", structure, tmp_path / "run", duration=0.2)


@pytest.mark.parametrize("engine", ["openmm", "ase"])
@pytest.mark.parametrize("content", ["hello", "", "ATOM      1  C"])
def test_a_file_that_is_no_structure(model_path, tmp_path, capsys, engine, content):
    garbage = tmp_path / "garbage.pdb"
    garbage.write_text(content)
    command = ["nve", str(model_path), str(garbage), "--output", str(tmp_path / "run"), "--engine", engine]
    assert cli.main(command) == 2
    assert "garbage.pdb cannot be read as a PDB file" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:WARNING. duplicate atom")
def test_names_that_repeat_are_not_a_smaller_molecule(model_path, tmp_path, capsys):
    """ASE calls all atoms C, H or O; OpenMM takes the first of each name."""
    import ase
    import ase.io

    z, pos = ethanol()
    ase.io.write(tmp_path / "ase.pdb", ase.Atoms(z.numpy(), pos.numpy()))
    command = ["nve", str(model_path), str(tmp_path / "ase.pdb"), "--output", str(tmp_path / "run")]
    assert cli.main(command) == 2
    assert "ase.pdb has 9 atoms, but OpenMM reads 3" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_frozen_atoms_have_no_kick():
    system = openmm.System()
    bond = openmm.HarmonicBondForce()
    for mass in (0.0, 12.0):
        system.addParticle(mass)
    bond.addBond(0, 1, 0.1, 1000.0)
    system.addForce(bond)
    dynamics = OpenMMVerlet(system, np.array([[0.0, 0.0, 0.0], [0.11, 0.0, 0.0]]), 0.5)
    # h^2/2 F^2/m with F = 10 kJ/mol/nm
    assert dynamics.kick_energy() == pytest.approx(
        0.5 * 0.0005**2 * 10.0**2 / 12.0 * 1000.0 / 96.485, rel=1e-4
    )


def test_a_system_of_another_size(structure, tmp_path, capsys):
    system = openmm.System()
    system.addParticle(1.0)
    (tmp_path / "system.xml").write_text(openmm.XmlSerializer.serialize(system))
    command = ["nve", str(tmp_path / "system.xml"), str(structure), "--output", str(tmp_path / "run")]
    assert cli.main(command) == 2
    assert "of 9 atoms were given, the System has 1" in capsys.readouterr().err


def test_errors_of_openmm_are_messages(structure, tmp_path, capsys):
    """A System that OpenMM refuses only when it makes a Context: a bond of a particle that is not there."""
    system = openmm.System()
    for _ in range(9):
        system.addParticle(1.0)
    bond = openmm.HarmonicBondForce()
    bond.addBond(0, 20, 0.1, 1.0)
    system.addForce(bond)
    (tmp_path / "system.xml").write_text(openmm.XmlSerializer.serialize(system))
    command = ["nve", str(tmp_path / "system.xml"), str(structure), "--output", str(tmp_path / "run")]
    assert cli.main(command) == 2
    assert "HarmonicBondForce" in capsys.readouterr().err


def test_classical_force_field_runs_in_the_same_integrator(tmp_path):
    from tests.conftest import shared_data

    path = shared_data() / "chignolin/chignolin.pdb"
    if not path.is_file():
        pytest.skip(f"{path} is absent; set DKMP_DATA to the folder of the shared data")
    dynamics = molecular_dynamics("amber14-obc2", path, time_step=0.5)
    dynamics.equilibrate(300.0, 0.02, 1)
    potential, kinetic = dynamics.energies()
    dynamics.step(20)
    later_potential, later_kinetic = dynamics.energies()
    assert abs(later_potential - potential) > 1.0
    assert later_potential + later_kinetic == pytest.approx(potential + kinetic, abs=0.1 * 166)
