// CUDA implementation of radius_shells; see ../radius_shells.cpp for the schema and kernels/radius_shells.cu.
//
// Without max_edges the number of edges is read once, since the results' size depends on it. With max_edges all
// sizes follow from the arguments: nothing is read, and the call can be part of a CUDA graph.
#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cumsum.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>

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
constexpr const char* kName = "radius_shells";
constexpr int kThreads = 128;  // four receivers

template <class Scalar>
class ShellSearch {
 public:
  ShellSearch(const NeighborGrid& grid, double cutoff, int64_t num_shells, double overlap)
      : grid_(grid),
        cutoff_(cutoff),
        per_width_(Scalar(double(num_shells) / cutoff)),
        num_shells_(int(num_shells)),
        borders_(at::empty({2, num_shells}, grid.pos.options())),
        counts_(at::zeros({num_shells, grid.num_atoms}, grid.first.options())) {
    launch(
        grid.pos, kernel("shell_borders"), {blocks_for(num_shells, kThreads), kThreads}, cutoff, num_shells_, overlap,
        borders_.template data_ptr<Scalar>());
    const int64_t shared = num_shells <= kSharedShells ? kThreads / 32 * num_shells * int64_t(sizeof(int)) : 0;
    search("radius_shells_count", shared, counts_.template data_ptr<int>(), status());
    ends_ = counts_.view(-1).cumsum(0, at::kLong);
  }

  // capacity: negative for none.
  Tensor ptr(int64_t capacity, int64_t max_neighbors) {
    Tensor result = at::empty({num_shells_ + 1}, ends_.options());
    launch(
        grid_.pos, kernel("radius_shells_ptr"), {blocks_for(num_shells_ + 1, kThreads), kThreads},
        ends_.const_data_ptr<int64_t>(), grid_.num_atoms, num_shells_, capacity, max_neighbors, status(),
        result.data_ptr<int64_t>());
    return result;
  }

  void write(Tensor& edge_index, Tensor& offsets) {
    const bool periodic = grid_.boxes.defined();
    const int64_t num_edges = edge_index.size(1);
    const Tensor senders = at::empty({num_edges}, counts_.options());
    const Tensor packed = at::empty({periodic ? num_edges : 0}, ends_.options());
    const int64_t* ends = ends_.const_data_ptr<int64_t>();
    int64_t* images = periodic ? packed.data_ptr<int64_t>() : nullptr;
    search(
        "radius_shells_write", 0, ends, counts_.template data_ptr<int>(), status(), num_edges, senders.data_ptr<int>(),
        images);
    launch(
        grid_.pos, kernel("radius_shells_sort"), {blocks_for(counts_.numel() * 32, kThreads), kThreads},
        senders.const_data_ptr<int>(), images, ends, grid_.num_atoms, num_shells_, num_edges,
        edge_index.data_ptr<int64_t>(), periodic ? offsets.data_ptr<int>() : nullptr);
  }

  void pad(const Tensor& ptr, int64_t max_neighbors, Tensor& edge_index, Tensor& offsets) {
    const int64_t capacity = edge_index.size(1);
    launch(
        grid_.pos, kernel("radius_shells_pad"), {blocks_for(capacity, kThreads), kThreads},
        ptr.const_data_ptr<int64_t>(), status(), num_shells_, capacity, max_neighbors, offsets.size(0),
        edge_index.data_ptr<int64_t>(), offsets.data_ptr<int>());
  }

 private:
  Kernel kernel(const char* name) const { return {"radius_shells.cu", name, grid_.options}; }
  int64_t* status() const { return grid_.status.data_ptr<int64_t>(); }

  template <class... Arguments>
  void search(const char* name, int64_t shared, Arguments... arguments) {
    const Scalar* boxes = grid_.boxes.defined() ? grid_.boxes.template const_data_ptr<Scalar>() : nullptr;
    launch(
        grid_.pos, kernel(name), {blocks_for(int64_t(grid_.num_atoms) * 32, kThreads), kThreads, shared},
        grid_.pos.template const_data_ptr<Scalar>(), boxes, grid_.first.const_data_ptr<int>(),
        grid_.records.const_data_ptr<float>(), grid_.fraction.const_data_ptr<float>(),
        grid_.wrap.const_data_ptr<int>(), grid_.cell_start.const_data_ptr<int>(), grid_.sorted.const_data_ptr<float>(),
        grid_.num_atoms, Scalar(cutoff_), per_width_, num_shells_, borders_.template const_data_ptr<Scalar>(),
        arguments...);
  }

  const NeighborGrid& grid_;
  double cutoff_;
  Scalar per_width_;
  int num_shells_;
  Tensor borders_, counts_, ends_;
};

// One copy to the host: flags, number of edges, most neighbours.
int64_t read_num_edges(const NeighborGrid& grid, double cutoff, int64_t max_neighbors) {
  const Tensor status = grid.status.cpu();
  const int64_t* values = status.const_data_ptr<int64_t>();
  check_flags(kName, values[0]);
  TORCH_CHECK_VALUE(
      max_neighbors <= 0 || values[2] <= max_neighbors, kName, ": an atom has ", values[2],
      " neighbours within the cutoff of ", cutoff, ", more than max_neighbors = ", max_neighbors,
      "; raise max_neighbors to at least ", values[2], kTooManyNeighbors);
  TORCH_CHECK_VALUE(
      values[1] < (int64_t(1) << 31), kName, ": the cutoff gives ", values[1], " edges, which need ",
      double(values[1]) * 44 / 1e9, " GB of memory; use a smaller cutoff or fewer atoms");
  return values[1];
}

template <class Scalar>
std::tuple<Tensor, Tensor, Tensor> find_edges(
    const NeighborGrid& grid, double cutoff, int64_t num_shells, double overlap, int64_t max_neighbors,
    std::optional<int64_t> max_edges) {
  ShellSearch<Scalar> search(grid, cutoff, num_shells, overlap);
  Tensor ptr = search.ptr(max_edges.value_or(-1), max_neighbors);
  const int64_t num_edges = max_edges ? *max_edges : read_num_edges(grid, cutoff, max_neighbors);
  const bool periodic = grid.boxes.defined();
  Tensor edge_index = at::empty({2, num_edges}, ptr.options());
  // An open system's offsets are all alike: one row stands for all.
  Tensor offsets = periodic ? at::empty({num_edges, 3}, grid.first.options()) : at::zeros({1, 3}, grid.first.options());
  search.write(edge_index, offsets);
  if (max_edges) search.pad(ptr, max_neighbors, edge_index, offsets);
  return {edge_index, periodic ? offsets : offsets.expand({num_edges, 3}), ptr};
}

void check_settings(double cutoff, int64_t num_shells, double overlap, std::optional<int64_t> max_edges) {
  TORCH_CHECK_VALUE(
      cutoff > 0.0 && std::isfinite(cutoff), kName, ": cutoff is ", cutoff,
      ", expected a positive finite distance in angstrom");
  TORCH_CHECK_VALUE(
      num_shells >= 1 && num_shells < 32768, kName, ": num_shells is ", num_shells, ", expected 1 to 32767");
  const double width = cutoff / double(num_shells);
  TORCH_CHECK_VALUE(
      overlap >= 0.0 && overlap <= width * (1.0 + 1e-9), kName, ": overlap is ", overlap,
      ", expected a value between 0 and the shell width cutoff/num_shells = ", width);
  TORCH_CHECK_VALUE(
      !max_edges || (*max_edges >= 1 && *max_edges < (int64_t(1) << 31)), kName, ": max_edges is ",
      max_edges.value_or(0), ", expected 1 to 2^31 - 1");
}

std::tuple<Tensor, Tensor, Tensor> radius_shells(
    const Tensor& pos, const Tensor& batch, const OptionalTensor& box, double cutoff, int64_t num_shells,
    double overlap, int64_t max_neighbors, std::optional<int64_t> max_edges) {
  check_devices(kName, {pos, batch, box ? *box : Tensor()});
  check_positions(kName, pos);
  check_batch(kName, batch, pos.size(0));
  check_settings(cutoff, num_shells, overlap, max_edges);
  if (box) check_box_shape(kName, *box, pos);
  // Cells are numbered by 32-bit integers, eight per atom.
  TORCH_CHECK_VALUE(pos.size(0) < (int64_t(1) << 28), kName, ": more than 2^28 atoms");
  if (pos.size(0) == 0) {
    const int64_t num_edges = max_edges.value_or(0);
    const at::TensorOptions integers = pos.options().dtype(at::kLong);
    return {at::empty({2, num_edges}, integers).fill_(-1), at::zeros({num_edges, 3}, integers.dtype(at::kInt)),
            at::zeros({num_shells + 1}, integers)};
  }
  const double most = max_edges ? double(*max_edges) : double(int64_t(1) << 31);
  const NeighborGrid grid = build_grid(pos, batch, box, std::min(cutoff, kLongestReach), 0, most);
  return AT_DISPATCH_FLOATING_TYPES(pos.scalar_type(), kName, [&] {
    return find_edges<scalar_t>(grid, cutoff, num_shells, overlap, max_neighbors, max_edges);
  });
}

}  // namespace
}  // namespace cuda

TORCH_LIBRARY_IMPL(dkmp_plugin, DKMP_CUDA_KEY, library) { library.impl("radius_shells", cuda::radius_shells); }

}  // namespace dkmp
