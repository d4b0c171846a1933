"""Paths of messages: direct ones in DKMP^C, none beyond depth times cutoff in local networks."""

import pytest
import torch
from torchmdnet.models.model import create_model

from dkmp_plugin.evaluation.oversquashing import feature_jacobian
from tests.conftest import hyper_parameters

LOCAL_CUTOFF, LAYERS = 5.0, 2


def representation(model, **changes):
    torch.manual_seed(0)
    local = {
        "cutoff_upper": LOCAL_CUTOFF,
        "num_layers": LAYERS,
        "attn_activation": "silu",
        "distance_influence": "both",
        "neighbor_embedding": False,
        "aggr": "add",
        "max_num_neighbors": 32,
        "vector_cutoff": True,
    }
    settings = hyper_parameters(**{**(local if model != "dkmp-c" else {}), "model": model, **changes})
    return create_model(settings).representation_model.eval()


def chain(length, spacing=2.75):
    pos = torch.zeros(length, 3, dtype=torch.float64)
    pos[:, 0] = spacing * torch.arange(length)
    return torch.full((length,), 6), pos


def dkmp_c():
    """One pass outwards: 6 shells of 2 Å."""
    return representation("dkmp-c", num_layers=6, cutoff_upper=12.0)


def test_the_direct_path_exists():
    """Two atoms 11 Å apart and nothing between them: a single hop, or none at all."""
    z = torch.tensor([6, 8])
    pos = torch.tensor([[0.0, 0, 0], [11.0, 0, 0]], dtype=torch.float64)
    assert feature_jacobian(dkmp_c(), z, pos, 0)[1] > 1e-6
    pos[1, 0] = 12.5  # beyond the cutoff
    assert feature_jacobian(dkmp_c(), z, pos, 0).max() == 0.0


@pytest.mark.parametrize("model", ["graph-network", "equivariant-transformer"])
def test_a_local_network_feels_nothing_beyond_depth_times_cutoff(model):
    z, pos = chain(6)  # 0, 2.75, 5.5, 8.25, 11, 13.75 Å
    local = feature_jacobian(representation(model), z, pos, 0)
    reach = LAYERS * LOCAL_CUTOFF
    assert (local[pos[:, 0] > reach] == 0.0).all()
    assert local[1] > 1e-6
    assert feature_jacobian(dkmp_c(), z, pos, 0)[4] > 1e-6


def test_against_finite_differences():
    z, pos = chain(4)
    pos += 0.3 * torch.rand(pos.shape, dtype=pos.dtype, generator=torch.Generator().manual_seed(0))
    model = dkmp_c()
    step, squares = 1e-5, 0.0
    for axis in range(3):
        shift = torch.zeros_like(pos)
        shift[3, axis] = step
        above, below = (model(z, pos + sign * shift, torch.zeros_like(z))[0][1] for sign in (1, -1))
        squares += ((above - below) / (2 * step)).square().sum()
    assert feature_jacobian(model, z, pos, 1)[3].item() == pytest.approx(squares.sqrt().item(), rel=1e-5)
