"""EGNN (Satorras et al. 2021, doi:10.48550/arXiv.2102.09844) as the baseline that DKMP^R is printed beside.

The layers are those of the package ``egnn-pytorch``; here is only what trains them on frame pairs.
"""

import math
import time
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from dkmp_plugin.datasets.frame_pairs import FramePairs
from dkmp_plugin.ops import distance_ranks
from dkmp_plugin.optional import require


class EGNNBaseline(nn.Module):
    """Layers of EGNN over the nearest neighbours of a frame; the moved coordinates are the prediction.

    Args:
        hidden_channels: Width of the scalar features.
        num_layers: Number of layers.
        num_neighbors: Nearest neighbours per atom.
        max_z: Number of elements the embedding holds.

    Raises:
        MissingPackageError: egnn-pytorch is not installed.
    """

    def __init__(
        self, hidden_channels: int = 32, num_layers: int = 4, num_neighbors: int = 16, max_z: int = 100
    ) -> None:
        super().__init__()
        require("egnn_pytorch", "the EGNN baseline")
        from egnn_pytorch import EGNN_Sparse

        self.num_neighbors = num_neighbors
        self.embedding = nn.Embedding(max_z, hidden_channels)
        self.layers = nn.ModuleList(
            EGNN_Sparse(feats_dim=hidden_channels, norm_feats=True, norm_coors=True, aggr="mean")
            for _ in range(num_layers)
        )

    def forward(self, z: Tensor, pos: Tensor, neighbors: Tensor) -> Tensor:
        """Displacements (N, 3) in Å.

        Args:
            z: (N,) atomic numbers.
            pos: (N, 3) in Å.
            neighbors: (N, at least num_neighbors) distance ranks, -1 for none.
        """
        nearest = neighbors[:, : self.num_neighbors].long()
        receivers = torch.arange(len(z), device=z.device).unsqueeze(1).expand_as(nearest)
        present = nearest >= 0
        edges = torch.stack([nearest[present], receivers[present]])
        batch = torch.zeros_like(z)
        state = torch.cat([pos - pos.mean(0), self.embedding(z)], dim=1)
        start = state[:, :3]
        for layer in self.layers:
            state = layer(state, edges, batch=batch)
        return state[:, :3] - start


def train_egnn(
    data: FramePairs, cpu_seconds: float, lr: float = 2e-3, seed: int = 1, **architecture: Any
) -> Tuple[EGNNBaseline, Dict[str, float]]:
    """Trains on the training pairs of a dataset, one structure per step, for a given processor time.

    Args:
        data: Frame pairs with at least as many ``num_neighbors`` as the baseline uses.
        cpu_seconds: Processor time of this process.
        lr: First learning rate; it falls to zero on half a cosine.
        seed: Of the weights and the order of the pairs.
        **architecture: See :class:`EGNNBaseline`.

    Returns:
        The trained baseline; the number of steps and passes over the data.

    Raises:
        ValueError: the dataset brings no neighbours along.
        MissingPackageError: egnn-pytorch is not installed.
    """
    if data.sampling.num_neighbors == 0:
        raise ValueError("train_egnn: the dataset has num_neighbors = 0; set it to 16 or more")
    torch.manual_seed(seed)
    model = EGNNBaseline(**architecture)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    train = data.split_indices[0]
    start, steps = time.process_time(), 0
    order: List[int] = []
    while (used := time.process_time() - start) < cpu_seconds or steps == 0:
        if not order:
            order = train[torch.randperm(len(train))].tolist()
        for group in optimizer.param_groups:
            group["lr"] = 0.5 * lr * (1 + math.cos(math.pi * min(used / cpu_seconds, 1.0)))
        item = data[order.pop()]
        loss = (model(item.z, item.pos, item.neighbors) - item.y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        steps += 1
    return model.eval(), {"steps": steps, "epochs": steps / len(train)}


class EGNNPredictor:
    """The next frame by a trained baseline; ranks come from the first frame, as for DKMP^R.

    Args:
        model: The baseline.
        numbers: (N,) atomic numbers.
    """

    def __init__(self, model: EGNNBaseline, numbers: np.ndarray) -> None:
        self.model = model
        self.numbers = torch.as_tensor(numbers, dtype=torch.int64)
        self._neighbors: Optional[Tensor] = None

    def restart(self) -> None:
        """Forget the ranks: the next frame is the first of another trajectory."""
        self._neighbors = None

    def __call__(self, positions: np.ndarray, previous: Optional[np.ndarray] = None) -> np.ndarray:
        """The frame after ``positions``, both (N, 3) in Å; the frame before does not matter."""
        pos = torch.as_tensor(positions, dtype=torch.float32)
        if self._neighbors is None:
            self._neighbors = distance_ranks(pos, self.model.num_neighbors)
        with torch.no_grad():
            return (pos + self.model(self.numbers, pos, self._neighbors)).numpy()
