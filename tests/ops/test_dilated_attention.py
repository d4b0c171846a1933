"""Dilated attention: a definition with loops, native against the reference, derivatives, refusals."""

import math
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dkmp_plugin import ops
from dkmp_plugin.ops import reference

OPS = [ops.dilated_attention, reference.dilated_attention]
both = pytest.mark.parametrize("op", OPS, ids=["chosen", "reference"])


def example(num_atoms=6, heads=2, width=3, neighbors=4, seed=0, absent=0.3):
    generator = torch.Generator().manual_seed(seed)
    query, key, value = torch.randn(3, num_atoms, heads, width, generator=generator, dtype=torch.float64)
    index = torch.randint(0, max(num_atoms, 1), (num_atoms, neighbors), generator=generator)
    index[torch.rand(index.shape, generator=generator) < absent] = -1
    bias = torch.randn(num_atoms, neighbors, generator=generator, dtype=torch.float64)
    return query, key, value, index, bias


def with_loops(query, key, value, index, bias, scale):
    result = torch.zeros_like(value)
    for atom in range(query.size(0)):
        columns = [column for column in range(index.size(1)) if index[atom, column] >= 0]
        for head in range(query.size(1)):
            logits = [
                scale * float(query[atom, head] @ key[index[atom, column], head] + bias[atom, column])
                for column in columns
            ]
            total = sum(math.exp(logit) for logit in logits)
            for logit, column in zip(logits, columns, strict=True):
                result[atom, head] += math.exp(logit) / total * value[index[atom, column], head]
    return result


def derivatives(op, case, dtype=torch.float64, scale=None):
    """Result, first derivatives, and derivatives of a random combination of the first derivatives."""
    query, key, value, index, bias = case
    generator = torch.Generator().manual_seed(7)

    def weights(x):
        return torch.randn(x.shape, generator=generator, dtype=torch.float64).to(dtype)

    inputs = [x.to(dtype).requires_grad_() for x in (query, key, value)]
    if bias is not None:
        inputs.append(bias.to(dtype).requires_grad_())
    result = op(*inputs[:3], index, inputs[3] if bias is not None else None, scale)
    upstream = weights(result).requires_grad_()
    first = torch.autograd.grad(result, inputs, upstream, create_graph=True, materialize_grads=True)
    total = sum((x * weights(x)).sum() for x in first)
    second = torch.autograd.grad(total, [*inputs, upstream], materialize_grads=True)
    return [x.detach() for x in (result, *first, *second)]


def assert_equal_to_reference(op, case, dtype=torch.float64, relative=1e-11, scale=None):
    """The op in ``dtype`` against the reference in float64, up to the second derivatives."""
    computed = derivatives(op, case, dtype, scale)
    expected = derivatives(reference.dilated_attention, case, torch.float64, scale)
    for place, (ours, theirs) in enumerate(zip(computed, expected, strict=True)):
        assert ours.shape == theirs.shape and ours.dtype == dtype
        if theirs.numel() == 0:
            continue
        error, size = float((ours - theirs).abs().max()), float(theirs.abs().max())
        assert error <= relative * max(size, 1e-3), f"derivative {place}: {error} against {size}"


@both
@settings(deadline=None, max_examples=25)
@given(num_atoms=st.integers(1, 8), neighbors=st.integers(0, 5), seed=st.integers(0, 1000))
def test_definition(op, num_atoms, neighbors, seed):
    query, key, value, index, bias = example(num_atoms, neighbors=neighbors, seed=seed)
    expected = with_loops(query, key, value, index, bias, 0.7)
    assert torch.allclose(op(query, key, value, index, bias, 0.7), expected, atol=1e-12)
    default = with_loops(query, key, value, index, torch.zeros_like(bias), 3**-0.5)
    assert torch.allclose(op(query, key, value, index.int()), default, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(
    num_atoms=st.integers(1, 24),
    heads=st.integers(1, 9),
    width=st.integers(1, 40),
    neighbors=st.integers(0, 70),
    absent=st.sampled_from([0.0, 0.3, 0.95, 1.0]),
    narrow=st.booleans(),
    with_bias=st.booleans(),
    scale=st.sampled_from([None, 0.2, -0.1]),
    seed=st.integers(0, 10_000),
)
def test_any_size(num_atoms, heads, width, neighbors, absent, narrow, with_bias, scale, seed):
    query, key, value, index, bias = example(num_atoms, heads, width, neighbors, seed, absent)
    case = (query, key, value, index.int() if narrow else index, bias if with_bias else None)
    assert_equal_to_reference(ops.dilated_attention, case, scale=scale)


@pytest.mark.parametrize("heads, width", [(4, 32), (8, 16), (2, 64), (1, 128), (4, 16), (2, 32), (3, 20)])
def test_float32_and_float64_of_common_widths(native, heads, width):
    case = example(40, heads, width, 37, seed=heads)
    assert_equal_to_reference(native.dilated_attention, case)
    assert_equal_to_reference(native.dilated_attention, case, torch.float32, 2e-5)


@pytest.mark.parametrize("level", ["v2", "v3", "v4"])
def test_every_instruction_set(native, level):
    # The level is chosen once per process; a machine without it runs the next lower one.
    code = (
        "import torch\n"
        "from tests.ops.test_dilated_attention import assert_equal_to_reference, example, ops\n"
        "torch.set_num_threads(1)\n"
        "for heads, width in ((4, 32), (2, 16), (3, 8), (2, 4), (2, 5)):\n"
        "    case = example(20, heads, width, 19)\n"
        "    assert_equal_to_reference(ops.dilated_attention, case)\n"
        "    assert_equal_to_reference(ops.dilated_attention, case, torch.float32, 2e-5)\n"
    )
    environment = {**os.environ, "DKMP_PLUGIN_ISA": level}
    answer = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr


def test_visiting_order_of_large_systems(native, two_threads):
    # Beyond 2 MB of keys and values rows are visited along the lists, not in their own order.
    case = example(2300, 4, 32, 5, seed=1)
    case[3][100:200] = -1
    assert_equal_to_reference(native.dilated_attention, case)
    narrow = (*case[:3], case[3].int(), case[4])
    one, two = two_threads(lambda: derivatives(native.dilated_attention, narrow))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    # A row's result does not depend on when it is visited: the same rows in a small system, bit by bit.
    rows = torch.arange(200)
    index = torch.where(case[3][rows] < 200, case[3][rows], -1)
    alone = native.dilated_attention(*[x[rows] for x in case[:3]], index, case[4][rows])
    everywhere = torch.full_like(case[3], -1)
    everywhere[rows] = index
    together = native.dilated_attention(*case[:3], everywhere, case[4])
    assert torch.equal(together[rows], alone)


def test_large_systems_in_an_order_of_space(native):
    # Rows of a file that follows space are visited in its own order.
    query, key, value, _, bias = example(8192, 4, 32, 5, seed=1)
    neighbors = (torch.arange(8192)[:, None] + torch.tensor([-20, -3, 1, 2, 40])).clamp(-1, 8191)
    assert_equal_to_reference(native.dilated_attention, (query, key, value, neighbors, bias))


def test_remembered_visiting_orders_change_no_result(native):
    # Orders are remembered by the shape and some entries of a list: here two lists share both.
    query, key, value, first, bias = example(8192, 2, 32, 4, seed=2)
    other = first.flatten().clone()
    other[1::64] = other[1::64].flip(0)  # every 64th entry is sampled, from 0 on
    for neighbors in (first, other.view_as(first), first):
        expected = reference.dilated_attention(query, key, value, neighbors, bias)
        result = native.dilated_attention(query, key, value, neighbors, bias)
        torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("width", [16, 32, 48, 64, 96, 128, 192])
def test_heads_that_registers_hold_whole_or_in_parts(native, width):
    assert_equal_to_reference(native.dilated_attention, example(9, 3, width, 5), torch.float32, 2e-5)
    assert_equal_to_reference(native.dilated_attention, example(9, 3, width, 5))


@pytest.mark.parametrize("num_atoms", [1, 3, 50])
def test_receivers_whose_keys_are_read_together(native, num_atoms):
    # Keys of one receiver fit the first-level cache, keys and values do not; some lists are empty.
    case = example(num_atoms, 4, 32, 60, seed=4)
    case[3][num_atoms // 2] = -1
    assert_equal_to_reference(native.dilated_attention, case, torch.float32, 2e-5)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("wrong", [-2, 8192])
def test_wrong_entries_of_a_list_that_looks_like_a_remembered_one(native, dtype, wrong):
    query, key, value, neighbors, bias = example(8192, 2, 32, 4, seed=2)
    neighbors = neighbors.to(dtype)
    native.dilated_attention(query, key, value, neighbors, bias)
    neighbors[77, 1] = wrong  # every 64th entry is sampled, from 0 on
    inputs = [x.requires_grad_() for x in (query, key, value)]
    message = f"neighbors of atom 77 hold the index {wrong}, expected indices from -1"
    with pytest.raises(ValueError, match=message):
        native.dilated_attention(*inputs, neighbors, bias)
    with pytest.raises(ValueError, match=message):
        torch.ops.dkmp_plugin.dilated_attention_backward(query, *inputs, neighbors, bias, 1.0)


@pytest.mark.parametrize("num_heads, width", [(4, 32), (8, 16), (4, 8), (6, 32)])
@pytest.mark.parametrize("num_neighbors", [16, 37])
def test_weights_in_tiles_of_four_heads_and_rests(native, num_heads, width, num_neighbors):
    case = example(40, num_heads, width, num_neighbors, seed=5)
    assert_equal_to_reference(native.dilated_attention, case, torch.float32, 2e-5)


def test_512_neighbours(native):
    assert_equal_to_reference(native.dilated_attention, example(30, 2, 8, 512, seed=3))


@both
def test_no_neighbour_gives_zeros_and_no_nan_in_gradients(op):
    query, key, value, index, bias = example()
    index[2] = -1
    index[index == 4] = -1
    inputs = [tensor.requires_grad_() for tensor in (query, key, value, bias)]
    result = op(query, key, value, index, bias)
    assert result[2].abs().max() == 0
    gradients = torch.autograd.grad(result.square().sum(), inputs)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    # Atom 4 is nobody's neighbour.
    assert gradients[1][4].abs().max() == 0 and gradients[2][4].abs().max() == 0
    assert gradients[3][index < 0].abs().max() == 0


@both
def test_absent_neighbours_never_outweigh_present_ones(op):
    query, key, value, index, bias = example()
    index[:, 1:] = -1
    index[:, 0] = 0
    result = op(1e20 * query, -1e20 * query[:1].expand_as(key).contiguous(), value, index, bias)
    assert torch.equal(result, value[:1].expand_as(value))


@both
@pytest.mark.parametrize("num_atoms, neighbors", [(0, 4), (1, 0), (5, 0), (0, 0)])
def test_nothing_to_attend_to(op, num_atoms, neighbors):
    query, key, value, index, bias = example(num_atoms, neighbors=neighbors)
    inputs = [tensor.requires_grad_() for tensor in (query, key, value)]
    result = op(query, key, value, index, bias)
    assert result.shape == (num_atoms, 2, 3) and not result.any()
    for gradient in torch.autograd.grad(result.sum(), inputs, allow_unused=True):
        assert gradient is None or not gradient.any()


@both
def test_derivatives(op):
    query, key, value, index, bias = example(4, 2, 2, 3)
    inputs = [tensor.requires_grad_() for tensor in (query, key, value, bias)]

    def attention(query, key, value, bias):
        return op(query, key, value, index, bias)

    assert torch.autograd.gradcheck(attention, inputs)
    assert torch.autograd.gradgradcheck(attention, inputs)


def test_derivatives_of_some_inputs_only(native):
    query, key, value, index, bias = example()
    result = native.dilated_attention(query, key, value.requires_grad_(), index, bias)
    (first,) = torch.autograd.grad(result.square().sum(), value, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), value)
    again = reference.dilated_attention(query, key, value, index, bias)
    (expected_first,) = torch.autograd.grad(again.square().sum(), value, create_graph=True)
    (expected_second,) = torch.autograd.grad(expected_first.square().sum(), value)
    assert torch.allclose(first, expected_first, rtol=1e-12)
    assert torch.allclose(second, expected_second, rtol=1e-12)


def test_third_derivative_is_refused(native):
    query, key, value, index, bias = example(4)
    query.requires_grad_()
    first = torch.autograd.grad(
        native.dilated_attention(query, key, value, index, bias).square().sum(), query, create_graph=True
    )[0]
    second = torch.autograd.grad(first.square().sum(), query, create_graph=True)[0]
    with pytest.raises(RuntimeError, match=r"dilated_attention.*tangent"):
        torch.autograd.grad(second.sum(), query)


def test_large_logits_stay_finite(native):
    # Differences of logits far beyond the range of exp, and a bias of -inf that means "no neighbour".
    query, key, value, index, bias = example(10, 2, 16, 6, absent=0.0)
    large = (8 * query, 8 * key, value, index, bias + 1000)
    assert_equal_to_reference(native.dilated_attention, large, relative=1e-9)
    masked = bias.clone()
    masked[:, 2] = -math.inf
    removed = index.clone()
    removed[:, 2] = -1
    for dtype in (torch.float32, torch.float64):
        features = [x.to(dtype) for x in (query, key, value)]
        one = native.dilated_attention(*features, index, masked.to(dtype))
        two = native.dilated_attention(*features, removed, bias.to(dtype))
        assert torch.allclose(one, two, rtol=1e-5)


def test_absent_atoms_are_never_read(native):
    # What no list names may hold NaN; what a list names spreads NaN to its receivers only.
    query, key, value, index, bias = example(12, 2, 16, 5)
    index[index == 0] = -1
    clean = native.dilated_attention(query, key, value, index, bias)
    key[0], value[0] = math.nan, math.nan
    bias[index < 0] = math.nan
    assert torch.equal(native.dilated_attention(query, key, value, index, bias), clean)
    value[3] = math.nan
    touched = (index == 3).any(1)
    result = native.dilated_attention(query, key, value, index, bias)
    assert torch.equal(result.isnan().flatten(1).any(1), touched)


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FC00001, -0x3FFFFF, 0x7FFFFFFF])
def test_every_not_a_number_stays_one(native, bits):
    """Whatever bits it has: added to the exponent, some became numbers."""
    query, key, value, index, bias = (x.float() if x.is_floating_point() else x for x in example(6, 1, 16, 4))
    bias[2] = torch.tensor([bits], dtype=torch.int32).view(torch.float32)
    assert bias[2].isnan().all()
    result = native.dilated_attention(query, key, value, index, bias)
    assert result[2].isnan().all() and not result[3].isnan().any()


def test_strided_inputs_are_read_correctly(native):
    case = example(9, 2, 5, 4)
    expected = native.dilated_attention(*case)
    query, key, value, index, bias = (
        torch.stack([x, torch.full_like(x, -1 if x.dtype == torch.int64 else math.nan)], -1)[..., 0]
        for x in case
    )
    assert not query.is_contiguous() and not index.is_contiguous()
    assert torch.equal(native.dilated_attention(query, key, value, index, bias), expected)
    turned = case[0].transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(native.dilated_attention(turned, key, value, index, bias), expected)
    with_gradient = turned.requires_grad_()
    upstream = torch.ones(1, dtype=torch.float64).expand(expected.shape)
    gradient = torch.autograd.grad(
        native.dilated_attention(with_gradient, *case[1:]), with_gradient, upstream
    )
    plain = case[0].clone().requires_grad_()
    same = torch.autograd.grad(native.dilated_attention(plain, *case[1:]).sum(), plain)
    assert torch.equal(gradient[0], same[0])


def test_threads_do_not_change_a_bit(native, two_threads):
    case = example(300, 4, 32, 33, absent=0.1)
    for dtype in (torch.float32, torch.float64):
        one, two = two_threads(lambda dtype=dtype: derivatives(native.dilated_attention, case, dtype))
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_one_sender_for_everybody(native):
    # A row of the transposed lists that is much longer than all others.
    query, key, value, index, bias = example(200, 2, 8, 3)
    index[:, 0] = 7
    assert_equal_to_reference(native.dilated_attention, (query, key, value, index, bias))


def test_blocks_of_the_reference_do_not_matter(monkeypatch):
    arguments = example(20, seed=2)
    whole = reference.dilated_attention(*arguments)
    monkeypatch.setattr(reference.attention, "_block_elements", lambda: 60)
    assert torch.allclose(reference.dilated_attention(*arguments), whole, atol=1e-14)


@both
def test_scripted(op):
    arguments = example()
    scripted = torch.jit.script(op)
    assert torch.equal(scripted(*arguments), op(*arguments))


def test_scripted_calls_the_native_op(native):
    graph = str(torch.jit.script(ops.dilated_attention).inlined_graph)
    assert "dkmp_plugin::dilated_attention" in graph


def test_opcheck(native):
    query, key, value, index, bias = example(5, 2, 4)
    features = [x.requires_grad_() for x in (query, key, value)]
    torch.library.opcheck(native.dilated_attention.default, (*features, index, bias.requires_grad_(), 0.3))
    torch.library.opcheck(native.dilated_attention.default, (*features, index))
    with torch.no_grad():
        torch.library.opcheck(native.dilated_attention_backward.default, (query, *features, index, bias, 0.3))


def test_exported_program_runs(native):
    class Layer(torch.nn.Module):
        def forward(self, query, key, value, index, bias):
            return ops.dilated_attention(query, key, value, index, bias)

    arguments = example()
    program = torch.export.export(Layer(), arguments)
    assert torch.equal(program.module()(*arguments), ops.dilated_attention(*arguments))


BAD_INPUT = [
    (lambda q, k, v, i, b: (q, k[:3], v, i, b), "one common shape"),
    (lambda q, k, v, i, b: (q[0], k[0], v[0], i, b), "one common shape"),
    (lambda q, k, v, i, b: (q[:, :0], k[:, :0], v[:, :0], i, b), "at least one head"),
    (lambda q, k, v, i, b: (q[..., :0], k[..., :0], v[..., :0], i, b), "at least one head"),
    (lambda q, k, v, i, b: (q.half(), k.half(), v.half(), i, b), "float32 or float64"),
    (lambda q, k, v, i, b: (q, k.float(), v, i, b), "same dtype"),
    (lambda q, k, v, i, b: (q, k, v, i, b.float()), "same dtype"),
    (lambda q, k, v, i, b: (q, k, v, i[:2], b), r"expected \(N, K\)"),
    (lambda q, k, v, i, b: (q, k, v, i.flatten(), b), r"expected \(N, K\)"),
    (lambda q, k, v, i, b: (q, k, v, i.double(), b), "int64 or int32"),
    (lambda q, k, v, i, b: (q, k, v, i + 100, b), "indices from"),
    (lambda q, k, v, i, b: (q, k, v, i - 1, b), "indices from"),
    (lambda q, k, v, i, b: (q, k, v, (i + 100).int(), b), "indices from"),
    (lambda q, k, v, i, b: (q, k, v, i + 2**40, b), "indices from"),
    (lambda q, k, v, i, b: (q, k, v, i, b[:, :1]), "bias has shape"),
]


@both
@pytest.mark.parametrize("change, message", BAD_INPUT)
def test_bad_input_is_refused(op, change, message):
    with pytest.raises(ValueError, match=message):
        op(*change(*example()))


def test_gradient_of_wrong_shape_is_refused(native):
    query, key, value, index, bias = example()
    with pytest.raises(ValueError, match="gradient of the result"):
        native.dilated_attention_backward(query[:, :1], query, key, value, index, bias, 1.0)
