// CUDA implementation of edge_vectors and of its transpose; see ../edge_vectors.cpp for the schemas.
#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "../checks.h"
#include "../keys.h"
#include "edge_groups.h"
#include "launch.h"

namespace dkmp {
namespace cuda {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
constexpr const char* kName = "edge_vectors";
constexpr int kThreads = 128;

void check_cell_offsets(const char* op, const Tensor& edge_index, const Tensor& cell_offsets, bool periodic) {
  TORCH_CHECK_VALUE(
      !periodic ||
          (cell_offsets.dim() == 2 && cell_offsets.size(0) == edge_index.size(1) && cell_offsets.size(1) == 3),
      op, ": cell_offsets has shape ", cell_offsets.sizes(), ", expected (", edge_index.size(1), ", 3)");
}

Tensor edge_vectors(
    const Tensor& pos, const Tensor& edge_index, const Tensor& cell_offsets, const OptionalTensor& box,
    const Tensor& batch) {
  check_devices(kName, {pos, edge_index, cell_offsets, box ? *box : Tensor(), batch});
  check_positions(kName, pos);
  check_batch(kName, batch, pos.size(0));
  check_edge_index(kName, edge_index);
  check_cell_offsets(kName, edge_index, cell_offsets, box.has_value());
  if (box) check_box_shape(kName, *box, pos);
  const int64_t num_edges = edge_index.size(1);
  Tensor vector = at::empty({num_edges, 3}, pos.options());
  const Tensor positions = pos.contiguous(), edges = edge_index.contiguous(), systems = batch.contiguous();
  // An open system's offsets only say whether its graph can be trusted, often one row for all edges.
  const bool readable = cell_offsets.dim() == 2 && cell_offsets.size(0) == num_edges && cell_offsets.size(1) == 3;
  Tensor offsets = readable ? cell_offsets.to(at::kInt) : Tensor();
  if (readable && (offsets.stride(1) != 1 || (offsets.stride(0) != 0 && offsets.stride(0) != 3)))
    offsets = offsets.contiguous();
  const Tensor cells = box ? box->contiguous() : Tensor();
  const int64_t num_boxes = box ? box->numel() / 9 : 0, row_stride = readable ? offsets.stride(0) : 0;
  const Kernel kernel{"edge_vectors.cu", "edge_vectors_forward", {scalar_option(pos), "--fmad=false"}};
  AT_DISPATCH_FLOATING_TYPES(pos.scalar_type(), kName, [&] {
    launch(
        pos, kernel, {blocks_for(num_edges, kThreads), kThreads}, positions.const_data_ptr<scalar_t>(),
        edges.const_data_ptr<int64_t>(), readable ? offsets.const_data_ptr<int>() : nullptr,
        box ? cells.const_data_ptr<scalar_t>() : nullptr, systems.const_data_ptr<int64_t>(), pos.size(0), num_boxes,
        row_stride, num_edges, vector.data_ptr<scalar_t>());
  });
  return vector;
}

std::tuple<Tensor, Tensor> edge_vectors_backward(
    const Tensor& grad, const Tensor& edge_index, const Tensor& cell_offsets, const Tensor& batch,
    c10::SymIntArrayRef symbolic_shape) {
  const at::IntArrayRef box_shape = C10_AS_INTARRAYREF_SLOW(symbolic_shape);
  const bool periodic = !box_shape.empty();
  check_devices(kName, {grad, edge_index, cell_offsets, batch});
  check_edge_index(kName, edge_index);
  check_cell_offsets(kName, edge_index, cell_offsets, periodic);
  const int64_t num_atoms = batch.size(0), num_edges = edge_index.size(1);
  TORCH_CHECK_VALUE(
      grad.dim() == 2 && grad.size(0) == num_edges && grad.size(1) == 3, kName, ": gradient has shape ", grad.sizes(),
      ", expected (", num_edges, ", 3)");
  Tensor grad_pos = at::empty({num_atoms, 3}, grad.options());
  Tensor grad_box = periodic ? at::empty(box_shape, grad.options()) : at::empty({0}, grad.options());
  const Tensor terms = periodic ? at::empty({num_atoms, 9}, grad.options()) : Tensor();
  const Tensor gradients = grad.contiguous(), systems = batch.contiguous();
  const Tensor offsets = periodic ? cell_offsets.to(at::kInt).contiguous() : Tensor();
  const EdgeGroups groups = group_edges(edge_index.contiguous().view(-1), num_atoms);
  const std::vector<std::string> options{scalar_option(grad), "--fmad=false"};
  AT_DISPATCH_FLOATING_TYPES(grad.scalar_type(), kName, [&] {
    launch(
        grad, {"edge_vectors.cu", "edge_vectors_transposed", options}, {blocks_for(num_atoms * 32, kThreads), kThreads},
        gradients.const_data_ptr<scalar_t>(), periodic ? offsets.const_data_ptr<int>() : nullptr,
        groups.start.const_data_ptr<int64_t>(), groups.entry.const_data_ptr<int>(), int(num_atoms), num_edges,
        grad_pos.data_ptr<scalar_t>(), periodic ? terms.data_ptr<scalar_t>() : nullptr);
    if (!periodic) return;
    constexpr int kBoxThreads = 256;
    launch(
        grad, {"edge_vectors.cu", "edge_vectors_box_gradient", options},
        {grad_box.numel(), kBoxThreads, kBoxThreads * int64_t(sizeof(scalar_t))}, terms.const_data_ptr<scalar_t>(),
        systems.const_data_ptr<int64_t>(), int(num_atoms), int(grad_box.numel() == 9), grad_box.data_ptr<scalar_t>());
  });
  return {grad_pos, grad_box};
}

}  // namespace
}  // namespace cuda

TORCH_LIBRARY_IMPL(dkmp_plugin, DKMP_CUDA_KEY, library) {
  library.impl("edge_vectors", cuda::edge_vectors);
  library.impl("edge_vectors_backward", cuda::edge_vectors_backward);
}

}  // namespace dkmp
