"""Devices that users ask for: what is refused, what is chosen, and that naming the CPU changes nothing."""

import pytest
import torch

from dkmp_plugin import ops
from dkmp_plugin.device import available_device, resolve_device, synchronize


def with_gpus(monkeypatch, count, obstacle=None):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(ops, "why_no_cuda", lambda: obstacle)


@pytest.mark.parametrize("asked", ["cpu", "cpu:0", torch.device("cpu")])
def test_the_cpu(asked):
    assert resolve_device(asked) == torch.device("cpu")


def test_the_default_is_a_gpu_where_there_is_one(monkeypatch):
    with_gpus(monkeypatch, 0)
    assert resolve_device() == torch.device("cpu")
    with_gpus(monkeypatch, 2)
    assert resolve_device() == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    assert resolve_device(torch.device("cuda")) == torch.device("cuda")


@pytest.mark.skipif(not ops.status().native, reason="the reference runs wherever torch does")
def test_a_gpu_that_the_ops_cannot_use(monkeypatch):
    with_gpus(monkeypatch, 1, "NVRTC is not installed")
    assert resolve_device() == torch.device("cpu")
    with pytest.raises(ValueError, match="'cuda' was given, but NVRTC is not installed; use 'cpu'"):
        resolve_device("cuda")


@pytest.mark.parametrize(
    ("asked", "gpus", "message"),
    [
        ("cuda", 0, "device: 'cuda' was given, but torch sees no GPU.*; use 'cpu'"),
        ("cuda:2", 2, r"'cuda:2' was given, but torch sees 2 GPU\(s\), counted from 0"),
        ("gpu", 1, "'gpu' was given, one of cpu, cuda, cuda:0"),
        ("mps", 1, "'mps' was given, one of cpu"),
        (3.5, 1, r"'3\.5' was given, one of cpu"),
        ("", 1, "'' was given, one of cpu"),
    ],
)
def test_refusals(monkeypatch, asked, gpus, message):
    with_gpus(monkeypatch, gpus)
    with pytest.raises(ValueError, match=message):
        resolve_device(asked)


def test_what_was_chosen_elsewhere(monkeypatch):
    with_gpus(monkeypatch, 0)
    assert available_device(None) == available_device("cpu") == torch.device("cpu")
    with pytest.warns(UserWarning, match="torch sees no GPU.*The model runs on 'cpu' instead"):
        assert available_device("cuda") == torch.device("cpu")
    with_gpus(monkeypatch, 1)
    with pytest.warns(UserWarning, match="The model runs on 'cuda' instead"):
        assert available_device("cuda:3") == torch.device("cuda")
    assert available_device("cuda:0") == torch.device("cuda", 0)


def test_only_gpus_are_waited_for(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    synchronize(torch.device("cpu"))
    assert waited == []
    synchronize(torch.device("cuda", 1))
    assert waited == [torch.device("cuda", 1)]
