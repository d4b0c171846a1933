"""DKMP^R with its head, as torchmd-net trains it."""

from typing import Dict, Optional, Tuple

import torch
from torch import Tensor
from torchmdnet.models.model import TorchMD_Net

from dkmp_plugin.models.dkmp_r import DKMPR
from dkmp_plugin.training.displacement import Displacement


def batched_ranks(local: Tensor, batch: Tensor) -> Tensor:
    """Ranks of a batch from ranks that count the atoms of each system from 0.

    Args:
        local: (N, M) indices within each atom's own system, -1 for none.
        batch: (N,) int64 system of each atom, non-decreasing.

    Returns:
        (N, M) int64 indices into the batch, -1 for none.
    """
    sizes = torch.bincount(batch)
    starts = torch.cumsum(sizes, 0) - sizes
    shifted = local.long() + starts.index_select(0, batch).unsqueeze(1)
    return torch.where(local < 0, torch.full_like(shifted, -1), shifted)


class DisplacementModel(TorchMD_Net):
    """DKMP^R with its head, as torchmd-net trains it.

    Differs from its parent in two points. Ranks that the dataset brings along (``neighbors``, those of the
    first frame of the run) are used instead of those of the frame itself. And where the dataset brings the
    frame before (``previous``), every second training step starts from the model's own prediction of ``pos``
    in place of ``pos`` (pushforward, Brandstetter et al. 2022): a rollout then meets what it was trained on.

    Args:
        representation: The dilated network.
        head: The displacement head.
        dtype: Of the parameters.
    """

    def __init__(self, representation: DKMPR, head: Displacement, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(representation, head, derivative=False, dtype=dtype)

    def forward(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Optional[Tensor] = None,
        box: Optional[Tensor] = None,
        q: Optional[Tensor] = None,
        s: Optional[Tensor] = None,
        extra_args: Optional[Dict[str, Tensor]] = None,
        num_systems: Optional[int] = None,
    ) -> Tuple[Tensor, Tensor]:
        """Displacements to the next frame.

        Args:
            z: (N,) int64 atomic numbers.
            pos: (N, 3) in Å.
            batch: (N,) int64 system of each atom, non-decreasing; None for one system.
            box: (3, 3) or (B, 3, 3) box vectors as rows in Å, or None.
            q: Unused.
            s: Unused.
            extra_args: May hold ``neighbors`` (N, at least M), ranks counted within each system, and in
                training ``previous`` (N, 3) in Å, the frame before ``pos``.
            num_systems: Unused.

        Returns:
            Displacements (N, 3) in Å, and an empty tensor in place of torchmd-net's forces.
        """
        batch = torch.zeros_like(z) if batch is None else batch
        neighbors = None if extra_args is None else extra_args.get("neighbors")
        if neighbors is None:
            neighbors = self.representation_model.distance(pos, batch, box)
        else:
            neighbors = batched_ranks(neighbors, batch)
        if self.training and extra_args is not None and "previous" in extra_args:
            start = self._pushed_forward(z, pos, batch, neighbors, box, extra_args["previous"])
            return start - pos + self._predict(z, start, batch, neighbors, box), torch.empty(0)
        return self._predict(z, pos, batch, neighbors, box), torch.empty(0)

    def _predict(
        self, z: Tensor, pos: Tensor, batch: Tensor, neighbors: Tensor, box: Optional[Tensor]
    ) -> Tensor:
        x, frame, z, pos, batch = self.representation_model.encode(z, pos, batch, neighbors, box)
        return self.output_model.pre_reduce(x, frame, z, pos, batch, box)

    def _pushed_forward(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Tensor,
        neighbors: Tensor,
        box: Optional[Tensor],
        previous: Tensor,
    ) -> Tensor:
        """Every second batch: what the model itself predicts for ``pos``, where there is an earlier frame."""
        if bool(torch.rand(()) < 0.5):
            return pos
        with torch.no_grad():
            predicted = previous + self._predict(z, previous, batch, neighbors, box)
        moved = torch.zeros(int(batch[-1]) + 1, dtype=pos.dtype, device=pos.device)
        moved = moved.index_add(0, batch, (pos - previous).abs().sum(1)) > 0
        return torch.where(moved.index_select(0, batch).unsqueeze(1), predicted, pos)
