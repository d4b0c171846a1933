"""What the layers of one DKMP^C model have in common."""

from typing import NamedTuple

import torch


class LayerSettings(NamedTuple):
    """Settings that every layer of a model shares.

    Attributes:
        hidden_channels: Width d.
        num_rbf: Number of radial basis functions.
        rbf_type: ``expnorm`` or ``gauss``.
        trainable_rbf: Whether the radial basis has parameters.
        activation: Name of the activation function of the updates.
        stretch: Of that function (:class:`dkmp_plugin.models.stretched_activation.StretchedActivation`).
        num_heads: Number of attention heads.
        dtype: Floating-point type.
    """

    hidden_channels: int
    num_rbf: int
    rbf_type: str
    trainable_rbf: bool
    activation: str
    stretch: float
    num_heads: int
    dtype: torch.dtype
