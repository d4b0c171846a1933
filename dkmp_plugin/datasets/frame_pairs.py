"""Structure-to-structure samples: a frame, and the displacement to the frame ``lag`` later in its run."""

from dataclasses import fields
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data, Dataset

from dkmp_plugin.datasets.arguments import check_arguments
from dkmp_plugin.datasets.crossing import Crossing
from dkmp_plugin.datasets.run import Run, mean_structure
from dkmp_plugin.datasets.run_borders import same_spacing
from dkmp_plugin.datasets.sampling import Sampling
from dkmp_plugin.ops import distance_ranks


class FramePairs(Dataset):
    """Pairs of frames of several runs, split by whole runs.

    Each item is a ``Data`` with ``z`` (N,), ``pos`` (N, 3) in Å, ``y`` (N, 3) the displacement in Å to the
    frame ``lag`` later, and optionally ``neighbors`` (N, M) int32, the distance ranks of an earlier frame
    (-1 for none), ``reference`` and ``previous`` (N, 3) in Å (see :class:`Sampling`), and ``box`` (1, 3, 3)
    in Å.

    Attributes:
        split_indices: Indices of the training, validation and test items; torchmd-train uses them in place
            of its random split, and refuses ``splits``.
        metadata: What a checkpoint records about the data.

    Args:
        runs: For each of training, validation and test, the runs.
        sampling: How pairs are drawn.
        metadata: What a checkpoint should record.

    Raises:
        ValueError: no training run, a lag that does not fit into a run, different times between frames,
            runs that cannot be crossed, or augmentation that turns periodic structures.
    """

    def __new__(cls, *positional: Any, **arguments: Any) -> "FramePairs":
        check_arguments(cls, positional, arguments, [option.name for option in fields(Sampling)])
        return super().__new__(cls)

    def __init__(
        self,
        runs: Tuple[Sequence[Run], Sequence[Run], Sequence[Run]],
        sampling: Sampling,
        metadata: Optional[Dict[str, Any]] = None,
    ) -> None:
        super().__init__()
        if not runs[0]:
            raise ValueError("train: no run was given, at least one is expected")
        self.runs: List[Run] = [run for part in runs for run in part]
        lag = sampling.lag
        for run in self.runs:
            if len(run.positions) <= lag:
                raise ValueError(
                    f"{run.name} has {len(run.positions)} frames, lag {lag} needs at least {lag + 1}; "
                    "lower lag or leave this run out"
                )
        if any(run.boxes is not None for run in self.runs):
            refuse_with_boxes(
                augment_rotation=sampling.augment_rotation, augment_crossing=sampling.augment_crossing
            )
        self.sampling = sampling
        self._crossing = Crossing(list(runs[0]), lag) if sampling.augment_crossing > 0 else None
        self._mean = torch.from_numpy(mean_structure(runs[0])) if sampling.reference == "mean" else None
        self._ranks: Dict[Tuple[int, int], Tensor] = {}
        self._items: List[Tuple[int, int]] = []
        self.split_indices = self._split(runs)
        self._num_training = len(self.split_indices[0])
        self.metadata = {
            "lag": lag,
            "kind": "frame pairs",
            "num_neighbors": sampling.num_neighbors,
            "rerank_interval": sampling.rerank_interval,
            **_what_runs_declare(self.runs),
            **(metadata or {}),
        }

    def _split(
        self, runs: Tuple[Sequence[Run], Sequence[Run], Sequence[Run]]
    ) -> Tuple[Tensor, Tensor, Tensor]:
        number, borders = 0, [0]
        for part in runs:
            for run in part:
                self._items += [(number, frame) for frame in range(len(run.positions) - self.sampling.lag)]
                number += 1
            borders.append(len(self._items))
        train, val, test = (torch.arange(borders[i], borders[i + 1]) for i in range(3))
        return train, val, test

    def len(self) -> int:
        return len(self._items)

    def get(self, idx: int) -> Data:
        number, frame = self._items[idx]
        run = self.runs[number]
        training = idx < self._num_training
        pos, target, previous = self._frames(number, frame, training)
        if training and self.sampling.augment_noise > 0:
            pos = pos + self.sampling.augment_noise * torch.randn_like(pos)
        item = Data(z=torch.from_numpy(run.numbers), pos=pos, y=target - pos)
        if self.sampling.previous or (self.sampling.pushforward and training):
            # Without an earlier frame the input itself stands in: no displacement, no pushforward.
            item.previous = pos if previous is None else previous
        if self._mean is not None:
            item.reference = self._mean
        elif self.sampling.reference == "first":
            item.reference = torch.from_numpy(np.array(run.positions[0], dtype=np.float32))
        if run.boxes is not None:
            item.box = torch.from_numpy(np.array(run.boxes[frame])).unsqueeze(0)
        if self.sampling.num_neighbors > 0:
            item.neighbors = self._neighbors(number, frame)
        return _turn(item) if training and self.sampling.augment_rotation else item

    def _frames(self, number: int, frame: int, training: bool) -> Tuple[Tensor, Tensor, Optional[Tensor]]:
        """Input, target and the frame before the input, if there is one."""
        run, lag = self.runs[number], self.sampling.lag
        if training and self._crossing is not None and torch.rand(()) < self.sampling.augment_crossing:
            return self._crossing(number, frame)
        width = self.sampling.augment_smoothing if training else 0
        smooth_input = width > 0 and bool(torch.rand(()) < 0.5)
        previous = _average(run, frame - lag, 0) if frame >= lag else None
        return _average(run, frame, width if smooth_input else 0), _average(run, frame + lag, width), previous

    def _neighbors(self, number: int, frame: int) -> Tensor:
        """Ranks of the frame that ``rerank_interval`` names, computed once."""
        source = frame - frame % self.sampling.rerank_interval if self.sampling.rerank_interval > 0 else 0
        if (number, source) not in self._ranks:
            run = self.runs[number]
            pos = torch.from_numpy(np.array(run.positions[source], dtype=np.float32))
            box = None if run.boxes is None else torch.from_numpy(np.array(run.boxes[source]))
            # int32 halves what a long list of runs keeps in memory.
            self._ranks[number, source] = distance_ranks(pos, self.sampling.num_neighbors, None, box).int()
        return self._ranks[number, source]


def _what_runs_declare(runs: Sequence[Run]) -> Dict[str, Any]:
    """Time between frames, where known, and elements, where all runs are in memory, for the metadata.

    Raises:
        ValueError: runs differ in the time between frames.
    """
    declared: Dict[str, Any] = {}
    known = [run for run in runs if run.spacing is not None]
    for run in known[1:]:
        if not same_spacing(run.spacing, known[0].spacing):
            raise ValueError(
                f"{known[0].name} has {known[0].spacing:g} ps between frames, {run.name} has "
                f"{run.spacing:g}: lag would mean different times; give files of one spacing"
            )
    if known:
        declared["picoseconds_per_frame"] = known[0].spacing
    if all(isinstance(run, Run) for run in runs):
        declared["elements"] = sorted({int(number) for run in runs for number in np.unique(run.numbers)})
    return declared


def refuse_with_boxes(**options: Any) -> None:
    """Refuses options that turn structures: their boxes would stay, and join atoms that are far apart.

    Raises:
        ValueError: one of them is set.
    """
    for name, value in options.items():
        if value and value != "none":
            raise ValueError(
                f"{name}: {value!r} was given with periodic boxes, which would not turn with the structure; "
                "leave it out, or set periodic: false"
            )


def _average(run: Run, frame: int, width: int) -> Tensor:
    """Mean position over frames ``frame - width`` to ``frame + width``, fewer at the ends of the run."""
    width = min(width, frame, len(run.positions) - 1 - frame)
    frames = [run.positions[index] for index in range(frame - width, frame + width + 1)]
    return torch.from_numpy(np.mean(np.asarray(frames, dtype=np.float32), axis=0))


def _turn(item: Data) -> Data:
    """The item in a random orientation, about the centroid of its input."""
    rotation = random_rotation()
    center = item.pos.mean(0)
    for name in ("pos", "previous"):
        if name in item:
            item[name] = (item[name] - center) @ rotation.T + center
    item.y = item.y @ rotation.T
    return item


def random_rotation() -> Tensor:
    """A uniformly distributed rotation matrix (3, 3), float32, from torch's random numbers."""
    w, x, y, z = torch.nn.functional.normalize(torch.randn(4, dtype=torch.float64), dim=0).tolist()
    rows: Any = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return torch.tensor(rows, dtype=torch.float64).float()
