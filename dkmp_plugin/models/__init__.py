"""The DKMP representation models and the blocks they are made of.

Nothing here imports torchmd-net's training code or OpenMM.
"""

from dkmp_plugin.models.dkmp_c import DKMPC
from dkmp_plugin.models.dkmp_r import DKMPR

__all__ = ["DKMPC", "DKMPR"]
