"""Training items that lie between the paths of several runs of one system."""

from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from dkmp_plugin.datasets.run import Run, same_atoms
from dkmp_plugin.superposition import superpose


class Crossing:
    """Blends a frame with its counterpart in another run, and their futures with another weight.

    Repeated transitions scatter around a mean path. Targets from the run of the input alone teach each run's
    own scatter, and a rollout that leaves the runs it was trained on is never led back. Here the input is a
    point between two runs, ``(1 - a) x + a c`` with ``c`` the most similar frame of the other run superposed
    on ``x``, and the target ``(1 - b) x' + b c'`` with ``b`` drawn on its own: its mean lies between the
    runs, wherever the input is.

    Args:
        runs: Training runs.
        lag: Frames between input and target.

    Raises:
        ValueError: fewer than two runs, or runs of different systems.
    """

    def __init__(self, runs: Sequence[Run], lag: int) -> None:
        if len(runs) < 2 or not same_atoms(runs):
            raise ValueError(
                "augment_crossing: two or more training runs of one system are needed; leave it at 0"
            )
        self.runs = list(runs)
        self.lag = lag
        # Of each run, frame and other run; the frames themselves would take more memory than all runs.
        self._matches: Dict[Tuple[int, int, int], int] = {}

    def __call__(self, number: int, frame: int) -> Tuple[Tensor, Tensor, Optional[Tensor]]:
        """A blended item.

        Args:
            number: Run of the input.
            frame: Frame of the input in that run.

        Returns:
            Input, target and, if both runs have one, the frame ``lag`` before the input, each (N, 3) in Å.
        """
        others = [other for other in range(len(self.runs)) if other != number]
        other = others[int(torch.randint(len(others), ()))]
        match, moved = self._counterpart(number, frame, other)
        own = self.runs[number].positions
        input_share, target_share = torch.rand(2).tolist()
        blended = (1 - input_share) * own[frame] + input_share * moved[1]
        target = (1 - target_share) * own[frame + self.lag] + target_share * moved[2]
        previous = None
        if frame >= self.lag and match >= self.lag:
            previous = _tensor((1 - input_share) * own[frame - self.lag] + input_share * moved[0])
        return _tensor(blended), _tensor(target), previous

    def _counterpart(self, number: int, frame: int, other: int) -> Tuple[int, np.ndarray]:
        """The most similar frame of a run, and the frames lag before (or itself), at and lag after it, moved
        so that it lies on the given one: (3, N, 3)."""
        target = np.asarray(self.runs[number].positions[frame], dtype=np.float32)
        run = self.runs[other].positions
        key = (number, frame, other)
        if key not in self._matches:
            candidates = np.asarray(run[: len(run) - self.lag], dtype=np.float32)
            fitted = superpose(candidates, target)
            self._matches[key] = int(np.square(fitted - target).mean(axis=(1, 2)).argmin())
        match = self._matches[key]
        frames: List[int] = [match, max(match - self.lag, 0), match + self.lag]
        here, before, after = superpose(np.asarray(run[frames], dtype=np.float32), target, each_frame=False)
        return match, np.stack([before, here, after])


def _tensor(frame: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(frame, dtype=np.float32))
