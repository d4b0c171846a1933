"""Runs DKMP^R forward in time and compares it with the true trajectory and with trivial predictions."""

import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

import numpy as np
import torch
from torch import Tensor

from dkmp_plugin.datasets.arguments import check_whole_number
from dkmp_plugin.device import resolve_device
from dkmp_plugin.evaluation.trajectory_metrics import average_mse, final_mse, next_mse
from dkmp_plugin.files import replaced_on_success
from dkmp_plugin.models.elements import check_elements
from dkmp_plugin.units import ANGSTROM_PER_NANOMETER

# Of what mdtraj writes: many frames in one file, and no further package.
_WRITABLE = (".dcd", ".xtc", ".trr", ".nc", ".pdb", ".gro", ".xyz")
Predictor = Callable[[np.ndarray, Optional[np.ndarray]], np.ndarray]


class FramePredictor:
    """The next frame of one system, by a trained model.

    Distance ranks are computed from the first frame that is given and reused (paper, appendix E). That frame
    is also the reference of models with ``canonical_frame: first``. All is computed where the model is.

    Args:
        model: ``model(z, pos, extra_args={"neighbors": ...}) -> (displacement, _)`` in Å, as trained by
            torchmd-train (``DisplacementModel``).
        numbers: (N,) atomic numbers.
        rerank_interval: rank anew after this many predictions; 0 for never.

    Raises:
        ValueError: an element that the model has not seen in training, or an impossible interval.
    """

    def __init__(self, model: Any, numbers: np.ndarray, rerank_interval: int = 0) -> None:
        check_whole_number("rerank_interval", rerank_interval, 0)
        self.model = model.eval()
        self.device = next(model.parameters()).device
        self.numbers = torch.as_tensor(numbers, dtype=torch.int64, device=self.device)
        trained = model.representation_model.trained_elements.nonzero().flatten().tolist()
        check_elements(self.numbers.tolist(), trained)
        self.rerank_interval = rerank_interval
        self._neighbors: Optional[Tensor] = None
        self._reference: Optional[Tensor] = None
        self._predictions = 0

    def restart(self) -> None:
        """Forget the ranks: the next frame is the first of another trajectory."""
        self._neighbors, self._reference, self._predictions = None, None, 0

    def __call__(self, positions: np.ndarray, previous: Optional[np.ndarray] = None) -> np.ndarray:
        """The frame after ``positions``, both (N, 3) in Å.

        Args:
            positions: the frame.
            previous: the frame before (one lag earlier), for models with memory; None at a start.
        """
        representation = self.model.representation_model
        dtype = next(representation.parameters()).dtype
        pos = torch.as_tensor(positions, dtype=dtype, device=self.device)
        due = self.rerank_interval > 0 and self._predictions % self.rerank_interval == 0
        if self._neighbors is None or due:
            self._neighbors = representation.distance(pos, torch.zeros_like(self.numbers), None)
        if self._reference is None:
            self._reference = pos
        self._predictions += 1
        extra = {"neighbors": self._neighbors, "reference": self._reference}
        if previous is not None:
            extra["previous"] = torch.as_tensor(previous, dtype=dtype, device=self.device)
        with torch.no_grad():
            displacement, _ = self.model(self.numbers, pos, extra_args=extra)
        return (pos + displacement).cpu().numpy()


def roll_out(predictor: Predictor, start: np.ndarray, num_steps: int) -> np.ndarray:
    """A trajectory of predictions, each made from the one before.

    Args:
        predictor: the next frame from a frame and the one before it (None at the start), all (N, 3) in Å.
        start: (N, 3) in Å.
        num_steps: number of predictions.

    Returns:
        (num_steps + 1, N, 3) float32 in Å; the first frame is ``start``.

    Raises:
        ValueError: the rollout has left the range of finite numbers.
    """
    frames = [np.asarray(start, dtype=np.float32)]
    for step in range(num_steps):
        previous = frames[-2] if step > 0 else None
        frames.append(np.asarray(predictor(frames[-1], previous), dtype=np.float32))
        if not np.isfinite(frames[-1]).all():
            raise ValueError(
                f"the rollout holds NaN or infinite positions from step {step + 1} on; start from a "
                "structure like those of the training, or train the model longer"
            )
    return np.stack(frames)


@dataclass(frozen=True)
class TrajectoryErrors:
    """Errors of one way to predict, in Å² per coordinate; see ``trajectory_metrics``."""

    next: float
    average: float
    final: float


@dataclass(frozen=True)
class RolloutReport:
    """A model beside trivial predictions on one run.

    Attributes:
        name: of the run.
        num_atoms: N.
        lag: frames per prediction.
        num_steps: predictions in the rollout from frame 0.
        errors: by way of predicting: ``model``, ``persistence``, ``linear extrapolation``.
        seconds_per_frame: median time of a prediction with known ranks.
        peak_memory_gib: largest resident memory of this process so far.
        device: where the model ran.
    """

    name: str
    num_atoms: int
    lag: int
    num_steps: int
    errors: Dict[str, TrajectoryErrors]
    seconds_per_frame: float
    peak_memory_gib: float
    device: str = "cpu"

    def table(self) -> str:
        """The report as text, with the ratio to persistence."""
        rows = [
            f"{self.name}: {self.num_atoms} atoms, lag {self.lag}, rollout of {self.num_steps} steps; "
            "errors in Å² per coordinate",
            f"{'':22s}{'next':>9s}{'/persist.':>11s}{'average':>12s}{'final':>12s}",
        ]
        reference = self.errors["persistence"].next
        for name, error in self.errors.items():
            rows.append(
                f"{name:22s}{error.next:9.4f}{error.next / reference:11.4f}"
                f"{error.average:12.4f}{error.final:12.4f}"
            )
        place = f"{torch.get_num_threads()} threads" if self.device == "cpu" else self.device
        rows.append(
            f"{self.seconds_per_frame:.3f} s per frame on {place}, peak memory {self.peak_memory_gib:.2f} GiB"
        )
        return "\n".join(rows)


def evaluate_run(
    predictor: FramePredictor,
    positions: np.ndarray,
    lag: int,
    name: str = "run",
    beside: Optional[Dict[str, Any]] = None,
) -> Tuple[RolloutReport, np.ndarray]:
    """Single predictions from every frame of a run, and a rollout from its first frame to its end.

    The next-error of linear extrapolation, ``2 x(t) - x(t - lag)``, is over the frames that have a past; its
    rollout is given the first true step and goes on with it.

    Args:
        predictor: of the same system.
        positions: (T, N, 3) true frames in Å.
        lag: frames per prediction, as the model was trained.
        name: of the run.
        beside: further predictors by name, for rows of their own (such as the EGNN baseline).

    Returns:
        The report, and the rollout (steps + 1, N, 3) in Å.

    Raises:
        ValueError: fewer than two steps fit into the run, or nothing moves in it.
    """
    steps = (len(positions) - 1) // lag
    if steps < 2:
        raise ValueError(f"{name} has {len(positions)} frames, at least 2 lag + 1 = {2 * lag + 1} are needed")
    if np.array_equal(positions[lag:], positions[:-lag]):
        raise ValueError(
            f"{name}: nothing moves, every frame is the one {lag} frames before; a trajectory with motion is "
            "expected"
        )
    true = positions[: steps * lag + 1 : lag]
    predicted, rollout, seconds = _predictions(predictor, positions, lag, steps)
    line = np.stack([true[0] + step * (true[1] - true[0]) for step in range(steps + 1)])
    still = np.broadcast_to(true[0], true.shape)
    past, present, future = positions[: -2 * lag], positions[lag:-lag], positions[2 * lag :]
    errors = {
        "model": _errors(predicted, positions[lag:], rollout, true),
        "persistence": _errors(positions[:-lag], positions[lag:], still, true),
        "linear extrapolation": _errors(2 * present - past, future, line, true),
    }
    for label, other in (beside or {}).items():
        their_next, their_rollout, _ = _predictions(other, positions, lag, steps)
        errors[label] = _errors(their_next, positions[lag:], their_rollout, true)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    device = str(predictor.device)
    report = RolloutReport(name, positions.shape[1], lag, steps, errors, seconds, memory, device)
    return report, rollout


def _predictions(
    predictor: Any, positions: np.ndarray, lag: int, steps: int
) -> Tuple[np.ndarray, np.ndarray, float]:
    """Predictions from every frame, the rollout from the first, and the median seconds of a prediction."""
    predictor.restart()
    durations: List[float] = []
    predicted = []
    for number, frame in enumerate(positions[:-lag]):
        begin = time.perf_counter()
        predicted.append(predictor(frame, positions[number - lag] if number >= lag else None))
        durations.append(time.perf_counter() - begin)
    predictor.restart()
    rollout = roll_out(predictor, positions[0], steps)
    # The first prediction ranks the neighbours: the median leaves it out.
    return np.stack(predicted), rollout, float(np.median(durations))


def _errors(
    predicted: np.ndarray, future: np.ndarray, rollout: np.ndarray, true: np.ndarray
) -> TrajectoryErrors:
    return TrajectoryErrors(next_mse(predicted, future), average_mse(rollout, true), final_mse(rollout, true))


def load_displacement_model(checkpoint: Union[str, Path], device: str = "cpu") -> Tuple[Any, Dict[str, Any]]:
    """A trained ``dkmp-r`` model and what its dataset declared (lag, selection, ...).

    Args:
        checkpoint: written by torchmd-train (``.ckpt``).
        device: where the model is put; see :func:`dkmp_plugin.device.resolve_device`.

    Raises:
        ValueError: the file is no checkpoint of a ``dkmp-r`` model, or the device is not there.
    """
    place = resolve_device(device)
    from dkmp_plugin.simulation.torchscript_file import is_exported
    from dkmp_plugin.training.checkpoint import load_checkpoint

    if is_exported(Path(checkpoint)):
        raise ValueError(
            f"{checkpoint} is an exported model; give the checkpoint (.ckpt) of torchmd-train that it was "
            "made from"
        )
    model, hyper_parameters, dataset = load_checkpoint(checkpoint)
    if hyper_parameters["model"] != "dkmp-r":
        raise ValueError(
            f"{checkpoint} holds a {hyper_parameters['model']} model; a rollout needs a dkmp-r model. "
            "Simulate a potential with OpenMM instead"
        )
    return model.to(place), dataset


def check_trajectory_suffix(path: Union[str, Path]) -> None:
    """Refuses a file name whose suffix names no format that :func:`write_trajectory` can write.

    Raises:
        ValueError: naming the suffixes that are known.
    """
    if Path(path).suffix not in _WRITABLE:
        raise ValueError(
            f"{path}: a trajectory has one of the suffixes {', '.join(_WRITABLE)}, {Path(path).suffix!r} was "
            "given; choose another name"
        )


def write_trajectory(path: Union[str, Path], positions: np.ndarray, topology: Any) -> None:
    """Writes frames that VMD, PyMOL and mdtraj open; the suffix names the format (.dcd, .xtc, .pdb, ...).

    Args:
        path: the file to write.
        positions: (T, N, 3) in Å.
        topology: mdtraj topology of these N atoms.

    Raises:
        ValueError: another number of atoms than the topology, or an unknown suffix.
    """
    import mdtraj

    check_trajectory_suffix(path)
    if positions.shape[1] != topology.n_atoms:
        raise ValueError(
            f"{positions.shape[1]} atoms per frame were given, the topology has {topology.n_atoms}; give the "
            "topology of these atoms (topology.subset of a selection)"
        )
    with replaced_on_success(path) as temporary:
        mdtraj.Trajectory(positions / ANGSTROM_PER_NANOMETER, topology).save(str(temporary))
