"""Output head of DKMP^R: displacements to the next frame."""

from typing import Any, Optional

import torch
from torch import Tensor, nn
from torchmdnet.models.utils import act_class_mapping


class Displacement(nn.Module):
    """Displacement (N, 3) in Å of every atom, turned back from the canonical frame.

    A fresh head predicts zero, which is persistence: training can only improve on it. Has the methods of
    torchmd-net's ``OutputModel`` without deriving from it: importing that class from here would run the
    import hook, which imports this module.

    Args:
        hidden_channels: Width d of the representation.
        activation: torchmd-net name of the activation.
        reduce_op: Unused; displacements are not summed.
        dtype: Of the parameters.
        displacement_scale: Unit of the last layer in Å.
        **kwargs: Settings of torchmd-net's other heads, unused.
    """

    def __init__(
        self,
        hidden_channels: int,
        activation: str = "silu",
        reduce_op: str = "sum",
        dtype: torch.dtype = torch.float32,
        displacement_scale: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.allow_prior_model = False
        self.reduce_op = reduce_op
        self.displacement_scale = displacement_scale
        self.hidden = nn.Linear(hidden_channels, hidden_channels, dtype=dtype)
        self.activation = act_class_mapping[activation]()
        self.last = nn.Linear(hidden_channels, 3, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew; the last layer starts at zero."""
        self.hidden.reset_parameters()
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def pre_reduce(
        self,
        x: Tensor,
        v: Optional[Tensor],
        z: Tensor,
        pos: Tensor,
        batch: Tensor,
        box: Optional[Tensor] = None,
    ) -> Tensor:
        """Displacements in the orientation of ``pos``.

        Args:
            x: (N, d) features.
            v: (N, 3, 3) canonical frame of each atom's system (columns are its axes), or None.
            z: Unused.
            pos: Unused.
            batch: Unused.
            box: Unused.

        Returns:
            (N, 3) in Å.
        """
        displacement = self.displacement_scale * self.last(self.activation(self.hidden(x)))
        if v is not None:
            displacement = torch.bmm(v, displacement.unsqueeze(2)).squeeze(2)
        return displacement

    def reduce(self, x: Tensor, batch: Tensor, num_systems: Optional[int] = None) -> Tensor:
        """The displacements as they are: nothing is summed over atoms."""
        return x

    def post_reduce(self, x: Tensor) -> Tensor:
        """The displacements as they are."""
        return x
