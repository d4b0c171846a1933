// CUDA implementation of distance_ranks; see ../distance_ranks.cpp for the schema and kernels/distance_ranks.cu.
#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "../checks.h"
#include "../../kernels/neighbor_grid_plan.cuh"
#include "../keys.h"
#include "launch.h"
#include "neighbor_grid.h"

namespace dkmp {
namespace cuda {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
constexpr const char* kName = "distance_ranks";
constexpr int64_t kSharedBytes = 48 * 1024;

template <class Scalar>
void launch_ranks(const NeighborGrid& g, int64_t num_neighbors, Tensor& ranks) {
  // Room for twice the ranks, so that a radius that holds enough atoms is found quickly.
  int64_t capacity = 64;
  while (capacity < 2 * num_neighbors) capacity *= 2;
  if (rank_list_bytes(capacity, sizeof(Scalar)) > kSharedBytes) capacity = 0;
  int64_t warps = 4;
  while (warps > 1 && warps * rank_list_bytes(capacity, sizeof(Scalar)) > kSharedBytes / 2) warps /= 2;
  launch(
      g.pos, {"distance_ranks.cu", "distance_ranks", g.options},
      {blocks_for(g.num_atoms, warps), int(32 * warps), warps * rank_list_bytes(capacity, sizeof(Scalar))},
      g.pos.const_data_ptr<Scalar>(), g.boxes.defined() ? g.boxes.const_data_ptr<Scalar>() : nullptr,
      g.first.const_data_ptr<int>(), g.records.const_data_ptr<float>(), g.fraction.const_data_ptr<float>(),
      g.wrap.const_data_ptr<int>(), g.cell_start.const_data_ptr<int>(), g.sorted.const_data_ptr<float>(), g.num_atoms,
      int(num_neighbors), int(capacity), g.status.const_data_ptr<int64_t>(), ranks.data_ptr<int64_t>());
}

Tensor distance_ranks(
    const Tensor& pos, c10::SymInt symbolic_count, const OptionalTensor& batch, const OptionalTensor& box) {
  const int64_t num_neighbors = symbolic_count.expect_int();
  check_devices(kName, {pos, batch ? *batch : Tensor(), box ? *box : Tensor()});
  check_positions(kName, pos);
  TORCH_CHECK_VALUE(
      num_neighbors >= 1 && num_neighbors < (int64_t(1) << 28), kName, ": num_neighbors is ", num_neighbors,
      ", expected at least 1 and less than 2^28");
  TORCH_CHECK_VALUE(pos.size(0) < (int64_t(1) << 28), kName, ": more than 2^28 atoms");
  const at::TensorOptions integers = pos.options().dtype(at::kLong);
  const Tensor systems = batch ? *batch : at::zeros({pos.size(0)}, integers);
  check_batch(kName, systems, pos.size(0));
  if (box) check_box_shape(kName, *box, pos);
  Tensor ranks = at::empty({pos.size(0), num_neighbors}, integers);
  if (pos.size(0) == 0) return ranks;
  const NeighborGrid grid = build_grid(pos, systems, box, 0.0, num_neighbors, 0.0);
  AT_DISPATCH_FLOATING_TYPES(
      pos.scalar_type(), kName, [&] { launch_ranks<scalar_t>(grid, num_neighbors, ranks); });
  // Ranks are made once per trajectory: bad input is worth waiting for. In a CUDA graph they are all -1 then.
  if (!is_capturing(pos)) check_flags(kName, grid.status.cpu().const_data_ptr<int64_t>()[0]);
  return ranks;
}

}  // namespace
}  // namespace cuda

TORCH_LIBRARY_IMPL(dkmp_plugin, DKMP_CUDA_KEY, library) { library.impl("distance_ranks", cuda::distance_ranks); }

}  // namespace dkmp
