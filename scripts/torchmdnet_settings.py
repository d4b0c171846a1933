"""What torchmd-net's model factory must be told where a script does not care."""

from typing import Any, Dict

# torchmd-net's own defaults, for all its architectures and ours.
TORCHMDNET_SETTINGS: Dict[str, Any] = {
    "num_rbf": 32,
    "rbf_type": "expnorm",
    "trainable_rbf": False,
    "activation": "silu",
    "attn_activation": "silu",
    "num_heads": 8,
    "neighbor_embedding": True,
    "distance_influence": "both",
    "aggr": "add",
    "equivariance_invariance_group": "O(3)",
    "vector_cutoff": True,
    "cutoff_lower": 0.0,
    "max_z": 100,
    "max_num_neighbors": 128,
    "derivative": True,
    "atom_filter": -1,
    "prior_model": None,
    "output_model": "Scalar",
    "reduce_op": "add",
    "precision": 32,
}
