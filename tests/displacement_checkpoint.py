"""A checkpoint of a small ``dkmp-r`` model for glycylglycine, as torchmd-train would write it."""

from pathlib import Path

import torch

from dkmp_plugin.training.factory import create_dkmp_model
from tests.conftest import hyper_parameters
from tests.datasets.trajectory_fixtures import GLYCINES


def write_checkpoint(path: Path, **changes) -> Path:
    """Weights are random, but the model has "seen" C, N and O and moves atoms by about 0.1 Å.

    Args:
        path: The file to write.
        **changes: Hyper-parameters; a model with the canonical frame ``mean`` keeps a structure of its own.
    """
    defaults = {
        "model": "dkmp-r",
        "output_model": "Displacement",
        "derivative": False,
        "precision": 32,
        "num_layers": 2,
        "max_num_neighbors": 4,
        "canonical_frame": "principal",
        "attention_variant": "split",
        "num_frequencies": 4,
        "displacement_scale": 1.0,
        "memory": False,
    }
    values = hyper_parameters(**{**defaults, **changes})
    torch.manual_seed(0)
    model = create_dkmp_model(values)
    torch.nn.init.normal_(model.output_model.last.weight, std=0.1)
    if model.output_model.num_vectors:
        torch.nn.init.normal_(model.output_model.factors.weight, std=0.1)
    if values["memory"]:
        torch.nn.init.constant_(model.output_model.memory, 0.1)
    if values["canonical_frame"] == "mean":
        model.representation_model.reference.stored.resize_(8, 3).copy_(torch.from_numpy(1.1 * GLYCINES))
    model.representation_model.trained_elements[[6, 7, 8]] = True
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    dataset = {"lag": 2, "selection": "full"}
    contents = {"hyper_parameters": values, "state_dict": state, "dkmp_plugin": {"dataset": dataset}}
    torch.save(contents, path)
    return path
