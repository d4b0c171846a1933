#include "neighbor_grid.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/cumsum.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "../../kernels/neighbor_grid_plan.cuh"
#include "../checks.h"
#include "launch.h"

namespace dkmp {
namespace cuda {
namespace {

constexpr int kThreads = 128;

template <class Scalar>
void fill_grid(NeighborGrid& g, double radius, int64_t num_neighbors, double max_edges) {
  const at::TensorOptions integers = g.pos.options().dtype(at::kInt), floats = g.pos.options().dtype(at::kFloat);
  const int64_t n = g.num_atoms;
  at::Tensor bounds = at::zeros({n, 8}, integers), cell_of = at::empty({n}, integers);
  at::Tensor counts = at::zeros({kCellsPerAtom * n + 1}, integers);
  const Scalar* pos = g.pos.const_data_ptr<Scalar>();
  const Scalar* boxes = g.boxes.defined() ? g.boxes.const_data_ptr<Scalar>() : nullptr;
  const int64_t* batch = g.batch.const_data_ptr<int64_t>();
  const int num_boxes = boxes ? int(g.boxes.numel() / 9) : 1;
  const int* first = g.first.const_data_ptr<int>();
  float* records = g.records.data_ptr<float>();
  int64_t* status = g.status.data_ptr<int64_t>();
  const Shape per_atom{blocks_for(n, kThreads), kThreads};
  const auto kernel = [&](const char* name) { return Kernel{"neighbor_grid.cu", name, g.options}; };
  launch(
      g.pos, kernel("grid_bounds"), per_atom, pos, batch, g.num_atoms, g.first.data_ptr<int>(), bounds.data_ptr<int>(),
      status);
  launch(
      g.pos, kernel("grid_setup"), per_atom, boxes, num_boxes, batch, first, bounds.const_data_ptr<int>(), g.num_atoms,
      Scalar(radius), int(num_neighbors), max_edges, records, status);
  // Counted one place to the right, so that the running sum starts with zero.
  launch(
      g.pos, kernel("grid_count"), per_atom, pos, boxes, first, records, g.num_atoms, g.fraction.data_ptr<float>(),
      g.wrap.data_ptr<int>(), cell_of.data_ptr<int>(), counts.data_ptr<int>() + 1);
  g.cell_start = counts.cumsum(0, at::kInt);
  launch(
      g.pos, kernel("grid_fill"), per_atom, first, records, g.fraction.const_data_ptr<float>(),
      cell_of.const_data_ptr<int>(), g.cell_start.const_data_ptr<int>(), g.num_atoms, counts.data_ptr<int>() + 1,
      g.sorted.data_ptr<float>());
}

}  // namespace

NeighborGrid build_grid(
    const at::Tensor& pos, const at::Tensor& batch, const std::optional<at::Tensor>& box, double radius,
    int64_t num_neighbors, double max_edges) {
  const at::TensorOptions integers = pos.options().dtype(at::kInt), floats = pos.options().dtype(at::kFloat);
  const int64_t n = pos.size(0);
  NeighborGrid g;
  g.num_atoms = int(n);
  g.options = {scalar_option(pos), "--fmad=false"};
  g.pos = pos.contiguous();
  g.batch = batch.contiguous();
  if (box) g.boxes = box->contiguous();
  g.first = at::empty({n}, integers);
  g.records = at::empty({n, kRecordWords}, floats);
  g.fraction = at::empty({n, 3}, floats);
  g.wrap = at::empty({box ? n : 0, 3}, integers);
  g.sorted = at::empty({n, 4}, floats);
  g.status = at::zeros({4}, pos.options().dtype(at::kLong));
  AT_DISPATCH_FLOATING_TYPES(
      pos.scalar_type(), "neighbor_grid", [&] { fill_grid<scalar_t>(g, radius, num_neighbors, max_edges); });
  return g;
}

void check_flags(const char* op, int64_t flags) {
  TORCH_CHECK_VALUE(
      !(flags & kBadPositions), op, ": pos holds NaN or infinite values, or values beyond ", kFarthest,
      " angstrom; check the structure or the time step");
  TORCH_CHECK_VALUE(
      !(flags & kBadBatch), op, ": batch must be non-negative and sorted; order the atoms by system");
  TORCH_CHECK_VALUE(
      !(flags & kMissingBox), op, ": batch names a system without a box; give one box per system or a single (3, 3) "
      "box");
  TORCH_CHECK_VALUE(
      !(flags & kBadBox), op, ": box is singular (its rows, the lattice vectors, span no volume) or holds NaN or "
      "infinite values; pass box=None for a system without periodic boundaries");
  TORCH_CHECK_VALUE(
      !(flags & kFlatBox), op, ": box is nearly flat: an atom has more than ", kFlattest,
      " times as many of its images around it as there is room for; give shorter lattice vectors of the same lattice");
  TORCH_CHECK_VALUE(
      !(flags & kTooManyEdges), op, ": the cutoff gives more edges than fit into memory; use a smaller cutoff or fewer "
      "atoms");
  TORCH_CHECK_VALUE(
      !(flags & kTooManyImages), op, ": a system has atoms or a cutoff too many periodic boxes away; wrap the positions "
      "into the box");
}

}  // namespace cuda
}  // namespace dkmp
