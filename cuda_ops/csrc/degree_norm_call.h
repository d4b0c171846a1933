// What the CPU's and the GPU's implementation of degree_norm share.
#pragma once

#include <ATen/core/Tensor.h>

#include <type_traits>
#include <vector>

#include "degree_norm.h"

namespace dkmp {

// Whether gradients of values are of each degree for itself, (N, 3, d) and (N, 5, d), and how many tensors they are;
// another gradient of the features, to be added, may follow.
bool are_apart(at::TensorList upstream);
size_t num_values(at::TensorList upstream);

// Check a call and return its results, not yet computed.
std::vector<at::Tensor> degree_norm_value_results(
    const at::Tensor& vector, const at::Tensor& weight, double offset, at::TensorList directions, bool apart);
std::vector<at::Tensor> degree_norm_gradient_results(
    const at::Tensor& vector, const at::Tensor& weight, double offset, at::TensorList upstream,
    at::TensorList directions, bool weighted);

// Where the features of each degree are in contiguous tensors.
template <class Scalar>
Features<Scalar> place(const std::vector<at::Tensor>& parts) {
  Features<Scalar> features;
  const int64_t d = parts[0].size(2);
  const bool apart = are_apart(parts);
  for (int degree = 0; degree < kNumDegrees; ++degree) {
    const at::Tensor& part = parts[apart ? degree : 0];
    Scalar* start = const_cast<Scalar*>(part.const_data_ptr<std::remove_const_t<Scalar>>());
    features.start[degree] = apart ? start : start + kDegreeStart[degree] * d;
    features.stride[degree] = (apart ? kDegreeSize[degree] : kNumComponents) * d;
  }
  return features;
}

}  // namespace dkmp
