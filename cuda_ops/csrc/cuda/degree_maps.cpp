// CUDA implementation of degree_map; see ../degree_maps.cpp for the ops and their autograd and
// ../../kernels/degree_maps.cu for the kernel.
#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <array>

#include "../../kernels/degree_maps_plan.cuh"
#include "../degree_maps_call.h"
#include "../keys.h"
#include "launch.h"

namespace dkmp {
namespace cuda {
namespace {

using at::Tensor;
constexpr int kThreads = 64;

template <class Pointer>
using Pointers = std::array<Pointer, kMaxTensors>;

template <class Scalar>
Pointers<const Scalar*> pointers(at::TensorList tensors, std::vector<Tensor>& kept) {
  Pointers<const Scalar*> all{};
  for (size_t k = 0; k < tensors.size(); ++k) {
    kept.push_back(tensors[k].contiguous());
    all[k] = kept.back().const_data_ptr<Scalar>();
  }
  return all;
}

#define DKMP_SPREAD(x) x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7]

std::vector<Tensor> degree_map(int64_t map, at::TensorList inputs, at::TensorList directions) {
  std::vector<Tensor> results = degree_map_results(map, inputs, directions), kept;
  if (inputs[0].numel() == 0) return results;
  const int64_t num_atoms = inputs[0].size(0);
  const int64_t num_channels = inputs[0].numel() / (num_atoms * kDegreeMaps[map].inputs[0]);
  const Kernel kernel{
      "degree_maps.cu",
      "degree_map",
      {scalar_option(inputs[0]), option("DKMP_DUAL", !directions.empty()), option("DKMP_DEGREE_MAP", map)}};
  AT_DISPATCH_FLOATING_TYPES(inputs[0].scalar_type(), "degree_map", [&] {
    const auto x = pointers<scalar_t>(inputs, kept), p = pointers<scalar_t>(directions, kept);
    Pointers<scalar_t*> y{};
    for (size_t k = 0; k < results.size(); ++k) y[k] = results[k].data_ptr<scalar_t>();
    launch(
        inputs[0], kernel, {blocks_for(num_atoms * num_channels, kThreads), kThreads}, DKMP_SPREAD(x), DKMP_SPREAD(p),
        DKMP_SPREAD(y), num_atoms, int(num_channels));
  });
  return results;
}

}  // namespace
}  // namespace cuda

TORCH_LIBRARY_IMPL(dkmp_plugin, DKMP_CUDA_KEY, library) { library.impl("degree_map", cuda::degree_map); }

}  // namespace dkmp
