"""``ops.linear`` is ``torch.nn.functional.linear`` with all its derivatives, whichever library multiplies."""

import itertools
from pathlib import Path

import pytest
import torch
from torch.nn.functional import linear as reference

from dkmp_plugin import ops
from dkmp_plugin.models.linear_map import LinearMap

# Shape of the input, outputs: below and above the size that oneDNN is asked for.
SIZES = [((5, 7), 3), ((166, 128), 256), ((40, 5, 96), 64), ((0, 16), 8), ((1, 2048), 512)]


def arguments(shape, outputs, biased, dtype=torch.float32):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=dtype, requires_grad=True)
    weight = torch.randn(outputs, shape[-1], dtype=dtype).div_(shape[-1] ** 0.5).requires_grad_()
    return x, weight, torch.randn(outputs, dtype=dtype, requires_grad=True) if biased else None


def all_derivatives(function, x, weight, bias):
    """Result, first derivatives and those of a function of the first derivatives."""
    inputs = [t for t in (x, weight, bias) if t is not None]
    y = function(x, weight, bias)
    upstream = torch.sin(torch.arange(float(y.numel()), dtype=y.dtype)).view_as(y).requires_grad_()
    first = torch.autograd.grad(y, inputs, upstream, create_graph=True)
    penalty = sum((g**2).sum() for g in first[:2])
    return [y, *first, *torch.autograd.grad(penalty, [*inputs[:2], upstream])]


@pytest.mark.parametrize("shape, outputs", SIZES)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_two_derivatives(shape, outputs, biased, dtype):
    given = arguments(shape, outputs, biased, dtype)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    for ours, expected in zip(
        all_derivatives(ops.linear, *given), all_derivatives(reference, *given), strict=True
    ):
        assert ours.shape == expected.shape
        torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance * (1 + shape[0] ** 0.5))


def test_inputs_whose_rows_lie_apart():
    x, weight, bias = arguments((130, 256), 128, True)
    apart, turned = x.detach()[:, ::2], weight.detach()[:, :128].t().contiguous().t()
    torch.testing.assert_close(ops.linear(apart, turned, bias), reference(apart, turned, bias))


@pytest.mark.parametrize("needed", [s for s in itertools.product([False, True], repeat=3) if any(s)])
def test_only_the_derivatives_that_are_needed(needed):
    given = [
        t.detach().requires_grad_(n) for t, n in zip(arguments((166, 128), 256, True), needed, strict=True)
    ]
    wanted = [t for t in given if t.requires_grad]
    ours = torch.autograd.grad(ops.linear(*given).sum(), wanted)
    expected = torch.autograd.grad(reference(*given).sum(), wanted)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-3)


def test_wrong_shapes_are_refused_as_by_torch():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        ops.linear(torch.randn(4096, 64), torch.randn(64, 32))


def test_scripted_frozen_and_loaded(tmp_path):
    module = LinearMap(128, 256).eval()
    frozen = torch.jit.freeze(torch.jit.script(module))
    torch.jit.save(frozen, str(tmp_path / "map.pt"))
    loaded, x = torch.jit.load(str(tmp_path / "map.pt")), torch.randn(166, 128, requires_grad=True)
    for _ in range(3):
        (gradient,) = torch.autograd.grad(loaded(x).square().sum(), [x])
    expected = torch.autograd.grad(reference(x, module.weight, module.bias).square().sum(), [x])[0]
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)


def called(function):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        function()
    return {event.key for event in profile.key_averages()}


def test_onednn_multiplies_where_mkl_leaves_vectors_idle():
    capability = torch.backends.cpu.get_cpu_capability()
    cpuinfo = Path("/proc/cpuinfo")
    intel = not cpuinfo.is_file() or "GenuineIntel" in cpuinfo.read_text()
    if not ops.status().native or "AVX512" not in capability or intel:
        pytest.skip(f"needs the native library and AVX-512 ({capability}) of a maker that is not Intel")
    x, weight = torch.randn(166, 128), torch.randn(256, 128)
    assert "mkldnn::_linear_pointwise" in called(lambda: ops.linear(x, weight))
    assert "mkldnn::_linear_pointwise" in called(lambda: ops.linear(weight, x.t().contiguous().t()))
    # Too few products, and gaps between rows, with which oneDNN takes hundreds of times as long.
    apart = torch.randn(256, 256)[:, :128]
    for given in ((x[:4], weight), (x, apart), (apart, weight), (x[:, :64], apart[:, :64])):
        assert "mkldnn::_linear_pointwise" not in called(lambda given=given: ops.linear(*given))


@pytest.mark.parametrize("num_rows", [4, 4096])
def test_autocast_and_function_transforms_as_torch(num_rows):
    torch.manual_seed(0)
    x, weight = torch.randn(num_rows, 64), torch.randn(64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ops.linear(x, weight), reference(x, weight))
    tangent = torch.randn_like(x)
    for ours, expected in zip(
        torch.func.jvp(lambda x: ops.linear(x, weight), (x,), (tangent,)),
        torch.func.jvp(lambda x: reference(x, weight), (x,), (tangent,)),
        strict=True,
    ):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-4)
    gradient = torch.func.grad(lambda x: ops.linear(x, weight).sum())(x)
    torch.testing.assert_close(gradient, weight.sum(0).expand_as(x), rtol=1e-5, atol=1e-4)
