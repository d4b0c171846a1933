"""The learning rates over a whole training, as torchmd-train sets them."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dkmp_plugin.config import LR_SCHEDULES
from dkmp_plugin.training.schedules import falling_schedule


def rates(schedule, num_steps):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    settings = SimpleNamespace(lr=0.1, lr_min=0.001, lr_schedule=schedule)
    scheduler = falling_schedule(optimizer, settings, num_steps)["scheduler"]
    seen = []
    for _ in range(num_steps + 1):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize("schedule", [name for name in LR_SCHEDULES if name != "plateau"])
def test_rates_fall_from_the_first_to_the_last(schedule):
    seen = rates(schedule, 100)
    assert seen[0] == pytest.approx(0.1) and seen[-1] == pytest.approx(0.001)
    assert all(later < earlier for earlier, later in pairwise(seen))
    # Both are halfway after half of the steps; a quarter in, the cosine is above the line.
    assert seen[50] == pytest.approx(0.0505)
    quarter = {"linear": 0.75, "cosine": 0.5 + 0.5**1.5}[schedule]
    assert seen[25] == pytest.approx(0.001 + 0.099 * quarter)
