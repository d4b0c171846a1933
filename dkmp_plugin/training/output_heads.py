"""Output heads that torchmd-net finds by the YAML key ``output_model``.

``dkmp-c`` uses torchmd-net's own gated equivariant head (``output_model: Scalar``).
"""

__all__: list[str] = []
