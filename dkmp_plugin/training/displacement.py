"""Output head of DKMP^R: displacements to the next frame."""

from typing import Any, Optional

import torch
from torch import Tensor, nn
from torchmdnet.models.utils import act_class_mapping

from dkmp_plugin.models.linear_map import LinearMap

# Unit of the memory factors: lets them reach their size, some tenths, at the pace of the other weights.
_MEMORY_SCALE = 5.0


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
        num_vectors: V, vectors that the representation puts behind its features; each enters the displacement
            with a factor that depends on the features.
        memory: Whether the displacement since the frame before enters; see :meth:`memory_factors`.
        max_z: Largest atomic number + 1.
        **kwargs: Settings of torchmd-net's other heads, unused.
    """

    def __init__(
        self,
        hidden_channels: int,
        activation: str = "silu",
        reduce_op: str = "sum",
        dtype: torch.dtype = torch.float32,
        displacement_scale: float = 1.0,
        num_vectors: int = 0,
        memory: bool = False,
        max_z: int = 100,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.allow_prior_model = False
        self.reduce_op = reduce_op
        self.displacement_scale = displacement_scale
        self.hidden = LinearMap(hidden_channels, hidden_channels, dtype=dtype)
        self.activation = act_class_mapping[activation]()
        self.last = LinearMap(hidden_channels, 3, dtype=dtype)
        self.num_vectors = num_vectors
        self.factors = LinearMap(hidden_channels, num_vectors, dtype=dtype) if num_vectors else nn.Identity()
        self.has_memory = memory
        self.memory_scale = _MEMORY_SCALE
        if memory:
            self.memory = nn.Parameter(torch.zeros(max_z, dtype=dtype))
        else:
            self.register_buffer("memory", torch.zeros(0, dtype=dtype), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew; the last layers start at zero."""
        self.hidden.reset_parameters()
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        if isinstance(self.factors, nn.Linear):
            nn.init.zeros_(self.factors.weight)
            nn.init.zeros_(self.factors.bias)
        if self.has_memory:
            nn.init.zeros_(self.memory)

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
            x: (N, d + 3 V) features, and V vectors in Å.
            v: (N, 3, 3) canonical frame of each atom's system (columns are its axes), or None.
            z: Unused.
            pos: Unused.
            batch: Unused.
            box: Unused.

        Returns:
            (N, 3) in Å.
        """
        channels = x.size(1) - 3 * self.num_vectors
        hidden = self.activation(self.hidden(x[:, :channels]))
        displacement = self.displacement_scale * self.last(hidden)
        if self.num_vectors > 0:
            vectors = x[:, channels:].view(-1, self.num_vectors, 3)
            displacement = displacement + (self.factors(hidden).unsqueeze(2) * vectors).sum(1)
        if v is not None:
            displacement = torch.bmm(v, displacement.unsqueeze(2)).squeeze(2)
        return displacement

    @torch.jit.export
    def memory_factors(self, z: Tensor) -> Tensor:
        """What the displacement since the frame before is multiplied by, (N,), per element.

        One frame does not tell where the atoms come from. At short lags much of a displacement is thermal and
        is taken back in the next step; this is the first term of a memory kernel (Mori-Zwanzig).
        """
        if self.has_memory:
            return self.memory_scale * self.memory.index_select(0, z)
        return torch.zeros(z.size(0), dtype=self.last.weight.dtype, device=z.device)

    def reduce(self, x: Tensor, batch: Tensor, num_systems: Optional[int] = None) -> Tensor:
        """The displacements as they are: nothing is summed over atoms."""
        return x

    def post_reduce(self, x: Tensor) -> Tensor:
        """The displacements as they are."""
        return x
