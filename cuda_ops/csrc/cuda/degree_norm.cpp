// CUDA implementation of degree_norm; see ../degree_norm.cpp for the ops and their autograd and
// ../../kernels/degree_norm.cu for the kernels.
#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>

#include "../degree_norm_call.h"
#include "../keys.h"
#include "launch.h"

namespace dkmp {
namespace cuda {
namespace {

using at::Tensor;
constexpr int kThreads = 128, kWarp = 32;
// Atoms that one thread adds up, and parts at most: enough threads for small systems, short sums of parts for large.
constexpr int64_t kPart = 16, kMostParts = 512;

struct Call {
  Tensor vector, weight, vector_direction, weight_direction;
  int64_t num_atoms, num_channels;
  bool dual;

  Call(const Tensor& vector_, const Tensor& weight_, at::TensorList directions)
      : vector(vector_.contiguous()), weight(weight_.contiguous()), num_atoms(vector_.size(0)),
        num_channels(vector_.size(2)), dual(!directions.empty()) {
    if (!dual) return;
    vector_direction = directions[0].contiguous();
    weight_direction = directions[1].contiguous();
  }
  Kernel kernel(const char* name) const {
    return {"degree_norm.cu", name, {scalar_option(vector), option("DKMP_DUAL", dual)}};
  }
  Shape warps() const { return {blocks_for(num_atoms * kNumDegrees, kThreads / kWarp), kThreads}; }
};

#define DKMP_VECTOR pointer<scalar_t>(call.vector), pointer<scalar_t>(call.vector_direction)
#define DKMP_INPUTS                                                                                       \
  DKMP_VECTOR, pointer<scalar_t>(call.weight), pointer<scalar_t>(call.weight_direction), scalar_t(offset), \
      int(call.num_atoms), int(call.num_channels)
#define DKMP_FEATURES(x) (x).start[0], (x).start[1], (long long)(x).stride[0], (long long)(x).stride[1]

std::vector<Tensor> values(
    const Tensor& vector, const Tensor& weight, double offset, at::TensorList directions, bool apart) {
  std::vector<Tensor> results = degree_norm_value_results(vector, weight, offset, directions, apart);
  const Call call(vector, weight, directions);
  AT_DISPATCH_FLOATING_TYPES(vector.scalar_type(), "degree_norm", [&] {
    const Features<scalar_t> to = place<scalar_t>(results);
    launch(call.vector, call.kernel("degree_norm_values"), call.warps(), DKMP_INPUTS, DKMP_FEATURES(to));
  });
  return results;
}

std::vector<Tensor> gradients(
    const Tensor& vector, const Tensor& weight, double offset, at::TensorList upstream, at::TensorList directions,
    bool weighted) {
  std::vector<Tensor> results =
      degree_norm_gradient_results(vector, weight, offset, upstream, directions, weighted);
  const Call call(vector, weight, directions);
  std::vector<Tensor> parts;
  for (const Tensor& x : upstream) parts.push_back(x.contiguous());
  const bool with_added = parts.size() > num_values(parts);
  Tensor factors;
  if (weighted) factors = at::empty({2, call.num_atoms, kNumDegrees}, call.vector.options());
  AT_DISPATCH_FLOATING_TYPES(vector.scalar_type(), "degree_norm_gradients", [&] {
    const Features<const scalar_t> from = place<const scalar_t>(parts);
    scalar_t* const kept = weighted ? factors.data_ptr<scalar_t>() : nullptr;
    scalar_t* const tangents = weighted ? kept + call.num_atoms * kNumDegrees : nullptr;
    launch(
        call.vector, call.kernel("degree_norm_to_vector"), call.warps(), DKMP_INPUTS, DKMP_FEATURES(from),
        with_added ? parts.back().const_data_ptr<scalar_t>() : nullptr, results[0].data_ptr<scalar_t>(), kept,
        tangents);
    if (!weighted) return;
    const int64_t part = std::max(kPart, blocks_for(call.num_atoms, kMostParts));
    const int64_t num_parts = blocks_for(call.num_atoms, part);
    const Tensor sums = at::empty({num_parts, kNumDegrees, call.num_channels}, call.vector.options());
    launch(
        call.vector, call.kernel("degree_norm_to_weight"),
        {blocks_for(sums.numel(), kThreads), kThreads}, DKMP_VECTOR, int(call.num_atoms), int(call.num_channels),
        DKMP_FEATURES(from), static_cast<const scalar_t*>(kept), static_cast<const scalar_t*>(tangents), int(part),
        sums.data_ptr<scalar_t>());
    results[1] = sums.sum(0);
  });
  return results;
}

}  // namespace
}  // namespace cuda

TORCH_LIBRARY_IMPL(dkmp_plugin, DKMP_CUDA_KEY, library) {
  library.impl("degree_norm_values", cuda::values);
  library.impl("degree_norm_gradients", cuda::gradients);
}

}  // namespace dkmp
