"""Dilated attention against a definition with loops, and its derivatives."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dkmp_plugin.ops import attention_reference
from dkmp_plugin.ops.attention_reference import dilated_attention


def example(num_atoms=6, heads=2, width=3, neighbors=4, seed=0, absent=0.3):
    generator = torch.Generator().manual_seed(seed)
    query, key, value = torch.randn(3, num_atoms, heads, width, generator=generator, dtype=torch.float64)
    index = torch.randint(0, num_atoms, (num_atoms, neighbors), generator=generator)
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


@settings(deadline=None, max_examples=25)
@given(num_atoms=st.integers(1, 8), neighbors=st.integers(0, 5), seed=st.integers(0, 1000))
def test_definition(num_atoms, neighbors, seed):
    query, key, value, index, bias = example(num_atoms, neighbors=neighbors, seed=seed)
    expected = with_loops(query, key, value, index, bias, 0.7)
    assert torch.allclose(dilated_attention(query, key, value, index, bias, 0.7), expected, atol=1e-12)
    default = with_loops(query, key, value, index, torch.zeros_like(bias), 3**-0.5)
    assert torch.allclose(dilated_attention(query, key, value, index.int()), default, atol=1e-12)


def test_no_neighbour_gives_zeros_and_no_nan_in_gradients():
    query, key, value, index, bias = example()
    index[2] = -1
    inputs = [tensor.requires_grad_() for tensor in (query, key, value, bias)]
    result = dilated_attention(query, key, value, index, bias)
    assert result[2].abs().max() == 0
    for gradient in torch.autograd.grad(result.square().sum(), inputs):
        assert torch.isfinite(gradient).all()


def test_derivatives():
    query, key, value, index, bias = example(4, 2, 2, 3)
    inputs = [tensor.requires_grad_() for tensor in (query, key, value, bias)]

    def attention(query, key, value, bias):
        return dilated_attention(query, key, value, index, bias)

    assert torch.autograd.gradcheck(attention, inputs)
    assert torch.autograd.gradgradcheck(attention, inputs)


def test_blocks_do_not_matter(monkeypatch):
    arguments = example(20, seed=2)
    whole = dilated_attention(*arguments)
    monkeypatch.setattr(attention_reference, "_block_elements", lambda: 60)
    assert torch.allclose(dilated_attention(*arguments), whole, atol=1e-14)


def test_scripted():
    arguments = example()
    scripted = torch.jit.script(dilated_attention)
    assert torch.equal(scripted(*arguments), dilated_attention(*arguments))


def test_bad_input():
    query, key, value, index, bias = example()
    for arguments, message in (
        ((query, key[:3], value, index, bias), "one common shape"),
        ((query.half(), key.half(), value.half(), index, bias), "float32 or float64"),
        ((query, key.float(), value, index, bias), "same dtype"),
        ((query, key, value, index[:2], bias), r"expected \(N, K\)"),
        ((query, key, value, index.double(), bias), "int64 or int32"),
        ((query, key, value, index + 100, bias), "indices from"),
        ((query, key, value, index - 1, bias), "indices from"),
        ((query, key, value, index, bias[:, :1]), "bias has shape"),
    ):
        with pytest.raises(ValueError, match=message):
            dilated_attention(*arguments)
