"""degree_norm and the degree maps: algebra, native against the reference, refusals."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dkmp_plugin import ops
from dkmp_plugin.ops import reference
from dkmp_plugin.ops.reference.degrees import from_matrices, to_matrices
from dkmp_plugin.ops.reference.message import spherical_harmonics

# Arguments by the name of a case: shapes beside the number of atoms, for width d. Weights have no atoms.
SHAPES = {
    "degree_norm": lambda d: [(8, d), ("weight", 2, d)],
    "degree_norm_apart": lambda d: [(8, d), ("weight", 2, d)],
    "degree_norm_through": lambda d: [(8, d), ("weight", 2, d)],
    "degree_norm_apart_through": lambda d: [(8, d), ("weight", 2, d)],
    "degree_invariants": lambda d: [(3, 2 * d), (5, 2 * d)],
    "degree_products": lambda d: [(3, 2 * d), (5, 2 * d)],
    "degree_features": lambda d: [(3, 2 * d), (5, 2 * d), (d,), (d,)],
    "degree_features with gates": lambda d: [(3, 2 * d), (5, 2 * d), (d,), (d,), (d,)],
    "degree_update": lambda d: [(9 * d,), (3, 2 * d), (5, 2 * d), (d,), (8, d)],
    "degree_gates": lambda d: [(5 * d,), (2, d), (3, 2 * d), (5, 2 * d)],
    "degree_gates with products": lambda d: [(9 * d,), (4, d), (3, 2 * d), (5, 2 * d), (8, d)],
}
CASES = tuple(SHAPES)
OFFSET = 0.3  # of the norms


def op_of(case, home=ops):
    """The op of a case, with a tuple of results."""
    op = getattr(home, case.split()[0])
    if case == "degree_invariants":
        return lambda *arguments: (op(*arguments),)
    if case == "degree_norm":
        return lambda *arguments: (op(*arguments, OFFSET),)
    if case.startswith("degree_norm"):
        return lambda *arguments: op(*arguments, OFFSET)
    return op


def unit_vectors(count):
    pos = torch.randn(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.normalize(pos, dim=1)


def test_harmonics_of_degree_two_are_traceless_outer_products():
    unit = unit_vectors(20)
    matrices = to_matrices(spherical_harmonics(unit)[:, 3:].unsqueeze(2)).squeeze(3)
    outer = unit.unsqueeze(2) * unit.unsqueeze(1) - torch.eye(3, dtype=torch.float64) / 3
    assert torch.allclose(matrices, 1.5**0.5 * outer)


def test_matrices_and_features_are_the_same_thing():
    features = torch.randn(7, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    matrices = to_matrices(features)
    assert torch.allclose(matrices.square().sum(dim=(1, 2)), features.square().sum(dim=1))
    assert torch.allclose(from_matrices(matrices), features)
    antisymmetric = matrices.new_zeros(7, 3, 3, 4)
    antisymmetric[:, 0, 1], antisymmetric[:, 1, 0] = 1.0, -1.0
    trace = torch.eye(3, dtype=torch.float64).view(1, 3, 3, 1)
    assert torch.allclose(from_matrices(matrices + antisymmetric + 2.0 * trace), features)


def inputs_of(case, num_atoms, width, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [shape[1:] if shape[0] == "weight" else (num_atoms, *shape) for shape in SHAPES[case](width)]
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    if case == "degree_invariants":  # some beyond the bound
        inputs[0] = inputs[0] * 10.0
    return [x.to(dtype) for x in inputs]


def test_arguments_are_handed_on_without_a_copy(native):
    for case in CASES:
        arguments = [x.requires_grad_() for x in inputs_of(case, 3, 4)]
        handed_on = {x.data_ptr() for x in op_of(case, native)(*arguments)} & {
            x.data_ptr() for x in arguments
        }
        expected = {"degree_features": 2, "degree_norm_through": 1, "degree_norm_apart_through": 1}
        assert len(handed_on) == expected.get(case.split()[0], 0)


def test_products_are_those_of_matrices():
    first, second = inputs_of("degree_products", 6, 5)
    product, invariants = reference.degree_products(first, second)
    (a, b), (left, right) = first.chunk(2, dim=2), second.chunk(2, dim=2)
    matrix, other = to_matrices(left), to_matrices(right)
    applied = torch.einsum("nijc,njc->nic", matrix, b)
    square = torch.einsum("nijc,njkc->nikc", matrix, other) + torch.einsum("nic,nkc->nikc", a, b)
    symmetric = 0.5 * (square + square.transpose(1, 2))
    symmetric = symmetric - torch.einsum("niic,jk->njkc", symmetric, torch.eye(3, dtype=a.dtype)) / 3
    torch.testing.assert_close(product[:, :3], applied)
    torch.testing.assert_close(to_matrices(product[:, 3:]), symmetric)
    expected = [
        (a * b).sum(1),
        (matrix * other).sum((1, 2)),
        (applied * a).sum(1),
        (symmetric * matrix).sum((1, 2)),
    ]
    torch.testing.assert_close(invariants, torch.stack(expected, dim=1))


def derivatives(op, arguments, seed):
    """Values, gradients, and gradients of a random combination of the gradients."""
    generator = torch.Generator().manual_seed(seed)

    def weights(x):
        return torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype)

    leaves = [x.clone().requires_grad_() for x in arguments]
    values = op(*leaves)
    upstream = [weights(x).requires_grad_() for x in values]
    first = torch.autograd.grad(values, leaves, upstream, create_graph=True)
    total = sum((x * weights(x)).sum() for x in first)
    # Some results are linear in some arguments.
    second = torch.autograd.grad(total, leaves + upstream, allow_unused=True, materialize_grads=True)
    return [x.detach() for x in (*values, *first, *second)]


@pytest.mark.parametrize("name", CASES)
@given(
    num_atoms=st.integers(0, 9),
    width=st.integers(1, 40),
    single=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=40)
def test_equals_the_reference_to_the_second_derivative(name, num_atoms, width, single, seed):
    dtype, tolerance = (torch.float32, 2e-5) if single else (torch.float64, 1e-12)
    arguments = inputs_of(name, num_atoms, width, dtype, seed)
    ours = derivatives(op_of(name), arguments, seed)
    exact = derivatives(op_of(name, reference), [x.double() for x in arguments], seed)
    for a, b in zip(ours, exact, strict=True):
        assert a.shape == b.shape and a.dtype == dtype
        scale = float(b.abs().max()) if b.numel() else 0.0
        torch.testing.assert_close(a.double(), b, rtol=0.0, atol=tolerance * max(scale, 1.0))


@pytest.mark.parametrize("name", CASES)
def test_derivatives(native, name):
    arguments = [x.requires_grad_() for x in inputs_of(name, 2, 3)]
    assert torch.autograd.gradcheck(op_of(name, native), arguments)
    assert torch.autograd.gradgradcheck(op_of(name, native), arguments)


@pytest.mark.parametrize("name", CASES)
def test_layout_in_memory_and_threads_change_nothing(native, two_threads, name):
    arguments = inputs_of(name, 3000, 20)
    expected = op_of(name, native)(*arguments)
    strided = [torch.stack([x, x], dim=-1)[..., 0] for x in arguments]
    assert not any(x.is_contiguous() for x in strided)
    for results in two_threads(lambda: op_of(name, native)(*strided)):
        for a, b in zip(results, expected, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_opcheck(native, name):
    arguments = tuple(x.requires_grad_() for x in inputs_of(name, 3, 5))
    offset = (OFFSET,) if name.startswith("degree_norm") else ()
    torch.library.opcheck(getattr(native, name.split()[0]).default, (*arguments, *offset))


def test_third_derivatives_are_refused(native):
    for name in ("degree_products", "degree_norm"):
        arguments = [x.requires_grad_() for x in inputs_of(name, 2, 3)]
        results = op_of(name, native)(*arguments)
        total = torch.stack([(x**2).sum() for x in results]).sum()
        (gradient,) = torch.autograd.grad(total, arguments[:1], create_graph=True)
        with pytest.raises(NotImplementedError, match="third derivatives"):
            torch.autograd.grad((gradient**2).sum(), arguments[:1], create_graph=True)


@pytest.mark.parametrize("implementation", ["native", "reference"])
def test_bad_input_is_refused(native, implementation):
    op = native if implementation == "native" else reference
    first, second = inputs_of("degree_products", 4, 6)
    with pytest.raises(ValueError, match=r"expected \(N, 3, 2 d\)"):
        op.degree_products(second, first)
    with pytest.raises(ValueError, match="degree_products"):
        op.degree_products(first, second[:2])
    with pytest.raises(ValueError, match="degree_gates"):
        gates, *rest = inputs_of("degree_gates", 4, 6)
        op.degree_gates(gates[:, 1:], *rest)
    with pytest.raises(ValueError, match="degree_update"):
        op.degree_update(gates, first, second, *inputs_of("degree_update", 4, 6)[3:])
    message = torch.zeros(4, 6, dtype=torch.float64)
    with pytest.raises(ValueError, match="degree_features"):
        op.degree_features(first, second[:2], message, message)
    with pytest.raises(ValueError, match="degree_features"):
        op.degree_features(first, second, message[:, 1:], message)
    with pytest.raises(ValueError, match=r"\(N, 9 d\)"):
        op.degree_gates(gates, *rest, torch.zeros(4, 8, 6, dtype=torch.float64))
    vector, weight = inputs_of("degree_norm", 4, 6)
    with pytest.raises(ValueError, match=r"\(N, 8, d\) and \(2, d\)"):
        op.degree_norm(vector, weight[:, 1:], OFFSET)
    with pytest.raises(ValueError, match="degree_norm"):
        op.degree_norm_apart(vector[:, :5], weight, OFFSET)
    for offset in (0.0, float("nan")):
        with pytest.raises(ValueError, match="above zero"):
            op.degree_norm(vector, weight, offset)


def test_one_dtype_is_expected(native):
    first, second = inputs_of("degree_products", 4, 6)
    with pytest.raises(ValueError, match="Double"):
        native.degree_products(first, second.float())
    with pytest.raises(ValueError, match="no map 12"):
        native.degree_map(12, [first, second], [])
    with pytest.raises(ValueError, match="direction 0"):
        native.degree_map(0, [first, second], [second])
    vector, weight = inputs_of("degree_norm", 4, 6)
    with pytest.raises(ValueError, match="Float"):
        native.degree_norm(vector, weight.float(), OFFSET)
    with pytest.raises(ValueError, match="directions"):
        native.degree_norm_values(vector, weight, OFFSET, [weight, vector], False)
    with pytest.raises(ValueError, match="a gradient has shape"):
        native.degree_norm_gradients(vector, weight, OFFSET, [vector[:, :3], vector], [], False)
    with pytest.raises(ValueError, match="3 gradients are given, expected 1 or one more"):
        native.degree_norm_gradients(vector, weight, OFFSET, [vector] * 3, [], False)


def test_gradient_of_features_does_not_need_that_of_weights(native):
    vector, weight = inputs_of("degree_norm", 4, 6)
    vector.requires_grad_()

    def gradient(weight):
        (first,) = torch.autograd.grad(
            (native.degree_norm(vector, weight, OFFSET) ** 3).sum(), vector, create_graph=True
        )
        return first, torch.autograd.grad((first**2).sum(), vector)[0]

    for a, b in zip(gradient(weight), gradient(weight.clone().requires_grad_()), strict=True):
        assert torch.equal(a, b)
