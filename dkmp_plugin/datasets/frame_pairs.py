"""Structure-to-structure samples: a frame, and the displacement to the frame ``lag`` later in its run."""

from typing import Any, List, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data, Dataset

from dkmp_plugin.datasets.trajectory_files import Run
from dkmp_plugin.ops import distance_ranks

SPLITS = ("train", "val", "test")


class FramePairs(Dataset):
    """Pairs of frames of several runs, split by whole runs.

    Each item is a ``Data`` with ``z`` (N,), ``pos`` (N, 3) in Å, ``y`` (N, 3) the displacement in Å to the
    frame ``lag`` later, and optionally ``neighbors`` (N, M) int32, the distance ranks of an earlier frame
    (-1 for none), and ``box`` (1, 3, 3) in Å.

    Attributes:
        split_indices: Indices of the training, validation and test items; torchmd-train uses them in place
            of its random split unless the configuration names ``splits``.
        metadata: What a checkpoint records about the data.

    Args:
        runs: For each of training, validation and test, the runs.
        lag: Frames between input and target.
        num_neighbors: Columns M of the ranks (at least the model's ``max_num_neighbors``); 0 leaves ranking
            to the model, which then ranks every frame by itself.
        rerank_interval: Ranks come from the latest frame whose number is a multiple of this; 0 for the first
            frame of the run throughout (paper, appendix E).
        augment_rotation: Turn training items at random: for models without a canonical frame.
        augment_noise: Standard deviation in Å of noise added to training inputs; the target frame stays.
        augment_smoothing: Half width w in frames of a running average over training data: every second input
            is averaged over 2 w + 1 frames, because frames of a rollout carry no thermal noise; every target
            is, because its noise only hides the mean that is to be learned. 0 for none.
        pushforward: Training items also hold ``previous`` (N, 3), the frame ``lag`` earlier if there is one:
            the model then learns from its own predictions (see ``DisplacementModel``).
        metadata: What a checkpoint should record.

    Raises:
        ValueError: no training run, or a lag that does not fit into a run.
    """

    def __init__(
        self,
        runs: Tuple[Sequence[Run], Sequence[Run], Sequence[Run]],
        lag: int,
        num_neighbors: int = 0,
        rerank_interval: int = 0,
        augment_rotation: bool = False,
        augment_noise: float = 0.0,
        augment_smoothing: int = 0,
        pushforward: bool = False,
        metadata: Optional[dict] = None,
    ) -> None:
        super().__init__()
        if not isinstance(lag, int) or lag < 1:
            raise ValueError(f"lag: {lag!r} was given, a whole number of frames of at least 1 is expected")
        if not runs[0]:
            raise ValueError("train: no run was given, at least one is expected")
        self.runs: List[Run] = [run for part in runs for run in part]
        for run in self.runs:
            if len(run.positions) <= lag:
                raise ValueError(
                    f"{run.name} has {len(run.positions)} frames, lag {lag} needs at least {lag + 1}; "
                    "lower lag or leave this run out"
                )
        self.lag = lag
        self.num_neighbors = num_neighbors
        self.rerank_interval = rerank_interval
        self.augment_rotation = augment_rotation
        self.augment_noise = augment_noise
        self.augment_smoothing = augment_smoothing
        self.pushforward = pushforward
        self._ranks: dict = {}
        self._items: List[Tuple[int, int]] = []
        self.split_indices = self._split(runs)
        self._num_training = len(self.split_indices[0])
        self.metadata = {"lag": lag, "kind": "frame pairs", **(metadata or {})}

    def _split(
        self, runs: Tuple[Sequence[Run], Sequence[Run], Sequence[Run]]
    ) -> Tuple[Tensor, Tensor, Tensor]:
        number, borders = 0, [0]
        for part in runs:
            for run in part:
                self._items += [(number, frame) for frame in range(len(run.positions) - self.lag)]
                number += 1
            borders.append(len(self._items))
        train, val, test = (torch.arange(borders[i], borders[i + 1]) for i in range(3))
        return train, val, test

    def len(self) -> int:
        return len(self._items)

    def get(self, idx: int) -> Data:
        number, frame = self._items[idx]
        run = self.runs[number]
        width = self.augment_smoothing if idx < self._num_training else 0
        smooth_input = width > 0 and bool(torch.rand(()) < 0.5)
        pos = _average(run, frame, width if smooth_input else 0)
        target = _average(run, frame + self.lag, width)
        item = Data(z=torch.from_numpy(run.numbers), pos=pos, y=target - pos)
        if self.pushforward and idx < self._num_training:
            # Without an earlier frame the frame itself stands in: the model recognises it and skips the step.
            item.previous = _average(run, frame - self.lag if frame >= self.lag else frame, 0)
        if run.boxes is not None:
            item.box = torch.from_numpy(np.array(run.boxes[frame])).unsqueeze(0)
        if self.num_neighbors > 0:
            item.neighbors = self._neighbors(number, frame)
        return self._augment(item) if idx < self._num_training else item

    def _neighbors(self, number: int, frame: int) -> Tensor:
        """Ranks of the frame that ``rerank_interval`` names, computed once."""
        source = frame - frame % self.rerank_interval if self.rerank_interval > 0 else 0
        if (number, source) not in self._ranks:
            run = self.runs[number]
            pos = torch.from_numpy(np.array(run.positions[source], dtype=np.float32))
            box = None if run.boxes is None else torch.from_numpy(np.array(run.boxes[source]))
            # int32 halves what a long list of runs keeps in memory.
            self._ranks[number, source] = distance_ranks(pos, self.num_neighbors, None, box).int()
        return self._ranks[number, source]

    def _augment(self, item: Data) -> Data:
        if self.augment_noise > 0:
            noise = self.augment_noise * torch.randn_like(item.pos)
            item.pos, item.y = item.pos + noise, item.y - noise
        if self.augment_rotation:
            rotation = random_rotation()
            center = item.pos.mean(0)
            if "previous" in item:
                item.previous = (item.previous - center) @ rotation.T + center
            item.pos = (item.pos - center) @ rotation.T + center
            item.y = item.y @ rotation.T
        return item


def _average(run: Run, frame: int, width: int) -> Tensor:
    """Mean position over frames ``frame - width`` to ``frame + width``, fewer at the ends of the run."""
    width = min(width, frame, len(run.positions) - 1 - frame)
    frames = [run.positions[index] for index in range(frame - width, frame + width + 1)]
    return torch.from_numpy(np.mean(np.asarray(frames, dtype=np.float32), axis=0))


def random_rotation() -> Tensor:
    """A uniformly distributed rotation matrix (3, 3), float32, from torch's random numbers."""
    w, x, y, z = torch.nn.functional.normalize(torch.randn(4, dtype=torch.float64), dim=0).tolist()
    rows: Any = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return torch.tensor(rows, dtype=torch.float64).float()
