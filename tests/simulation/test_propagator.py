"""DKMP^R inside OpenMM equals the rollout in PyTorch, on every platform; wrong uses are refused."""

import json

import mdtraj
import numpy as np
import pytest
import torch

from dkmp_plugin.evaluation.rollout import FramePredictor, load_displacement_model, roll_out
from dkmp_plugin.simulation import DKMPPropagator, export_propagator, load_propagator, load_system
from dkmp_plugin.simulation.stack import installed_stack
from tests.datasets.trajectory_fixtures import GLYCINES, topology
from tests.displacement_checkpoint import write_checkpoint

NUMBERS = np.array([7, 6, 6, 8] * 2)
pytestmark = pytest.mark.skipif(
    not installed_stack().torchforce, reason="the propagator is a TorchForce: it needs the torchforce stack"
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("propagator") / "epoch=0.ckpt")


@pytest.fixture(scope="module")
def model_path(checkpoint):
    path = checkpoint.parent / "propagator.pt"
    info = export_propagator(checkpoint, path)
    assert (info.elements, info.num_neighbors, info.dataset["lag"]) == ([6, 7, 8], 4, 2)
    return path


@pytest.fixture(scope="module")
def expected(checkpoint):
    return roll_out(FramePredictor(load_displacement_model(checkpoint)[0], NUMBERS), GLYCINES, 4)


def positions(simulation):
    state = simulation.context.getState(positions=True, velocities=True, energy=True)
    assert np.abs(state.getVelocities(asNumpy=True)._value).max() == 0
    assert state.getPotentialEnergy()._value == 0
    return 10 * state.getPositions(asNumpy=True)._value


@pytest.mark.parametrize("platform_name", ["Reference", "CPU", "OpenCL"])
def test_equals_the_rollout(model_path, expected, platform_name):
    import openmm

    propagator = DKMPPropagator(model_path, topology().to_openmm(), GLYCINES / 10)
    try:
        platform = openmm.Platform.getPlatformByName(platform_name)
        simulation = propagator.create_simulation(platform)
    except openmm.OpenMMException as error:
        pytest.skip(f"this machine has no {platform_name} platform: {error}")
    for step in range(1, 5):
        simulation.step(1)
        assert np.allclose(positions(simulation), expected[step], atol=2e-5)


def test_a_checkpoint_keeps_its_precision(tmp_path):
    path = write_checkpoint(tmp_path / "double.ckpt", precision=64)
    propagator = DKMPPropagator(path, topology().to_openmm(), GLYCINES / 10)
    assert propagator.info.dtype == "float64"
    simulation = propagator.create_simulation()
    simulation.step(1)
    predicted = FramePredictor(load_displacement_model(path)[0], NUMBERS)(GLYCINES)
    assert np.allclose(positions(simulation), predicted, atol=2e-5)


@pytest.mark.parametrize("canonical_frame", ["first", "mean"])
@pytest.mark.parametrize("memory", [False, True])
def test_reference_and_memory(tmp_path, canonical_frame, memory):
    """The integrator keeps what the network cannot see: the displacement since the frame before."""
    path = write_checkpoint(tmp_path / "epoch=0.ckpt", canonical_frame=canonical_frame, memory=memory)
    frames = roll_out(FramePredictor(load_displacement_model(path)[0], NUMBERS), GLYCINES, 4)
    predictor = FramePredictor(load_displacement_model(path)[0], NUMBERS)
    forgetful = roll_out(lambda frame, previous: predictor(frame), GLYCINES, 4)
    assert memory != np.allclose(frames[4], forgetful[4], atol=1e-3)
    export_propagator(path, tmp_path / "propagator.pt")
    propagator = DKMPPropagator(tmp_path / "propagator.pt", topology().to_openmm(), GLYCINES / 10)
    simulation = propagator.create_simulation()
    for step in range(1, 5):
        simulation.step(1)
        assert np.allclose(positions(simulation), frames[step], atol=5e-5)


def test_export_does_not_overwrite_the_checkpoint(tmp_path):
    path = write_checkpoint(tmp_path / "epoch=0.ckpt")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="would be overwritten"):
        export_propagator(path, path)
    assert path.read_bytes() == before


def test_checkpoint_serves_as_well(checkpoint, expected):
    simulation = DKMPPropagator(checkpoint, topology().to_openmm(), GLYCINES / 10).create_simulation()
    simulation.step(2)
    assert np.allclose(positions(simulation), expected[2], atol=2e-5)


def test_atoms_that_are_not_selected_stay(model_path, expected):
    """A selection in any order, embedded in a larger system with elements the model does not know."""
    top = topology()
    residue = top.add_residue("CL", top.add_chain())
    top.add_atom("CL", mdtraj.element.chlorine, residue)
    start = np.concatenate([GLYCINES, [[50.0, 0, 0]]]) / 10
    simulation = DKMPPropagator(model_path, top.to_openmm(), start, atoms=range(8)).create_simulation()
    simulation.step(3)
    assert np.allclose(positions(simulation)[:8], expected[3], atol=2e-5)
    assert np.allclose(positions(simulation)[8], [50.0, 0, 0])
    with pytest.raises(ValueError, match="holds Cl,"):
        DKMPPropagator(model_path, top.to_openmm(), start)


def test_periodic_box_of_the_topology_does_not_wrap(model_path, expected, tmp_path):
    """Atoms outside of the topology's box stay where the model puts them, also in reporters' files."""
    from openmm import unit
    from openmm.app import DCDReporter

    boxed = topology().to_openmm()
    boxed.setUnitCellDimensions((0.4, 0.4, 0.4) * unit.nanometer)
    simulation = DKMPPropagator(model_path, boxed, GLYCINES / 10 * unit.nanometer).create_simulation()
    simulation.reporters.append(DCDReporter(str(tmp_path / "out.dcd"), 1))
    simulation.step(2)
    simulation.reporters.clear()
    written = mdtraj.load(str(tmp_path / "out.dcd"), top=topology())
    assert np.allclose(10 * written.xyz, expected[1:3], atol=1e-4)


def test_reranking_follows_the_structure(checkpoint, model_path):
    predictor = FramePredictor(load_displacement_model(checkpoint)[0], NUMBERS, rerank_interval=1)
    spread = 3 * GLYCINES + np.random.default_rng(0).normal(size=GLYCINES.shape)
    frames = roll_out(predictor, spread, 3)
    propagator = DKMPPropagator(model_path, topology().to_openmm(), spread / 10, rerank=True)
    simulation = propagator.create_simulation()
    simulation.step(3)
    assert np.allclose(positions(simulation), frames[3], atol=5e-5)


def test_dkmp_info_says_what_it_is(model_path, checkpoint, capsys):
    from dkmp_plugin.cli import main

    for path in (model_path, checkpoint):
        assert main(["info", str(path)]) == 0
        said = json.loads(capsys.readouterr().out)
        assert (said["model"], said["elements"], said["dataset"]["lag"]) == ("dkmp-r", [6, 7, 8], 2)


def test_survives_serialisation(model_path, expected, tmp_path):
    import openmm

    propagator = DKMPPropagator(model_path, topology().to_openmm(), GLYCINES / 10)
    text = openmm.XmlSerializer.serialize(propagator.create_system())
    (tmp_path / "system.xml").write_text(text)
    context = openmm.Context(load_system(tmp_path / "system.xml"), propagator.create_integrator())
    context.setPositions(GLYCINES / 10)
    context.getIntegrator().step(2)
    moved = 10 * context.getState(positions=True).getPositions(asNumpy=True)._value
    assert np.allclose(moved, expected[2], atol=2e-5)


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ({}, False),
        ({"num_neighbors": 0, "rerank_interval": 0}, True),
        ({"num_neighbors": 4, "rerank_interval": 0}, False),
        ({"num_neighbors": 4, "rerank_interval": 5}, True),
    ],
)
def test_ranks_are_as_recent_as_in_the_training(checkpoint, tmp_path, declared, expected):
    contents = torch.load(checkpoint, weights_only=True)
    contents["dkmp_plugin"]["dataset"].update(declared)
    torch.save(contents, tmp_path / "epoch=0.ckpt")
    start = (tmp_path / "epoch=0.ckpt", topology().to_openmm(), GLYCINES / 10)
    assert DKMPPropagator(*start).module.rerank is expected
    assert DKMPPropagator(*start, rerank=not expected).module.rerank is not expected


def test_positions_in_another_unit_are_refused(model_path):
    top = topology()
    with pytest.raises(ValueError, match=r"bonds have a median length of 1\.\d+ nm, .* OpenMM quantity"):
        DKMPPropagator(model_path, top.to_openmm(), GLYCINES)
    top._bonds = []
    DKMPPropagator(model_path, top.to_openmm(), GLYCINES / 10)
    with pytest.raises(ValueError, match=r"neighbouring atoms have a median length of 1\.\d+ nm"):
        DKMPPropagator(model_path, top.to_openmm(), GLYCINES)


def test_molecules_that_are_cut_are_refused(model_path):
    top = topology()
    ion = top.add_residue("CL", top.add_chain())
    top.add_atom("CL", mdtraj.element.chlorine, ion)
    cut = np.concatenate([GLYCINES, [[60.0, 0, 0]]]) / 10
    DKMPPropagator(model_path, top.to_openmm(), cut, atoms=range(8))
    cut[5:8, 0] += 3.0
    with pytest.raises(ValueError, match=r"positions: in frame 0 atoms 4 and 5 are .* cut by the"):
        DKMPPropagator(model_path, top.to_openmm(), cut, atoms=range(8))


def test_molecules_start_from_the_images_of_the_training(model_path):
    from openmm import unit

    top = topology()
    top.add_atom("C1", mdtraj.element.carbon, top.add_residue("LIG", top.add_chain()))
    beside = np.concatenate([GLYCINES, GLYCINES[:1] - [0, 4.0, 0]]) / 10
    apart = beside + np.array([[0, 0, 0]] * 8 + [[3.0, 0, -3.0]])
    boxed = top.to_openmm()
    boxed.setUnitCellDimensions((3.0, 3.0, 3.0) * unit.nanometer)
    assert np.allclose(DKMPPropagator(model_path, boxed, apart).start, beside)
    assert np.array_equal(DKMPPropagator(model_path, boxed, apart, atoms=range(8)).start, apart)
    assert np.array_equal(DKMPPropagator(model_path, top.to_openmm(), apart).start, apart)


def test_all_atoms_must_be_those_of_the_training(checkpoint, tmp_path):
    contents = torch.load(checkpoint, weights_only=True)
    contents["dkmp_plugin"]["dataset"]["selection"] = "name CA"
    torch.save(contents, tmp_path / "alpha.ckpt")
    alpha = topology().select("name CA")
    with pytest.raises(ValueError, match=r"all 8, was given, but .* 'name CA', 2 of them; give"):
        DKMPPropagator(tmp_path / "alpha.ckpt", topology().to_openmm(), GLYCINES / 10)
    DKMPPropagator(tmp_path / "alpha.ckpt", topology().to_openmm(), GLYCINES / 10, atoms=alpha)
    DKMPPropagator(tmp_path / "alpha.ckpt", topology().subset(alpha).to_openmm(), GLYCINES[alpha] / 10)


def test_systems_without_the_mean_structure_are_refused(tmp_path):
    path = write_checkpoint(tmp_path / "epoch=0.ckpt", canonical_frame="mean")
    export_propagator(path, tmp_path / "propagator.pt")
    for model in (path, tmp_path / "propagator.pt"):
        with pytest.raises(
            ValueError, match=r"4 atoms in 1 systems were given, the mean structure .* 8 atoms"
        ):
            DKMPPropagator(model, topology().to_openmm(), GLYCINES / 10, atoms=range(4))


def test_bad_positions_and_atoms(model_path):
    top = topology().to_openmm()
    for start, atoms, message in (
        (GLYCINES[:5], None, r"positions have shape \(5, 3\), \(8, 3\)"),
        (GLYCINES * np.nan, None, "NaN"),
        (GLYCINES, [8], "index 8"),
        (GLYCINES, [], "empty selection"),
    ):
        with pytest.raises(ValueError, match=message):
            DKMPPropagator(model_path, top, start, atoms=atoms)


def test_is_refused_as_a_potential(model_path, checkpoint):
    from openmmml import MLPotential

    for path in (model_path, checkpoint):
        with pytest.raises(ValueError, match=r"DKMPPropagator|not a potential energy"):
            MLPotential("dkmp", modelPath=str(path)).createSystem(topology().to_openmm())


@pytest.mark.parametrize(
    ("model", "declared", "message"),
    [
        ({}, {"periodic": True}, "was trained with periodic boxes"),
        ({"box_vecs": [[9.0, 0, 0], [0, 9.0, 0], [0, 0, 9.0]]}, {}, "was trained with periodic boxes"),
        ({"canonical_frame": "none"}, {"superpose": "frames"}, "was trained on superposed frames"),
    ],
)
def test_models_that_know_boxes_or_one_orientation_are_refused(tmp_path, model, declared, message):
    """As by ``dkmp rollout``."""
    path = write_checkpoint(tmp_path / "epoch=0.ckpt", **model)
    contents = torch.load(path, weights_only=True)
    contents["dkmp_plugin"]["dataset"].update(declared)
    torch.save(contents, path)
    with pytest.raises(ValueError, match=message):
        export_propagator(path, tmp_path / "propagator.pt")
    with pytest.raises(ValueError, match=message):
        DKMPPropagator(path, topology().to_openmm(), GLYCINES / 10)
    assert not (tmp_path / "propagator.pt").exists()


def test_exported_files_of_models_that_cannot_propagate_are_refused(tmp_path, monkeypatch):
    """Earlier versions wrote such files."""
    path = write_checkpoint(tmp_path / "epoch=0.ckpt", canonical_frame="none")
    contents = torch.load(path, weights_only=True)
    contents["dkmp_plugin"]["dataset"]["superpose"] = "frames"
    torch.save(contents, path)
    with monkeypatch.context() as patch:
        patch.setattr("dkmp_plugin.simulation.propagator_file.check_propagates", lambda *_: None)
        export_propagator(path, tmp_path / "propagator.pt")
    with pytest.raises(ValueError, match="was trained on superposed frames"):
        load_propagator(tmp_path / "propagator.pt")


def test_bad_model_files(model_path, checkpoint, tmp_path):
    (tmp_path / "text.pt").write_text("no model")
    torch.jit.script(torch.nn.Identity()).save(str(tmp_path / "other.pt"))
    content = model_path.read_bytes()
    (tmp_path / "cut.pt").write_bytes(content[: len(content) // 2])
    for name, message in (
        ("absent.pt", "no such file"),
        ("text.pt", "not a readable model file"),
        ("cut.pt", "not a readable model file"),
        ("other.pt", "is not an exported propagator"),
    ):
        with pytest.raises(ValueError, match=message):
            load_propagator(tmp_path / name)
    with pytest.raises(ValueError, match="dtype: 'half'"):
        export_propagator(checkpoint, tmp_path / "x.pt", dtype="half")
    assert export_propagator(checkpoint, tmp_path / "double.pt", dtype="float64").dtype == "float64"
