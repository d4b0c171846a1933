"""A checkpoint of a small ``dkmp-r`` model for glycylglycine, as torchmd-train would write it."""

from pathlib import Path

import torch

from dkmp_plugin.training.factory import create_dkmp_model
from tests.conftest import hyper_parameters


def write_checkpoint(path: Path, **changes) -> Path:
    """Weights are random, but the model has "seen" C, N and O and moves atoms by about 0.1 Å."""
    values = hyper_parameters(
        model="dkmp-r",
        output_model="Displacement",
        derivative=False,
        precision=32,
        num_layers=2,
        max_num_neighbors=4,
        canonical_frame="principal",
        attention_variant="split",
        num_frequencies=4,
        displacement_scale=1.0,
        **changes,
    )
    torch.manual_seed(0)
    model = create_dkmp_model(values)
    torch.nn.init.normal_(model.output_model.last.weight, std=0.1)
    model.representation_model.trained_elements[[6, 7, 8]] = True
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    dataset = {"lag": 2, "selection": "full"}
    contents = {"hyper_parameters": values, "state_dict": state, "dkmp_plugin": {"dataset": dataset}}
    torch.save(contents, path)
    return path
