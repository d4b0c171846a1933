"""Python face of the ops: native where the library loads, pure ATen elsewhere.

The functions here are plain functions, so ``torch.jit.script`` compiles modules that call them; a scripted
module then holds a call of ``torch.ops.dkmp_plugin.*`` (native) or the reference's own graph.
Set ``DKMP_PLUGIN_NATIVE=0`` to force the reference.
"""

from typing import Optional, Tuple

import torch
from torch import Tensor

from dkmp_plugin.ops.loader import load as _load
from dkmp_plugin.ops.status import OpsStatus

__all__ = [
    "OpsStatus",
    "degree_features",
    "degree_gates",
    "degree_invariants",
    "degree_norm",
    "degree_norm_apart",
    "degree_norm_apart_through",
    "degree_norm_through",
    "degree_products",
    "degree_update",
    "dilated_attention",
    "dilated_message",
    "distance_ranks",
    "edge_vectors",
    "has_kernels",
    "linear",
    "radius_shells",
    "status",
    "why_no_cuda",
]

_STATUS = _load()

if _STATUS.native:
    from dkmp_plugin.ops import native as _implementation
else:
    from dkmp_plugin.ops import reference as _implementation  # type: ignore[no-redef]


def why_no_cuda() -> Optional[str]:
    """Why the ops cannot run on a GPU in this process; None when they can. Asks the CUDA driver."""
    if not _STATUS.native:
        return f"the native library is not loaded: {_STATUS.why_not}"
    return torch.ops.dkmp_plugin.why_no_cuda() or None


def status() -> OpsStatus:
    """Says whether the native library is loaded, from where, and if not, why."""
    return _STATUS


def has_kernels(tensor: Tensor) -> bool:
    """Whether native kernels run where a tensor is: nowhere unless the native library is loaded."""
    return _implementation.has_kernels(tensor)


def radius_shells(
    pos: Tensor,
    batch: Tensor,
    box: Optional[Tensor],
    cutoff: float,
    num_shells: int,
    overlap: float,
    max_neighbors: int,
    max_edges: Optional[int] = None,
) -> Tuple[Tensor, Tensor, Tensor]:
    """Edges within the cutoff, sorted into distance shells; see :func:`dkmp_plugin.graph.radius_shells`.

    Args:
        pos: (N, 3) angstrom, float32 or float64.
        batch: (N,) int64 non-decreasing system index.
        box: None, (3, 3) or (B, 3, 3) lattice vectors as rows, angstrom.
        cutoff: angstrom.
        num_shells: shells of equal width.
        overlap: angstrom, between 0 and cutoff / num_shells.
        max_neighbors: error when an atom has more neighbours within the cutoff; <= 0 for no limit.
        max_edges: the result then has exactly this many edges, whatever the positions: its shapes are fixed,
            as a CUDA graph needs. Edges from ``ptr[num_shells]`` on are padding that joins the atoms -1 and
            -1; :func:`edge_vectors` gives them zero vectors and no gradient, and :func:`dilated_message`
            never sees them. A model only passes the number on: ``edge_vectors`` and ``dilated_message``
            take the results as they are.

    Returns:
        edge_index (2, E) int64 with receiver and sender; cell_offsets (E, 3) int32 n such that the edge
        vector is pos[j] + n @ box - pos[i]; ptr (num_shells + 1,) int64.

    Raises:
        ValueError: bad input, or more than max_edges edges. On a GPU with max_edges nothing is read back, so
            nothing can be raised: the graph is marked, and all its :func:`edge_vectors` are NaN.
    """
    return _implementation.radius_shells(
        pos, batch, box, cutoff, num_shells, overlap, max_neighbors, max_edges
    )


def edge_vectors(
    pos: Tensor, edge_index: Tensor, cell_offsets: Tensor, box: Optional[Tensor], batch: Tensor
) -> Tensor:
    """Vectors pos[j] + n @ box - pos[i] (E, 3) of edges (i, j, n), differentiable in pos and box.

    Edges of the atoms -1 and -1 are padding, see :func:`radius_shells`: zero vectors without gradients.

    Args:
        pos: (N, 3) angstrom.
        edge_index: (2, E) int64, receiver i and sender j.
        cell_offsets: (E, 3) periodic image n of each sender; ignored without a box.
        box: None, (3, 3) or (B, 3, 3).
        batch: (N,) int64 system index, used with one box per system.
    """
    return _implementation.edge_vectors(pos, edge_index, cell_offsets, box, batch)


def dilated_message(
    edge_vector: Tensor,
    edge_index: Tensor,
    ptr: Tensor,
    shell: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    vector: Tensor,
    table: Tensor,
    num_heads: int,
    lower: float,
    upper: float,
    overlap: float,
    cutoff: float,
    degree: int = 3,
) -> Tuple[Tensor, Tensor]:
    """Sums one DKMP^C layer's messages over the edges of one shell (appendix D, eqs. 6 and 7).

    Args:
        edge_vector: (E, 3) angstrom, r_j - r_i, for all shells.
        edge_index: (2, E) int64, receiver i and sender j.
        ptr: (L + 1,) int64; the op uses edges ptr[shell]:ptr[shell + 1].
        shell: index of the shell.
        query: (N, d), or empty for no attention.
        key: (N, d), or empty.
        value: (N, 3 d) as [v0 | v1 | v2].
        vector: (N, 8, d) harmonic features, or empty.
        table: (n, 4 d) B-spline coefficients of the radial filters [f0 | f1 | f2 | f3] on the shell.
        num_heads: attention heads; divides d.
        lower: inner border of the shell, angstrom.
        upper: outer border of the shell, angstrom.
        overlap: width of the smooth window at inner borders, angstrom; 0 for a hard step.
        cutoff: outer limit of the graph, angstrom.
        degree: of the B-splines, 3 or 5; the table's n rows then belong to n - degree equal intervals.

    Returns:
        scalar (N, d) and vector (N, 8, d) sums per receiver. Differentiable twice in all float tensors.
    """
    return _implementation.dilated_message(
        edge_vector,
        edge_index,
        ptr,
        shell,
        query,
        key,
        value,
        vector,
        table,
        num_heads,
        lower,
        upper,
        overlap,
        cutoff,
        degree,
    )


def distance_ranks(
    pos: Tensor, num_neighbors: int, batch: Optional[Tensor] = None, box: Optional[Tensor] = None
) -> Tensor:
    """The nearest atoms of each atom in ascending distance; ties go to the lower index.

    Args:
        pos: (N, 3) angstrom, float32 or float64.
        num_neighbors: number of columns M, at least 1.
        batch: (N,) int64 non-decreasing system index; None for one system.
        box: (3, 3) or (B, 3, 3) lattice vectors as rows, angstrom; each atom then counts once, at its
            nearest periodic image. None for open boundaries.

    Returns:
        (N, M) int64 atom indices without the atom itself, -1 where the system has fewer atoms. Layer l
        (0-based) of L uses the columns [l K, (l + 1) K) with K = M // L (paper eq. 4).

    Raises:
        ValueError: bad shapes, unsorted batch, NaN positions or a singular box.
    """
    cell: Optional[Tensor] = None if box is None else box.to(pos.dtype)
    return _implementation.distance_ranks(pos, num_neighbors, batch, cell)


def dilated_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    neighbors: Tensor,
    bias: Optional[Tensor] = None,
    scale: Optional[float] = None,
) -> Tensor:
    """Attention of every atom over its own list of neighbours (DKMP^R, paper section 3.2.2).

    ``out_ih = sum_k softmax_k(scale (q_ih . k_jh + bias_ik)) v_jh`` with ``j = neighbors[i, k]``. Nothing of
    shape (N, K, H, D) is stored by the native op. Its result does not depend on the number of threads.

    Args:
        query: (N, H, D) float32 or float64, H and D at least 1. D is best a multiple of 16 (float32) or 8.
        key: (N, H, D).
        value: (N, H, D).
        neighbors: (N, K) int64 or int32, -1 where there is none; fewer than 2^31 atoms and 2^32 entries.
        bias: (N, K) added to the logits before scaling, the same for all heads; None for none.
        scale: factor of the logits; 1/sqrt(D) by default.

    Returns:
        (N, H, D); zeros for an atom without neighbours. Differentiable twice in query, key, value and bias.

    Raises:
        ValueError: a shape, dtype or index is outside what the op accepts.
    """
    return _implementation.dilated_attention(query, key, value, neighbors, bias, scale)


def degree_invariants(first: Tensor, second: Tensor) -> Tensor:
    """Invariants of pairs of spherical features: left . right for each degree, channel by channel.

    Up to 100 they are what they are, then they level off at 260: squares of features that they scale in turn
    must not leave the range of single precision where atoms nearly coincide.

    Args:
        first: (N, 3, 2 d) features of degree 1 as [left | right].
        second: (N, 5, 2 d) features of degree 2 as [left | right].

    Returns:
        (N, 2, d), one per degree. Differentiable twice.

    Raises:
        ValueError: shapes or dtypes do not fit.
    """
    return _implementation.degree_invariants(first, second)


def degree_products(first: Tensor, second: Tensor) -> Tuple[Tensor, Tensor]:
    """Products of spherical features of degrees 1 and 2, and their invariants, channel by channel.

    With a, b the left and right features of degree 1 and A, B those of degree 2 as symmetric traceless
    matrices (as in TensorNet, arXiv:2306.06482): the products are p = A b of degree 1 and P, the symmetric
    traceless part of A B + a b^T, of degree 2; the invariants a.b, A:B, p.a and P:A.

    Args:
        first: (N, 3, 2 d) features of degree 1 as [left | right].
        second: (N, 5, 2 d) features of degree 2 as [left | right].

    Returns:
        products (N, 8, d) and invariants (N, 4, d). Differentiable twice.

    Raises:
        ValueError: shapes or dtypes do not fit.
    """
    return _implementation.degree_products(first, second)


def degree_features(
    first: Tensor, second: Tensor, message: Tensor, scalars: Tensor, gate: Optional[Tensor] = None
) -> Tuple[Tensor, Tensor, Tensor]:
    """What an atom's update sees: [gate times message | invariants of :func:`degree_products` | scalars].

    Hands the spherical features on. Whoever uses them again takes those handed on: then the gradients of all
    uses are summed in one pass over memory, not three.

    Args:
        first: (N, 3, 2 d) features of degree 1 as [left | right].
        second: (N, 5, 2 d) features of degree 2 as [left | right].
        message: (N, d).
        scalars: (N, d).
        gate: (N, d), or None for ones.

    Returns:
        (N, 6 d), ``first`` and ``second``. Differentiable twice.

    Raises:
        ValueError: shapes or dtypes do not fit.
    """
    return _implementation.degree_features(first, second, message, scalars, gate)


def degree_update(
    gates: Tensor, first: Tensor, second: Tensor, scalars: Tensor, vector: Tensor
) -> Tuple[Tensor, Tensor]:
    """Scalar and spherical features after the changes of :func:`degree_gates`.

    Products and invariants are those of :func:`degree_products`, and are not kept in memory.

    Args:
        gates: (N, 9 d) as [shift | four scales of the invariants | factors of left first, left second,
            products of degree 1, of degree 2].
        first: (N, 3, 2 d) features of degree 1 as [left | right].
        second: (N, 5, 2 d) features of degree 2 as [left | right].
        scalars: (N, d).
        vector: (N, 8, d).

    Returns:
        changed scalars (N, d) and spherical features (N, 8, d). Differentiable twice.

    Raises:
        ValueError: shapes or dtypes do not fit.
    """
    return _implementation.degree_update(gates, first, second, scalars, vector)


def degree_gates(
    gates: Tensor, invariants: Tensor, first: Tensor, second: Tensor, product: Optional[Tensor] = None
) -> Tuple[Tensor, Tensor]:
    """Changes of scalar and spherical features: invariants and features times gates, channel by channel.

    Args:
        gates: (N, 5 d) as [shift | two scales of the invariants | factors of left first, left second]; with
            products (N, 9 d) as [shift | four scales | factors of left first, left second, products of
            degree 1, of degree 2].
        invariants: (N, 2, d) of :func:`degree_invariants`, or (N, 4, d) of :func:`degree_products`.
        first: (N, 3, 2 d), its argument.
        second: (N, 5, 2 d), its argument.
        product: (N, 8, d), the result of :func:`degree_products`; None without products.

    Returns:
        changes of the scalars (N, d) and of the spherical features (N, 8, d). Differentiable twice.

    Raises:
        ValueError: shapes or dtypes do not fit.
    """
    return _implementation.degree_gates(gates, invariants, first, second, product)


def degree_norm(vector: Tensor, weight: Tensor, offset: float) -> Tensor:
    """Each degree's features over their root mean square length over the channels, times factors.

    With the mean P over an atom's channels of the squared lengths of its features of one degree, these become
    w v / sqrt(P + offset): smooth where features vanish, and none grows beyond sqrt(d) w.

    Models now use :func:`degree_norm_through` and :func:`degree_norm_apart_through`; files that were exported
    before these call this and :func:`degree_norm_apart`.

    Args:
        vector: (N, 8, d) spherical features, three components of degree 1, five of degree 2.
        weight: (2, d) factors of both degrees.
        offset: mean square length far below which features keep their own length; above zero.

    Returns:
        (N, 8, d). Differentiable twice.

    Raises:
        ValueError: shapes or dtypes do not fit.
    """
    return _implementation.degree_norm(vector, weight, offset)


def degree_norm_apart(vector: Tensor, weight: Tensor, offset: float) -> Tuple[Tensor, Tensor]:
    """As :func:`degree_norm`, each degree for itself: (N, 3, d) and (N, 5, d), contiguous."""
    return _implementation.degree_norm_apart(vector, weight, offset)


def degree_norm_through(vector: Tensor, weight: Tensor, offset: float) -> Tuple[Tensor, Tensor]:
    """As :func:`degree_norm`, and ``vector``, handed on as in :func:`degree_features`."""
    return _implementation.degree_norm_through(vector, weight, offset)


def degree_norm_apart_through(vector: Tensor, weight: Tensor, offset: float) -> Tuple[Tensor, Tensor, Tensor]:
    """As :func:`degree_norm_apart`, and ``vector``, handed on as in :func:`degree_features`."""
    return _implementation.degree_norm_apart_through(vector, weight, offset)


def linear(input: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    """``torch.nn.functional.linear``, twice as fast for float32 on CPUs with AVX-512 that are not Intel's.

    There torch's own product, MKL's, leaves half of every vector register idle; oneDNN's, which torch has
    too, does not.

    Args:
        input: (..., n).
        weight: (m, n).
        bias: (m,) or None.

    Returns:
        (..., m). Differentiable any number of times.
    """
    return _implementation.linear(input, weight, bias)
