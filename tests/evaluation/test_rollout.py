"""Rollouts, their errors beside trivial predictions, and the files they are written to."""

import math

import mdtraj
import numpy as np
import pytest
import torch

from dkmp_plugin.evaluation.rollout import (
    FramePredictor,
    evaluate_run,
    load_displacement_model,
    roll_out,
    write_trajectory,
)
from dkmp_plugin.evaluation.trajectory_metrics import average_mse, final_mse, js_tic, next_mse
from tests.datasets.trajectory_fixtures import GLYCINES, topology, walk, write
from tests.displacement_checkpoint import write_checkpoint

NUMBERS = np.array([7, 6, 6, 8] * 2)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "epoch=0.ckpt")


@pytest.fixture
def predictor(checkpoint):
    return FramePredictor(load_displacement_model(checkpoint)[0], NUMBERS)


def test_metrics_by_hand():
    true = np.zeros((3, 2, 3))
    rollout = true.copy()
    rollout[1, 0, 0], rollout[2, :, 1] = 3.0, 2.0
    assert next_mse(rollout, true) == pytest.approx((9 + 4 + 4) / 18)
    assert average_mse(rollout, true) == pytest.approx((9 + 4 + 4) / 12)
    assert final_mse(rollout, true) == pytest.approx(8 / 6)
    with pytest.raises(ValueError, match="one shape"):
        next_mse(rollout, true[:2])
    with pytest.raises(ValueError, match="NaN"):
        next_mse(rollout * np.nan, true)
    with pytest.raises(ValueError, match="no frames"):
        average_mse(rollout[:1], true[:1])


def test_rollout_is_repeated_prediction_and_rotation_equivariant(predictor):
    frames = roll_out(predictor, GLYCINES, 3)
    assert frames.shape == (4, 8, 3)
    assert np.array_equal(predictor(predictor(predictor(frames[0]))), frames[3])
    assert np.abs(frames[3] - frames[0]).max() > 0.01
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    turned = roll_out(predictor, GLYCINES @ turn.T + 4.0, 3)
    assert np.allclose(turned, frames @ turn.T + 4.0, atol=1e-3)
    with pytest.raises(ValueError, match="from step 2 on"):
        roll_out(lambda frame, previous: frame + np.where(frame.max() > 10, np.nan, 5), GLYCINES, 5)


def test_ranks_are_reused_until_they_are_due(checkpoint):
    model, _ = load_displacement_model(checkpoint)
    frames = walk(6, 5, step=0.8).astype(np.float32)
    kept, anew = FramePredictor(model, NUMBERS), FramePredictor(model, NUMBERS, rerank_interval=2)
    first = [kept(frame) for frame in frames]
    second = [anew(frame) for frame in frames]
    assert np.array_equal(first[0], second[0]) and np.array_equal(first[1], second[1])
    assert not np.allclose(first[3], second[3])
    fresh = FramePredictor(model, NUMBERS)
    assert np.array_equal(second[4], fresh(frames[4]))
    kept.restart()
    assert np.array_equal(kept(frames[4]), second[4])


def test_report(predictor):
    run = walk(12, 3).astype(np.float32)
    report, rollout = evaluate_run(predictor, run, 3, "walk")
    assert (report.num_steps, report.num_atoms) == (3, 8) and len(rollout) == 4
    assert report.errors["persistence"].next == pytest.approx(np.square(run[3:] - run[:-3]).mean())
    assert report.errors["persistence"].final == pytest.approx(np.square(run[9] - run[0]).mean(), rel=1e-5)
    line = report.errors["linear extrapolation"]
    assert line.next == pytest.approx(np.square(2 * run[3:-3] - run[:-6] - run[6:]).mean(), rel=1e-5)
    assert line.final == pytest.approx(np.square(run[0] + 3 * (run[3] - run[0]) - run[9]).mean(), rel=1e-5)
    assert report.errors["model"].final == pytest.approx(np.square(rollout[3] - run[9]).mean(), rel=1e-5)
    assert report.seconds_per_frame > 0 and "Å² per coordinate" in report.table()
    with pytest.raises(ValueError, match="at least 2 lag"):
        evaluate_run(predictor, run, 6)


def test_js_divergence_of_modes():
    pytest.importorskip("deeptime", reason="js_tic needs deeptime, an optional package")
    rng = np.random.default_rng(0)
    slow = np.cumsum(rng.normal(size=300)) * 0.1
    run = GLYCINES + 0.02 * rng.normal(size=(300, 8, 3))
    run[:, 4:] += slow[:, None, None] * np.array([0, 0.1, 0.2])
    same = js_tic(run, run)
    assert same == pytest.approx((0, 0), abs=1e-12)
    still = js_tic(run[:1].repeat(300, 0), run)
    assert 0.3 < still[0] <= math.log(2) + 1e-9
    with pytest.raises(ValueError, match="T > lag"):
        js_tic(run, run[:5], lag=4)
    for atoms in (1, 2):  # superposed, they have no motion, or one
        with pytest.raises(ValueError, match="two modes"):
            js_tic(run[:, :atoms], run[:, :atoms])


@pytest.mark.parametrize("suffix", [".dcd", ".xtc", ".pdb"])
def test_written_trajectories_open_again(tmp_path, suffix):
    frames = walk(5)
    write_trajectory(tmp_path / f"rollout{suffix}", frames, topology())
    if suffix == ".pdb":
        read = mdtraj.load(str(tmp_path / "rollout.pdb"))
    else:
        read = mdtraj.load(str(tmp_path / f"rollout{suffix}"), top=topology())
    assert np.allclose(10 * read.xyz, frames, atol=0.011)
    with pytest.raises(ValueError, match="8 atoms per frame"):
        write_trajectory(tmp_path / "bad.dcd", frames, topology().subset([0, 1]))


def test_command_line(checkpoint, tmp_path, capsys):
    """Two replicas in one file: two reports, two rollouts."""
    from dkmp_plugin.cli import main

    write(tmp_path / "top.pdb", GLYCINES[None])
    write(tmp_path / "runs.dcd", np.concatenate([walk(9, 1), walk(7, 2, shift=40.0)]))
    arguments = ["rollout", str(checkpoint), str(tmp_path / "top.pdb"), str(tmp_path / "runs.dcd")]
    assert main([*arguments, "--output", str(tmp_path / "out.dcd")]) == 0
    printed = capsys.readouterr().out
    assert "runs.dcd#0: 8 atoms, lag 2, rollout of 4 steps" in printed and "runs.dcd#1" in printed
    written = mdtraj.load(str(tmp_path / "out_0.dcd"), top=str(tmp_path / "out_0.pdb"))
    model, _ = load_displacement_model(checkpoint)
    expected = roll_out(FramePredictor(model, NUMBERS), walk(9, 1)[0], 4)
    assert np.allclose(10 * written.xyz, expected, atol=1e-3)
    assert main([*arguments[:3], str(tmp_path / "absent.dcd")]) == 2
    assert "absent.dcd: no such file" in capsys.readouterr().err


def test_rollouts_are_numbered_as_their_runs(checkpoint, tmp_path):
    """A run too short for two steps is left out; the next one keeps its number."""
    from dkmp_plugin.evaluation.rollout_files import roll_out_trajectory

    write(tmp_path / "top.pdb", GLYCINES[None])
    frames = np.concatenate([walk(9, 1), walk(4, 2, shift=40.0), walk(7, 3)])
    write(tmp_path / "runs.dcd", frames)
    files = [tmp_path / name for name in ("top.pdb", "runs.dcd", "out.pdb")]
    with pytest.warns(UserWarning, match=r"left out: runs\.dcd#1 \(4\)"):
        reports = roll_out_trajectory(checkpoint, *files)
    assert [report.name for report in reports] == ["runs.dcd#0", "runs.dcd#2"]
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out_0.pdb", "out_2.pdb"]


def test_a_pdb_file_holds_the_whole_rollout(checkpoint, tmp_path):
    from dkmp_plugin.cli import main

    write(tmp_path / "top.pdb", GLYCINES[None])
    write(tmp_path / "run.dcd", walk(9, 1))
    arguments = ["rollout", checkpoint, tmp_path / "top.pdb", tmp_path / "run.dcd"]
    assert main([*map(str, arguments), "--output", str(tmp_path / "out.pdb")]) == 0
    assert mdtraj.load(str(tmp_path / "out.pdb")).n_frames == 5


@pytest.mark.parametrize(
    ("output", "named"),
    [
        ("top.dcd", "top.pdb"),
        ("top.pdb", "top.pdb"),
        ("other/../run.dcd", "run.dcd"),
        ("epoch=0.ckpt", "epoch=0.ckpt"),
    ],
)
def test_input_files_are_not_overwritten(checkpoint, tmp_path, capsys, output, named):
    from dkmp_plugin.cli import main

    inputs = [tmp_path / name for name in ("epoch=0.ckpt", "top.pdb", "run.dcd")]
    inputs[0].write_bytes(checkpoint.read_bytes())
    write(inputs[1], GLYCINES[None])
    write(inputs[2], walk(9, 1))
    (tmp_path / "other").mkdir()
    before = [path.read_bytes() for path in inputs]
    trajectory = f"{inputs[2]}#0"
    arguments = ["rollout", str(inputs[0]), str(inputs[1]), trajectory, "--output", str(tmp_path / output)]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert f"{named}: " in error and "would be overwritten" in error
    assert [path.read_bytes() for path in inputs] == before


def test_no_run_of_several_overwrites_an_input_file(checkpoint, tmp_path):
    from dkmp_plugin.evaluation.rollout_files import roll_out_trajectory

    write(tmp_path / "walk_1.pdb", GLYCINES[None])
    write(tmp_path / "runs.dcd", np.concatenate([walk(9, 1), walk(7, 2, shift=40.0)]))
    with pytest.raises(ValueError, match=r"walk_1\.pdb: .* would be overwritten"):
        roll_out_trajectory(checkpoint, tmp_path / "walk_1.pdb", tmp_path / "runs.dcd", tmp_path / "walk.dcd")
    assert {path.name for path in tmp_path.iterdir()} == {"walk_1.pdb", "runs.dcd"}


def test_bad_input_of_the_command(checkpoint, tmp_path, capsys):
    """A checkpoint that does not know its lag; a trajectory in which nothing moves."""
    from dkmp_plugin.cli import main

    contents = torch.load(checkpoint, weights_only=True)
    torch.save({**contents, "dkmp_plugin": {}}, tmp_path / "no_lag.ckpt")
    write(tmp_path / "top.pdb", GLYCINES[None])
    write(tmp_path / "walk.dcd", walk(9))
    write(tmp_path / "still.dcd", GLYCINES[None].repeat(9, 0))
    top = str(tmp_path / "top.pdb")
    assert main(["rollout", str(tmp_path / "no_lag.ckpt"), top, str(tmp_path / "walk.dcd")]) == 2
    assert "no_lag.ckpt does not say over how many frames" in capsys.readouterr().err
    assert main(["rollout", str(checkpoint), top, str(tmp_path / "still.dcd")]) == 2
    assert "still.dcd: nothing moves" in capsys.readouterr().err
    walked = str(tmp_path / "walk.dcd")
    assert main(["rollout", str(checkpoint), top, walked, "--output", "."]) == 2
    assert "a trajectory has one of the suffixes .dcd, .xtc" in capsys.readouterr().err


def test_refusals(checkpoint, tmp_path):
    model, _ = load_displacement_model(checkpoint)
    with pytest.raises(ValueError, match="holds S,"):
        FramePredictor(model, np.array([16, 6]))
    contents = torch.load(checkpoint, weights_only=True)
    other = {**contents["hyper_parameters"], "model": "tensornet"}
    torch.save({**contents, "hyper_parameters": other}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="'tensornet' model"):
        load_displacement_model(tmp_path / "other.ckpt")


def test_command_line_refuses_models_that_know_boxes(checkpoint, tmp_path, capsys):
    from dkmp_plugin.cli import main

    write(tmp_path / "top.pdb", GLYCINES[None])
    write(tmp_path / "run.dcd", walk(9, 1))
    contents = torch.load(checkpoint, weights_only=True)
    contents["dkmp_plugin"]["dataset"]["periodic"] = True
    torch.save(contents, tmp_path / "periodic.ckpt")
    files = [str(tmp_path / name) for name in ("periodic.ckpt", "top.pdb", "run.dcd")]
    assert main(["rollout", *files]) == 2
    assert "was trained with periodic boxes" in capsys.readouterr().err


def test_ranks_are_as_recent_as_in_the_training(checkpoint, tmp_path):
    """Unless something else is asked for; checkpoints that do not say rank once, as they always did."""
    from dkmp_plugin.evaluation.rollout_files import roll_out_trajectory

    write(tmp_path / "top.pdb", GLYCINES[None])
    write(tmp_path / "run.dcd", walk(13, 5, step=0.4) * 1.1)
    contents = torch.load(checkpoint, weights_only=True)

    def errors(declared, interval=None):
        dataset = {"lag": 2, "selection": "full", **declared}
        torch.save({**contents, "dkmp_plugin": {"dataset": dataset}}, tmp_path / "epoch=0.ckpt")
        files = (tmp_path / name for name in ("epoch=0.ckpt", "top.pdb", "run.dcd"))
        return roll_out_trajectory(*files, rerank_interval=interval)[0].errors["model"]

    never, always, now_and_then = errors({}), errors({}, 1), errors({}, 2)
    assert never == errors({}, 0) and len({never, always, now_and_then}) == 3
    assert errors({"num_neighbors": 0, "rerank_interval": 0}) == always
    assert errors({"num_neighbors": 0, "rerank_interval": 0}, 0) == never
    assert errors({"num_neighbors": 4, "rerank_interval": 0}) == never
    # Frames in the training, predictions (of two frames) in a rollout.
    assert errors({"num_neighbors": 4, "rerank_interval": 5}) == now_and_then


def test_rollouts_keep_to_the_time_between_frames(checkpoint, tmp_path):
    from dkmp_plugin.evaluation.rollout_files import roll_out_trajectory

    write(tmp_path / "top.pdb", GLYCINES[None])
    contents = torch.load(checkpoint, weights_only=True)
    contents["dkmp_plugin"]["dataset"].update(stride=2, picoseconds_per_frame=10.0)
    torch.save(contents, tmp_path / "epoch=0.ckpt")
    for name, spacing in (("as_trained.xtc", 5.0), ("other.xtc", 10.0), ("unknown.dcd", 10.0)):
        write(tmp_path / name, walk(11, 1), spacing * np.arange(11))
        files = [tmp_path / other for other in ("epoch=0.ckpt", "top.pdb", name)]
        if name == "other.xtc":
            with pytest.raises(ValueError, match=r"other.xtc has 20 ps .*\(stride 2\), .* trained with 10"):
                roll_out_trajectory(*files)
        else:
            assert roll_out_trajectory(*files)[0].num_steps == 2


def test_what_cannot_be_written_or_ranked_is_said_before_the_rollout(checkpoint, tmp_path, monkeypatch):
    from dkmp_plugin.evaluation.rollout_files import roll_out_trajectory

    monkeypatch.setattr("dkmp_plugin.evaluation.rollout_files.evaluate_run", lambda *_: pytest.fail("ran"))
    write(tmp_path / "top.pdb", GLYCINES[None])
    write(tmp_path / "run.dcd", walk(9, 1))
    files = (checkpoint, tmp_path / "top.pdb", tmp_path / "run.dcd")
    for name in ("out.foo", "out", "out.h5", "out.DCD"):
        with pytest.raises(ValueError, match=rf"{name}: a trajectory has one of the suffixes \.dcd, \.xtc"):
            roll_out_trajectory(*files, tmp_path / name)
    with pytest.raises(ValueError, match="rerank_interval: -3 was given"):
        roll_out_trajectory(*files, rerank_interval=-3)


def test_exported_models_are_no_checkpoints(checkpoint, tmp_path):
    from dkmp_plugin.simulation import export_propagator

    export_propagator(checkpoint, tmp_path / "propagator.pt")
    with pytest.raises(ValueError, match=r"propagator\.pt is an exported model; give the checkpoint"):
        load_displacement_model(tmp_path / "propagator.pt")


def test_egnn_baseline_learns_and_stands_beside_the_model(predictor):
    pytest.importorskip("egnn_pytorch", reason="egnn-pytorch, the baseline, is optional")
    from dkmp_plugin.datasets.frame_pairs import FramePairs
    from dkmp_plugin.datasets.run import Run
    from dkmp_plugin.datasets.sampling import Sampling
    from dkmp_plugin.evaluation.egnn_baseline import EGNNPredictor, train_egnn

    # Every frame is the one before, blown up: an equivariant displacement.
    run = np.stack([GLYCINES * 1.1**step for step in range(8)]).astype(np.float32)
    data = FramePairs(([Run("swelling", NUMBERS, run, None)], [], []), Sampling(num_neighbors=7))
    model, counts = train_egnn(data, cpu_seconds=2.0, num_layers=2, num_neighbors=7)
    assert counts["steps"] > 10
    report, _ = evaluate_run(predictor, run, 2, beside={"EGNN": EGNNPredictor(model, NUMBERS)})
    assert report.errors["EGNN"].next < report.errors["persistence"].next
    assert "EGNN" in report.table()


def test_devices(checkpoint, tmp_path, capsys, monkeypatch):
    from dkmp_plugin.cli import main
    from dkmp_plugin.evaluation.held_out import evaluate_held_out

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    write(tmp_path / "top.pdb", GLYCINES[None])
    write(tmp_path / "run.dcd", walk(9, 1))
    files = [str(checkpoint), str(tmp_path / "top.pdb"), str(tmp_path / "run.dcd")]
    assert main(["rollout", *files, "--device", "cuda"]) == 2
    assert "device: 'cuda' was given, but torch sees no GPU" in capsys.readouterr().err
    printed = []
    for arguments in ([], ["--device", "cpu"]):
        assert main(["rollout", *files, *arguments]) == 0
        printed.append(capsys.readouterr().out.rsplit("\n", 2)[0])  # all but times
    assert printed[0] == printed[1]
    with pytest.raises(ValueError, match="device: 'tpu' was given"):
        evaluate_held_out(checkpoint, tmp_path / "labels.h5", "tpu")
