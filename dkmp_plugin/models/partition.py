"""Which distance ranks each layer of DKMP^R sees: the paper's dilation, and what it is compared with."""

import torch
from torch import Tensor

from dkmp_plugin.config import PARTITIONS


def rank_columns(partition: str, num_layers: int, per_layer: int) -> Tensor:
    """Columns of the ranks for every layer (paper, eq. 4 and Table 7).

    - ``dilated``: layer l sees the ranks ``(l K, (l + 1) K]``: every edge once, in order of distance.
    - ``one-shot``: every layer sees the K nearest neighbours (a plain K-nearest-neighbour graph).
    - ``random``: the same M edges as ``dilated``, dealt to the layers at random (alike for all atoms).
    - ``reuse-25``: as ``dilated``, but a quarter of the edges of each layer after the first are those of the
      layer before.

    Args:
        partition: name.
        num_layers: L.
        per_layer: K.

    Returns:
        (L, K) int64.

    Raises:
        ValueError: unknown name.
    """
    dilated = torch.arange(num_layers * per_layer).view(num_layers, per_layer)
    if partition == "dilated":
        return dilated
    if partition == "one-shot":
        return dilated[:1].repeat(num_layers, 1)
    if partition == "random":
        order = torch.randperm(num_layers * per_layer, generator=torch.Generator().manual_seed(0))
        return order.view(num_layers, per_layer)
    if partition == "reuse-25":
        reused = dilated.clone()
        quarter = per_layer // 4
        reused[1:, :quarter] = dilated[:-1, per_layer - quarter :]
        return reused
    raise ValueError(f"partition: {partition!r} was given, one of {', '.join(PARTITIONS)} is expected")
