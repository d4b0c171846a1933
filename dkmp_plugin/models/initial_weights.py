"""Fresh weights of the models' linear maps."""

from torch import nn


def reset_linear_maps(*linear_maps: nn.Linear) -> None:
    """Xavier-uniform weights, biases at zero."""
    for linear_map in linear_maps:
        nn.init.xavier_uniform_(linear_map.weight)
        if linear_map.bias is not None:
            nn.init.zeros_(linear_map.bias)
