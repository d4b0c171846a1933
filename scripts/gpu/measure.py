"""Times and errors."""

import statistics
import time
from typing import Callable, Sequence

import torch
from torch import Tensor

from dkmp_plugin.device import synchronize


def gpu_seconds(function: Callable[[], object], rounds: int = 20) -> float:
    """Median seconds of a call, by CUDA events, after warming up."""
    for _ in range(3):
        function()
    times = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) * 1e-3)
    return statistics.median(times)


def wall_seconds(function: Callable[[], object], device: str, rounds: int = 10) -> float:
    """Median seconds until the results of a call are there, launches by the host included."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        synchronize(torch.device(device))
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def worst_error(found: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float) -> float:
    """Largest error relative to each tensor's largest element; raises above the tolerance."""
    worst = 0.0
    for a, b in zip(found, expected, strict=True):
        scale = max(float(b.abs().max()), 1e-30) if b.numel() else 1.0
        worst = max(worst, float((a.double() - b.double()).abs().max()) / scale if b.numel() else 0.0)
    if not worst <= tolerance:
        raise AssertionError(f"relative error {worst:.1e}, allowed {tolerance:.0e}")
    return worst
