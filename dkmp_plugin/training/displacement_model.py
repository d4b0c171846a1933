"""The whole model of DKMP^R: ranks, reference, memory and pushforward around the network and its head."""

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

    Differs from its parent in what the dataset may bring along. Ranks (``neighbors``, those of the first
    frame of the run) and a ``reference`` structure are used instead of those of the frame itself. The frame
    before (``previous``) serves a head with memory. Without memory, every second training step that has such
    a frame starts from the model's own prediction of ``pos`` in place of ``pos`` (pushforward, Brandstetter
    et al. 2022): a rollout then meets what it was trained on.

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
            extra_args: May hold ``neighbors`` (N, at least M), ranks counted within each system;
                ``reference`` (N, 3) in Å (see :class:`DKMPR`); ``previous`` (N, 3) in Å, the frame before.
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
        reference = None if extra_args is None else extra_args.get("reference")
        previous = None if extra_args is None else extra_args.get("previous")
        if self.output_model.has_memory:
            displacement = self._predict(z, pos, batch, neighbors, box, reference)
            return self._remembering(displacement, z, pos, previous), pos.new_empty(0)
        if self.training and previous is not None:
            start = self._pushed_forward(z, pos, batch, neighbors, box, reference, previous)
            return start - pos + self._predict(z, start, batch, neighbors, box, reference), pos.new_empty(0)
        return self._predict(z, pos, batch, neighbors, box, reference), pos.new_empty(0)

    def _predict(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Tensor,
        neighbors: Tensor,
        box: Optional[Tensor],
        reference: Optional[Tensor],
    ) -> Tensor:
        x, frame, z, pos, batch = self.representation_model.encode(z, pos, batch, neighbors, box, reference)
        return self.output_model.pre_reduce(x, frame, z, pos, batch, box)

    def _remembering(
        self, displacement: Tensor, z: Tensor, pos: Tensor, previous: Optional[Tensor]
    ) -> Tensor:
        """The prediction with the share of the displacement since the frame before."""
        if previous is None:
            if self.training:
                raise ValueError(
                    "memory: the dataset brings no frame before; set previous: true in dataset_arg"
                )
            return displacement
        return displacement + self.output_model.memory_factors(z).unsqueeze(1) * (pos - previous)

    def _pushed_forward(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Tensor,
        neighbors: Tensor,
        box: Optional[Tensor],
        reference: Optional[Tensor],
        previous: Tensor,
    ) -> Tensor:
        """Every second batch: what the model itself predicts for ``pos``, where there is an earlier frame."""
        if bool(torch.rand((), device="cpu") < 0.5):  # decided on the host, which then waits for no GPU
            return pos
        with torch.no_grad():
            predicted = previous + self._predict(z, previous, batch, neighbors, box, reference)
        moved = torch.zeros(int(batch[-1]) + 1, dtype=pos.dtype, device=pos.device)
        moved = moved.index_add(0, batch, (pos - previous).abs().sum(1)) > 0
        return torch.where(moved.index_select(0, batch).unsqueeze(1), predicted, pos)
