// What the CPU's and the GPU's implementation of degree_map share.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace dkmp {

// Checks a call of degree_map and returns its results, not yet computed.
std::vector<at::Tensor> degree_map_results(int64_t map, at::TensorList inputs, at::TensorList directions);

}  // namespace dkmp
