#include "edge_groups.h"

#include <ATen/ops/cumsum.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "launch.h"

namespace dkmp {
namespace cuda {

EdgeGroups group_edges(const at::Tensor& index, int64_t num_atoms) {
  constexpr int kThreads = 256;
  const int64_t num_entries = index.numel();
  TORCH_CHECK_VALUE(num_entries < (int64_t(1) << 31), "dkmp_plugin: more than 2^30 edges in one graph");
  at::Tensor counts = at::zeros({num_atoms + 1}, index.options().dtype(at::kInt));
  at::Tensor entry = at::empty({num_entries}, counts.options());
  const Shape shape{blocks_for(num_entries, kThreads), kThreads};
  const int64_t* indices = index.const_data_ptr<int64_t>();
  // Counted one place to the right, so that the running sum starts with zero.
  launch(index, {"edge_groups.cu", "edge_groups_count", {}}, shape, indices, num_entries, num_atoms,
      counts.data_ptr<int>() + 1);
  const at::Tensor start = counts.cumsum(0, at::kLong);
  launch(
      index, {"edge_groups.cu", "edge_groups_fill", {}}, shape, indices, num_entries, num_atoms,
      start.const_data_ptr<int64_t>(), counts.data_ptr<int>() + 1, entry.data_ptr<int>());
  return {start, entry};
}

}  // namespace cuda
}  // namespace dkmp
