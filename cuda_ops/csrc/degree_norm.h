// What degree_norm.cpp (tensors, autograd, threads) hands to degree_norm.isa.cpp (inner loops).
//
// Spherical features x are (N, 8, d): three components of degree 1, five of degree 2. With the mean square length
// P = sum x^2 / d of an atom's features of one degree and f = 1 / sqrt(P + offset), the norm is y = f w x, w being a
// factor per degree and channel (dkmp_plugin/ops/reference/degrees.py).
#pragma once

#include <cstdint>

namespace dkmp {

constexpr int kNumDegrees = 2;
constexpr int kDegreeSize[kNumDegrees] = {3, 5}, kDegreeStart[kNumDegrees] = {0, 3};
constexpr int kNumComponents = 8;

// Features of both degrees, together in one array or each in its own: the first of an atom's numbers of a degree is
// at start[degree] + atom * stride[degree].
template <class Scalar>
struct Features {
  Scalar* start[kNumDegrees];
  int64_t stride[kNumDegrees];
};

// Null directions are zero. With `dual` set, results are directional derivatives.
template <class Scalar>
struct DegreeNormCall {
  bool dual;
  int64_t num_atoms, num_channels;
  Scalar offset;
  const Scalar *vector, *vector_direction;  // (N, 8, d)
  const Scalar *weight, *weight_direction;  // (2, d)
  Features<const Scalar> upstream;          // of the gradients: du y
  Features<Scalar> values;                  // y
  const Scalar* added;                      // (N, 8, d), to the gradient of the features; null for nothing
  Scalar *to_vector, *to_weight;            // gradients of y . upstream, (N, 8, d) and (2, d)
  Scalar *factors, *factor_tangents;        // f, (N, 2): written with to_vector, read for to_weight
};

template <class Scalar>
struct DegreeNormKernels {
  // Atoms [begin, end) of the values, and of the gradient with respect to the features.
  void (*values)(const DegreeNormCall<Scalar>& call, int64_t begin, int64_t end);
  void (*to_vector)(const DegreeNormCall<Scalar>& call, int64_t begin, int64_t end);
  // Channels [begin, end) of the gradient with respect to the weights: a sum over all atoms.
  void (*to_weight)(const DegreeNormCall<Scalar>& call, int64_t begin, int64_t end);
};

}  // namespace dkmp
