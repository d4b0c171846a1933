// A shell's edges grouped by receiver or sender on the device; kernels/shell_groups.cu.
#pragma once

#include <ATen/core/Tensor.h>

namespace dkmp {
namespace cuda {

// Row a lists the edges edges[starts[a]] ... edges[starts[a + 1] - 1], in ascending order. All int32.
struct ShellGroups {
  at::Tensor starts, edges, work;

  const int* first() const { return starts.const_data_ptr<int>(); }
  const int* list() const { return edges.const_data_ptr<int>(); }
  // Not zero where ptr or an edge is impossible.
  const int* broken() const { return work.const_data_ptr<int>(); }
};

// edge_index (2, E) and ptr are contiguous; `row` is 0 for receivers, 1 for senders. Takes 8 E + 16 N bytes until
// the caller is done, and five launches, whatever the shell holds: the host does not know how many edges that is.
ShellGroups group_shell(const at::Tensor& edge_index, const at::Tensor& ptr, int64_t shell, int row, int64_t num_atoms);

}  // namespace cuda
}  // namespace dkmp
