// What dilated_message.cpp (tensors, autograd, threads) hands to dilated_message.isa.cpp (inner loops).
#pragma once

#include <cstdint>

#include "../kernels/spline_plan.cuh"

namespace dkmp {

// One shell's window and spline interval, and the widths of the features.
struct MessageSetup {
  int64_t width;        // channels d, padded with zero channels to a multiple of the kernel's lanes
  int64_t head_width;   // channels per attention head, of d without the padding; without attention all of them
  int64_t num_heads;
  int64_t num_intervals, degree;  // of the B-splines; the table has kSplineTaps - 1 more rows than intervals
  double lower, upper, overlap, cutoff;
  bool attention, carries_vector;
};

// Edges grouped by one of their atoms: row a holds the positions start[a]..start[a+1].
struct EdgeRows {
  const int64_t* start;
  const int64_t* edge;   // index into edge_vector and the per-edge results
  const int* other;      // the atom at the other end
};

// Constant inputs; in tangent kernels the same struct also carries the directions (null = zero direction). Tables are
// in slices of as many channels as the kernel has lanes, (width / lanes, rows, 4, lanes): what a pass over edges reads
// again and again is then contiguous. In rows of 4 d channels it lies in a few sets of the first-level cache, which the
// rows of the atoms fill.
template <class Scalar>
struct MessageInputs {
  const Scalar *edge_vector, *query, *key, *value, *vector, *table;
};

template <class Scalar>
struct MessageKernels {
  int lanes;
  // Size of the workspace that each call of a kernel needs for itself, in Scalars, all zero at first.
  int64_t (*workspace)(const MessageSetup&);
  // Sums for receivers [begin, end). With directions, the results are directional derivatives.
  void (*forward)(
      const MessageSetup&, const EdgeRows& by_receiver, const MessageInputs<Scalar>& inputs,
      const MessageInputs<Scalar>* directions, Scalar* scalar, Scalar* vector, Scalar* workspace,
      int64_t begin, int64_t end);
  // Gradients of senders [begin, end) and of their edges. score_gradient (E, 2, heads) is left for query_gradient;
  // the table's gradient is added to `table`, in slices too, unless null.
  void (*backward)(
      const MessageSetup&, const EdgeRows& by_sender, const MessageInputs<Scalar>& inputs,
      const MessageInputs<Scalar>* directions, const Scalar* grad_scalar, const Scalar* grad_vector,
      Scalar* edge_vector, Scalar* key, Scalar* value, Scalar* vector, Scalar* table, Scalar* score_gradient,
      Scalar* workspace, int64_t begin, int64_t end);
  // Gradient of the queries of receivers [begin, end).
  void (*query_gradient)(
      const MessageSetup&, const EdgeRows& by_receiver, const MessageInputs<Scalar>& inputs,
      const MessageInputs<Scalar>* directions, const Scalar* score_gradient, Scalar* query, Scalar* workspace,
      int64_t begin, int64_t end);
};

}  // namespace dkmp
