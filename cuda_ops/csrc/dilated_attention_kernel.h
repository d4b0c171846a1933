// What dilated_attention.cpp (tensors, autograd, threads) hands to dilated_attention.isa.cpp (inner loops).
#pragma once

#include <cstdint>

namespace dkmp {

// Shape of one call. The feature row of an atom holds its heads one after the other.
struct AttentionSetup {
  int64_t num_atoms;
  int64_t num_heads;
  int64_t head_width;  // channels per head; a multiple of the kernel's lanes
  int64_t num_neighbors;
  const int32_t* narrow_neighbors;  // (N, K), -1 for none; null when wide_neighbors is given
  const int64_t* wide_neighbors;
  const int32_t* order;  // (N,) the atom whose row is visited at each place; null for 0, 1, 2, ...
  // Visit p reads rows anew[anew_start[p]..anew_start[p + 1]] that are not in cache; null where all are.
  const uint32_t* anew_start;
  const int32_t* anew;
  double scale;
};

// Constant inputs; in tangent kernels the same struct also carries the directions (null = zero direction).
template <class Scalar>
struct AttentionInputs {
  const Scalar *query, *key, *value;  // (N, H, D)
  const Scalar* bias;                 // (N, K) or null
};

// Who lists each atom as a neighbour: atom j is entry `edge` = i K + k of rows start[j]..start[j + 1].
struct AttentionEdges {
  const int64_t* start;
  const uint32_t* edge;
};

// What the pass over receivers leaves for the pass over senders: the weights of all heads of an edge, then the
// gradients of its dot products, (N, K, 2, H). Tangents are null in plain kernels.
template <class Scalar>
struct AttentionTerms {
  Scalar *values, *tangents;
};

template <class Scalar>
struct AttentionKernels {
  int lanes;
  // Scalars of scratch memory that one thread needs.
  int64_t (*workspace)(const AttentionSetup&);
  // Rows visited at [begin, end) of the result. With directions, its directional derivative. False where a list names
  // an atom that does not exist; the result is void then.
  bool (*forward)(
      const AttentionSetup&, const AttentionInputs<Scalar>& inputs, const AttentionInputs<Scalar>* directions,
      Scalar* result, Scalar* workspace, int64_t begin, int64_t end);
  // Gradients of the queries and biases of rows visited at [begin, end); fills their terms. False as above.
  bool (*receivers)(
      const AttentionSetup&, const AttentionInputs<Scalar>& inputs, const AttentionInputs<Scalar>* directions,
      const Scalar* grad, Scalar* query, Scalar* bias, const AttentionTerms<Scalar>& terms,
      Scalar* workspace, int64_t begin, int64_t end);
  // Gradients of the keys and values of rows visited at [begin, end), each summed in the order of its edges.
  void (*senders)(
      const AttentionSetup&, const AttentionEdges&, const AttentionInputs<Scalar>& inputs,
      const AttentionInputs<Scalar>* directions, const Scalar* grad, const AttentionTerms<Scalar>& terms,
      Scalar* key, Scalar* value, int64_t begin, int64_t end);
};

}  // namespace dkmp
