// Edge vectors pos[j] + n @ box - pos[i].
//
// One thread per edge. Bytes: 16 (indices) + 12 (image, periodic systems) + 3 scalars written per edge; positions
// are gathered from cache, since edges are sorted by receiver and neighbours in a file are neighbours in space.

#include "neighbor_grid_plan.cuh"
#include "order_free_sum.cuh"

// An edge of the atoms (-1, -1) pads the list to its capacity: its vector is zero.
// An offset of the smallest integer, which radius_shells writes into a graph that cannot be trusted, makes it NaN.
// So do other indices outside num_atoms, and a system outside num_boxes: an error would have to wait for the device.
// box: 9 values per system (num_boxes 1: of all systems), or null for open boundaries. offsets: (E, 3), rows
// offset_stride apart, or null.
extern "C" __global__ void edge_vectors_forward(
    const Scalar* pos, const long long* edge_index, const int* offsets, const Scalar* box, const long long* batch,
    long long num_atoms, long long num_boxes, long long offset_stride, long long num_edges, Scalar* vector) {
  const Offset e = (Offset)blockIdx.x * blockDim.x + threadIdx.x;
  if (e >= num_edges) return;
  const Offset i = edge_index[e], j = edge_index[num_edges + e];
  Scalar out[3] = {0, 0, 0};
  if (i != -1 || j != -1) {
    const int* n = offsets ? offsets + offset_stride * e : nullptr;
    bool known = is_index(i, num_atoms) && is_index(j, num_atoms) && !(n && n[0] == dkmp::kBrokenOffset);
    const Offset system = known && num_boxes > 1 ? batch[i] : 0;
    if (box) known = known && is_index(system, num_boxes);
    for (int k = 0; k < 3; ++k) out[k] = known ? pos[3 * j + k] - pos[3 * i + k] : Scalar(NAN);
    if (known && box) {
      const Scalar* cell = box + 9 * system;
      const Scalar a = (Scalar)n[0], b = (Scalar)n[1], c = (Scalar)n[2];
      for (int k = 0; k < 3; ++k) out[k] = out[k] + (a * cell[k] + b * cell[3 + k] + c * cell[6 + k]);
    }
  }
  for (int k = 0; k < 3; ++k) vector[3 * e + k] = out[k];
}

// The transpose of edge_vectors_forward: one warp sums one atom's gradients. An atom's entries are places in
// edge_index, which is first the receivers (subtracted), then the senders (added), in any order: the sums do not
// depend on it. With box_terms the gradients times the images, of the edges that the atom receives, are summed too.
// Bytes per edge: two entries of 4, two gathers of 3 scalars (and 12 of the image), each read twice.
extern "C" __global__ void __launch_bounds__(128, 4) edge_vectors_transposed(
    const Scalar* grad, const int* offsets, const long long* start, const int* entries, int num_atoms,
    long long num_edges, Scalar* grad_pos, Scalar* box_terms) {
  const int atom = (int)(((Offset)blockIdx.x * blockDim.x + threadIdx.x) / kWarp), lane = threadIdx.x % kWarp;
  if (atom >= num_atoms) return;
  const Offset begin = start[atom], end = start[atom + 1];
  Scalar most = 0, most_term = 0;
  int broken = 0;
  for (Offset at = begin + lane; at < end; at += kWarp) {
    const Offset entry = entries[at], e = entry < num_edges ? entry : entry - num_edges;
    for (int k = 0; k < 3; ++k) {
      const Scalar size = fabs(grad[3 * e + k]);
      most = larger(most, size);
      broken |= !(size <= largest_finite(Scalar(0)));
      if (!box_terms || entry >= num_edges) continue;
      for (int row = 0; row < 3; ++row) most_term = larger(most_term, Scalar(fabs(offsets[3 * e + row] * grad[3 * e + k])));
    }
  }
  const FixedPoint<Scalar> fixed(warp_largest(most), (int)(end - begin));
  const FixedPoint<Scalar> fixed_term(warp_largest(most_term), (int)(end - begin));
  long long sum[3] = {0, 0, 0}, terms[9] = {0, 0, 0, 0, 0, 0, 0, 0, 0};
  for (Offset at = begin + lane; at < end; at += kWarp) {
    const Offset entry = entries[at], e = entry < num_edges ? entry : entry - num_edges;
    for (int k = 0; k < 3; ++k) {
      const Scalar g = grad[3 * e + k];
      sum[k] += entry < num_edges ? -fixed.integer(g) : fixed.integer(g);
      if (!box_terms || entry >= num_edges) continue;
#pragma unroll
      for (int row = 0; row < 3; ++row) terms[3 * row + k] += fixed_term.integer(offsets[3 * e + row] * g);
    }
  }
  const bool finite = !__any_sync(kWholeWarp, broken);
  for (int k = 0; k < 3; ++k) {
    const Scalar total = fixed.number(warp_sum_integer(sum[k]));
    if (lane == 0) grad_pos[3 * (Offset)atom + k] = finite ? total : Scalar(NAN);
  }
  if (!box_terms) return;
#pragma unroll
  for (int k = 0; k < 9; ++k) {
    const Scalar total = fixed_term.number(warp_sum_integer(terms[k]));
    if (lane == 0) box_terms[9 * (Offset)atom + k] = finite ? total : Scalar(NAN);
  }
}

DKMP_INLINE Offset first_atom_of(const long long* batch, Offset num_atoms, long long system) {
  Offset low = 0, high = num_atoms;
  while (low < high) {
    const Offset middle = (low + high) / 2;
    if (batch[middle] < system)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

// One block of 256 threads per element of a system's box (9 per system): sums its atoms' terms in a fixed order.
extern "C" __global__ void __launch_bounds__(256) edge_vectors_box_gradient(
    const Scalar* box_terms, const long long* batch, int num_atoms, int single_box, Scalar* grad_box) {
  DYN_SHARED(Scalar, partial);
  const int system = blockIdx.x / 9, element = blockIdx.x % 9;
  const Offset begin = single_box ? 0 : first_atom_of(batch, num_atoms, system);
  const Offset end = single_box ? num_atoms : first_atom_of(batch, num_atoms, system + 1);
  Scalar sum = 0;
  for (Offset atom = begin + threadIdx.x; atom < end; atom += blockDim.x) sum += box_terms[9 * atom + element];
  partial[threadIdx.x] = sum;
  __syncthreads();
  for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) grad_box[blockIdx.x] = partial[0];
}
