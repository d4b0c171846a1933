"""The structure that DKMP^R sees a frame relative to: the first frame of a trajectory, or a stored mean."""

from typing import Any, Dict, Optional

import torch
from torch import Tensor, nn

from dkmp_plugin.models.canonical_frame import centroids, principal_frames


def check_same_atoms(stored: Tensor, numbers: Tensor, z: Tensor, num_systems: int) -> None:
    """Refuses systems that a stored reference does not belong to.

    Args:
        stored: (n, 3) the reference; empty where there is none.
        numbers: (n,) int64 its atomic numbers; empty where they are not known (models of before).
        z: (N,) int64 atomic numbers of the systems.
        num_systems: B.

    Raises:
        ValueError: other atoms, or the same in another order.
    """
    if stored.size(0) == 0:
        return
    if stored.size(0) * num_systems != z.size(0):
        raise ValueError(
            f"{z.size(0)} atoms in {num_systems} systems were given, the mean structure of this "
            f"model has {stored.size(0)} atoms; use canonical_frame: first for many systems"
        )
    if numbers.size(0) == 0:
        return
    expected = numbers.repeat(num_systems)
    if not torch.equal(z, expected):
        atom = int((z != expected).nonzero()[0, 0])
        raise ValueError(
            f"atom {atom} has atomic number {int(z[atom])}, in the mean structure of this model "
            f"{int(expected[atom])}; give the atoms of the training data in their order, or use "
            "canonical_frame: first for many systems"
        )


class ReferenceStructure(nn.Module):
    """Chooses the reference of a call, and keeps the one of the training data if asked to.

    A reference is used centred and in its own principal axes: how it was oriented does not matter.

    Args:
        keep: Store the reference that training brings along (one system, such as its mean structure); every
            later call uses it. Otherwise each call is given one (the first frame of its trajectory).

    Attributes:
        stored: (n, 3) in Å, empty until there is one.
        numbers: (n,) int64 atomic numbers of the stored one; empty in models of before they were kept.
    """

    stored: Tensor
    numbers: Tensor

    def __init__(self, keep: bool) -> None:
        super().__init__()
        self.keep = keep
        self.register_buffer("stored", torch.zeros(0, 3), persistent=keep)
        self.register_buffer("numbers", torch.zeros(0, dtype=torch.int64), persistent=keep)

    def _load_from_state_dict(self, state_dict: Dict[str, Any], prefix: str, *args: Any) -> None:
        if self.keep:
            state_dict.setdefault(prefix + "numbers", torch.zeros(0, dtype=torch.int64))
        # The buffers of a fresh model are empty; those of a trained one have one row per atom.
        for name in ("stored", "numbers"):
            if prefix + name in state_dict:
                getattr(self, name).resize_(state_dict[prefix + name].shape)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def remember(self, given: Optional[Tensor], batch: Tensor, z: Tensor) -> None:
        """In training: where one is kept, store the first system's reference, unless there is one already.

        Raises:
            ValueError: nothing is given, and nothing stored.
        """
        if self.stored.size(0) > 0:
            return
        if given is None:
            name = "mean" if self.keep else "first"
            what = "the mean structure of the training runs" if self.keep else "the first frame of each run"
            raise ValueError(f"canonical_frame: '{name}' needs {what}; set reference: {name} in dataset_arg")
        if self.keep:
            first = given[batch == 0].detach()
            self.stored.resize_(first.shape)
            self.stored.copy_(first)
            numbers = z[batch == 0]
            self.numbers.resize_(numbers.shape)
            self.numbers.copy_(numbers)

    def forward(
        self, z: Tensor, pos: Tensor, batch: Tensor, num_systems: int, given: Optional[Tensor]
    ) -> Tensor:
        """The reference of every atom, (N, 3) in Å, centred and in principal axes.

        Args:
            z: (N,) int64 atomic numbers.
            pos: (N, 3) in Å, the reference where there is no other.
            batch: (N,) system of each atom.
            num_systems: B.
            given: (N, 3) in Å or None; not used where one is stored.

        Raises:
            ValueError: the stored reference is of another system.
        """
        if self.stored.size(0) > 0:
            check_same_atoms(self.stored, self.numbers, z, num_systems)
            reference = self.stored.to(pos.dtype).repeat(num_systems, 1)
        elif given is not None:
            reference = given.to(pos.dtype)
        else:
            reference = pos.detach()
        centered = reference - centroids(reference, batch, num_systems).index_select(0, batch)
        axes = principal_frames(centered, batch, num_systems).index_select(0, batch)
        return torch.bmm(centered.unsqueeze(1), axes).squeeze(1)
