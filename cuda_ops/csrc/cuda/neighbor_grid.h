// Cell list on the device, shared by radius_shells and distance_ranks; kernels/neighbor_grid.cuh describes it.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <vector>

namespace dkmp {
namespace cuda {

// Arrays of a cell list; `status` collects what is wrong with the input, see check_flags.
struct NeighborGrid {
  at::Tensor pos, boxes, batch;  // contiguous; boxes undefined for open systems
  at::Tensor first, records, fraction, wrap, cell_start, sorted;
  at::Tensor status;  // (4,) int64: flags, then what the search adds
  int num_atoms;

  // What every kernel that searches is compiled with: no fused operations, so that distances equal the CPU's.
  std::vector<std::string> options;
};

// radius: of the searches that follow; 0 for searches that look for num_neighbors atoms instead. A graph that
// cannot have fewer than max_edges edges is marked in the status, and searches then do nothing.
NeighborGrid build_grid(
    const at::Tensor& pos, const at::Tensor& batch, const std::optional<at::Tensor>& box, double radius,
    int64_t num_neighbors, double max_edges);

// Throws for the flags of a status that was copied to the host.
void check_flags(const char* op, int64_t flags);

}  // namespace cuda
}  // namespace dkmp
