"""How close a predicted trajectory is to the true one. All errors in Å² per coordinate."""

from typing import Tuple

import numpy as np

from dkmp_plugin.optional import require
from dkmp_plugin.superposition import superpose


def _check(predicted: np.ndarray, true: np.ndarray) -> None:
    if predicted.shape != true.shape or predicted.ndim != 3 or predicted.shape[2] != 3:
        raise ValueError(
            f"predicted frames have shape {predicted.shape}, true ones {true.shape}; "
            "one shape (T, N, 3) is expected"
        )
    if predicted.size == 0:
        raise ValueError(f"no frames to compare: predicted and true ones have shape {predicted.shape}")
    if not np.isfinite(predicted).all():
        raise ValueError("predicted frames hold NaN or infinite positions; the model is broken")


def next_mse(predicted: np.ndarray, true: np.ndarray) -> float:
    """Mean squared error of single predictions, each made from a true frame.

    Args:
        predicted: (T, N, 3) in Å.
        true: (T, N, 3) in Å, the frames that were to be predicted.

    Returns:
        Mean over frames, atoms and coordinates in Å².
    """
    _check(predicted, true)
    return float(np.square(predicted.astype(np.float64) - true).mean())


def average_mse(rollout: np.ndarray, true: np.ndarray) -> float:
    """Mean squared error over all frames of a rollout, without the given first frame.

    Args:
        rollout: (T + 1, N, 3) in Å, each frame predicted from the predicted one before it.
        true: (T + 1, N, 3) in Å.

    Returns:
        Mean over frames 1 to T, atoms and coordinates in Å².
    """
    return next_mse(rollout[1:], true[1:])


def final_mse(rollout: np.ndarray, true: np.ndarray) -> float:
    """Mean squared error of the last frame of a rollout; arguments and unit as :func:`average_mse`."""
    return next_mse(rollout[-1:], true[-1:])


def _aligned_features(frames: np.ndarray, reference: np.ndarray) -> np.ndarray:
    moved = superpose(frames.astype(np.float64), reference)
    return moved.reshape(len(frames), -1)


def js_tic(
    predicted: np.ndarray, true: np.ndarray, lag: int = 1, bins: int = 20, num_principal: int = 10
) -> Tuple[float, float]:
    """Jensen-Shannon divergence between the distributions along the two slowest modes of the true trajectory.

    The modes are time-lagged independent components (TICA, ``deeptime``) of the coordinates superposed on the
    first true frame, after reduction to their first principal components. Histograms span the true and the
    predicted values together.

    Args:
        predicted: (S, n, 3) in Å.
        true: (T, n, 3) in Å.
        lag: TICA lag in frames of ``true``.
        bins: bins of each histogram.
        num_principal: principal components kept.

    Returns:
        Divergences in nats, from 0 (equal) to ln 2, for the slowest and the second slowest mode.

    Raises:
        ValueError: too few frames, shapes that do not match, or a motion that has no two modes.
        MissingPackageError: deeptime is not installed.
    """
    require("deeptime", "js_tic")
    from deeptime.decomposition import TICA
    from deeptime.numeric import ZeroRankError
    from scipy.spatial.distance import jensenshannon

    if predicted.shape[1:] != true.shape[1:] or len(true) <= lag + 2:
        raise ValueError(
            f"js_tic: predicted {predicted.shape} and true {true.shape} are given, (S, n, 3) and (T, n, 3) "
            f"with T > lag + 2 = {lag + 2} are expected"
        )
    reference = true[0].astype(np.float64)
    features = _aligned_features(true, reference)
    mean = features.mean(axis=0)
    _, _, axes = np.linalg.svd(features - mean, full_matrices=False)
    axes = axes[: min(num_principal, len(true) - lag - 1)]
    reduced = (features - mean) @ axes.T
    try:
        modes = TICA(lagtime=lag, dim=2).fit_fetch(reduced)
        true_modes = modes.transform(reduced)
    except ZeroRankError:  # nothing moves
        true_modes = reduced[:, :0]
    if true_modes.shape[1] < 2:
        raise ValueError(
            f"js_tic: the true motion of {true.shape[1]} atoms, superposed, has {true_modes.shape[1]} modes, "
            "two modes are expected; give more atoms, or a trajectory with more motion"
        )
    predicted_modes = modes.transform((_aligned_features(predicted, reference) - mean) @ axes.T)
    divergences = []
    for mode in range(2):
        both = np.concatenate([true_modes[:, mode], predicted_modes[:, mode]])
        edges = np.histogram_bin_edges(both, bins)
        densities = [np.histogram(values[:, mode], edges)[0] for values in (true_modes, predicted_modes)]
        divergences.append(float(jensenshannon(*densities)) ** 2)
    return divergences[0], divergences[1]
