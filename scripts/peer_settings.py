"""torchmd-train settings of the comparisons of dkmp-c with torchmd-net's own models on the demo's labels."""

from pathlib import Path
from typing import Any, Dict

import yaml

from dkmp_plugin.config import HYPERPARAMETERS

EXAMPLE = Path(__file__).resolve().parent.parent / "examples/dkmp.yaml"
# Width, depth, basis and head are examples/dkmp.yaml's; smooth at the cutoff.
EQUIVARIANT_TRANSFORMER = {
    "model": "equivariant-transformer",
    "cutoff_upper": 5.0,
    "distance_influence": "both",
    "neighbor_embedding": True,
    "vector_cutoff": True,
    "attn_activation": "silu",
}


def common_settings(configuration: Path = EXAMPLE) -> Dict[str, Any]:
    """Those of a configuration of dkmp-c, with torchmd-net's own loss and optimiser and a rate for it."""
    ours = yaml.safe_load(configuration.read_text())
    return {**ours, "train_loss": "mse_loss", "optimizer": "adamw", "lr": 1.5e-3}


def stock_settings(settings: Dict[str, Any]) -> Dict[str, Any]:
    """The same without the keys that only our models know."""
    ours = {parameter.name for parameter in HYPERPARAMETERS}
    return {name: value for name, value in settings.items() if name not in ours}
