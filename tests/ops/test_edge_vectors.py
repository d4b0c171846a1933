"""edge_vectors: values, derivatives of any order in positions and box, refusals."""

import pytest
import torch

from dkmp_plugin import ops
from dkmp_plugin.ops import reference

BOX = torch.tensor([[4.0, 0.0, 0.0], [1.0, 5.0, 0.0], [-0.5, 0.7, 3.0]], dtype=torch.float64)


def _case(num_systems: int = 1):
    generator = torch.Generator().manual_seed(3)
    pos = torch.rand(9, 3, generator=generator, dtype=torch.float64) * 4
    batch = torch.arange(9) * num_systems // 9
    box = BOX if num_systems == 1 else torch.stack([BOX * (1 + 0.1 * k) for k in range(num_systems)])
    edge_index, offsets, _ = ops.radius_shells(pos, batch, box, 3.5, 2, 0.0, 0)
    return pos, edge_index, offsets, box, batch


@pytest.mark.parametrize("num_systems", [1, 3])
def test_equals_the_formula(num_systems: int) -> None:
    pos, edge_index, offsets, box, batch = _case(num_systems)
    result = ops.edge_vectors(pos, edge_index, offsets, box, batch)
    i, j = edge_index
    cells = box.reshape(-1, 3, 3)[batch[i] if num_systems > 1 else torch.zeros_like(i)]
    shift = (offsets.double().unsqueeze(1) @ cells).squeeze(1)
    torch.testing.assert_close(result, pos[j] + shift - pos[i])
    assert torch.equal(result, reference.edge_vectors(pos, edge_index, offsets, box, batch))
    assert (result.norm(dim=1) < 3.5).all() and len(result) > 50


@pytest.mark.parametrize("num_systems", [0, 1, 3])
def test_derivatives(num_systems: int) -> None:
    pos, edge_index, offsets, box, batch = _case(max(num_systems, 1))
    if num_systems == 0:

        def function(pos):
            return ops.edge_vectors(pos, edge_index, offsets, None, batch) ** 2

        leaves = [pos.requires_grad_()]
    else:

        def function(pos, box):
            return ops.edge_vectors(pos, edge_index, offsets, box, batch) ** 2

        leaves = [pos.requires_grad_(), box.clone().requires_grad_()]
    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


def test_third_derivative() -> None:
    pos, edge_index, offsets, _, batch = _case()
    pos.requires_grad_()
    results = []
    for op in (ops.edge_vectors, reference.edge_vectors):
        energy = (op(pos, edge_index, offsets, None, batch) ** 4).sum()
        (first,) = torch.autograd.grad(energy, pos, create_graph=True)
        (second,) = torch.autograd.grad((first**2).sum(), pos, create_graph=True)
        results.append(torch.autograd.grad((second**2).sum(), pos)[0])
    torch.testing.assert_close(results[0], results[1])


# torch 2.15's opcheck looks at the gradients of tensors that are no leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_opcheck(native) -> None:
    pos, edge_index, offsets, box, batch = _case()
    arguments = (pos.requires_grad_(), edge_index, offsets, box.clone().requires_grad_(), batch)
    torch.library.opcheck(native.edge_vectors.default, arguments)


def test_opcheck_of_the_search(native) -> None:
    pos, _, _, box, batch = _case()
    torch.library.opcheck(native.radius_shells.default, (pos, batch, None, 3.5, 2, 0.0, 0))
    torch.library.opcheck(native.radius_shells.default, (pos, batch, box, 3.5, 2, 0.5, 0))
    for cell in (None, box):
        torch.library.opcheck(native.radius_shells.default, (pos, batch, cell, 3.5, 2, 0.0, 0, 300))


def test_bad_input_is_refused(native) -> None:
    pos, edge_index, offsets, box, batch = _case()
    with pytest.raises(IndexError, match="outside"):
        native.edge_vectors(pos, edge_index + 100, offsets, box, batch)
    with pytest.raises(ValueError, match="cell_offsets"):
        native.edge_vectors(pos, edge_index, offsets[:2], box, batch)
    with pytest.raises(ValueError, match="edge_index"):
        native.edge_vectors(pos, edge_index.int(), offsets, box, batch)
    with pytest.raises(IndexError, match="system"):
        native.edge_vectors(pos, edge_index, offsets, torch.stack([BOX, BOX]), batch + 5)
