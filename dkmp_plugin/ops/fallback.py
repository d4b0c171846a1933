"""The operators' names without the native library: exported models that call them still load and run.

A model exported where the native library was loaded calls ``torch.ops.dkmp_plugin.*``. On a machine
without a compiler these names are defined here, on top of the pure-ATen reference.
"""

import torch

from dkmp_plugin.ops import reference

_SCHEMAS = {
    "radius_shells": "(Tensor pos, Tensor batch, Tensor? box, float cutoff, int num_shells, float overlap, "
    "int max_neighbors, int? max_edges=None) -> (Tensor, Tensor, Tensor)",
    "edge_vectors": "(Tensor pos, Tensor edge_index, Tensor cell_offsets, Tensor? box, Tensor batch) "
    "-> Tensor",
    "dilated_message": "(Tensor edge_vector, Tensor edge_index, Tensor ptr, int shell, Tensor query, "
    "Tensor key, Tensor value, Tensor vector, Tensor table, int num_heads, float lower, float upper, "
    "float overlap, float cutoff, int degree=3) -> (Tensor, Tensor)",
    "distance_ranks": "(Tensor pos, int num_neighbors, Tensor? batch, Tensor? box) -> Tensor",
    "dilated_attention": "(Tensor query, Tensor key, Tensor value, Tensor neighbors, Tensor? bias=None, "
    "float? scale=None) -> Tensor",
    "degree_products": "(Tensor first, Tensor second) -> (Tensor, Tensor)",
    "degree_invariants": "(Tensor first, Tensor second) -> Tensor",
    "degree_gates": "(Tensor gates, Tensor invariants, Tensor first, Tensor second, Tensor? product=None) "
    "-> (Tensor, Tensor)",
    "degree_norm": "(Tensor vector, Tensor weight, float offset) -> Tensor",
    "degree_norm_apart": "(Tensor vector, Tensor weight, float offset) -> (Tensor, Tensor)",
    "degree_features": "(Tensor(a) first, Tensor(b) second, Tensor message, Tensor scalars, "
    "Tensor? gate=None) -> (Tensor, Tensor(a), Tensor(b))",
    "degree_update": "(Tensor gates, Tensor first, Tensor second, Tensor scalars, Tensor vector) "
    "-> (Tensor, Tensor)",
    "degree_norm_through": "(Tensor(a) vector, Tensor weight, float offset) -> (Tensor, Tensor(a))",
    "degree_norm_apart_through": "(Tensor(a) vector, Tensor weight, float offset) "
    "-> (Tensor, Tensor, Tensor(a))",
    "linear": "(Tensor input, Tensor weight, Tensor? bias=None) -> Tensor",
}
# Registrations last as long as this object.
_LIBRARY: list[torch.library.Library] = []


def register() -> None:
    """Define the operators on top of the reference; call once, only without the native library."""
    library = torch.library.Library("dkmp_plugin", "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        library.define(name + schema)
        # Composite: autograd differentiates what the reference is made of.
        library.impl(name, getattr(reference, name), "CompositeImplicitAutograd")
    _LIBRARY.append(library)
