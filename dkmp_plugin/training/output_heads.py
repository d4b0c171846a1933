"""Output heads that torchmd-net finds by the YAML key ``output_model``.

``dkmp-c`` uses torchmd-net's own gated equivariant head (``output_model: Scalar``); ``dkmp-r`` predicts
displacements.
"""

from dkmp_plugin.training.displacement import Displacement

__all__ = ["Displacement"]
