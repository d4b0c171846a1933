#include "shell_groups.h"

#include <ATen/ops/cumsum.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "launch.h"

namespace dkmp {
namespace cuda {
namespace {

constexpr int kThreads = 256;
// Enough to fill any GPU; threads take several edges where there are more.
constexpr int64_t kMostBlocks = 2048;

}  // namespace

ShellGroups group_shell(const at::Tensor& edge_index, const at::Tensor& ptr, int64_t shell, int row, int64_t num_atoms) {
  const int64_t num_edges = edge_index.size(1);
  const auto integers = edge_index.options().dtype(at::kInt);
  const at::Tensor edges = at::empty({num_edges}, integers), unordered = at::empty({num_edges}, integers);
  // broken (1), counts (N + 1), bounds (2 N), next (N)
  at::Tensor work = at::zeros({4 * num_atoms + 2}, integers);
  const at::Tensor counts = work.narrow(0, 1, num_atoms + 1);
  int* broken = work.data_ptr<int>();
  int *bounds = broken + num_atoms + 2, *next = bounds + 2 * num_atoms;
  const int64_t *rows = edge_index.const_data_ptr<int64_t>() + row * num_edges,
                *others = edge_index.const_data_ptr<int64_t>() + (1 - row) * num_edges,
                *ends = ptr.const_data_ptr<int64_t>();
  // At least one block, which checks ptr.
  const Shape over_edges{std::max<int64_t>(1, std::min(kMostBlocks, blocks_for(num_edges, kThreads))), kThreads};
  launch(
      edge_index, {"shell_groups.cu", "group_count", {}}, over_edges, rows, others, ends, int(shell), int(num_edges),
      int(num_atoms), int(num_atoms), counts.data_ptr<int>(), bounds, broken);
  const at::Tensor starts = at::cumsum(counts, 0, at::kInt);
  const int* first = starts.const_data_ptr<int>();
  launch(
      edge_index, {"shell_groups.cu", "group_fill", {}}, over_edges, rows, others, ends, int(shell), int(num_edges),
      int(num_atoms), int(num_atoms), first, bounds, next, unordered.data_ptr<int>(), edges.data_ptr<int>());
  launch(
      edge_index, {"shell_groups.cu", "group_order", {}}, {blocks_for(num_atoms, kThreads / 32), kThreads}, first, bounds,
      unordered.const_data_ptr<int>(), int(num_edges), int(num_atoms), edges.data_ptr<int>());
  return {starts, edges, work};
}

}  // namespace cuda
}  // namespace dkmp
