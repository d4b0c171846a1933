// dkmp_plugin::edge_vectors: pos[j] + n @ box - pos[i] per edge, linear in pos and box. Its backward is its
// transpose, so the two ops are each other's derivative and any order of differentiation stays native.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "../kernels/neighbor_grid_plan.cuh"
#include "checks.h"
#include "keys.h"

namespace dkmp {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
constexpr const char* kName = "edge_vectors";

// One box for all systems is read with a system index of 0.
bool one_box(const Tensor& box) { return box.dim() == 2 || box.size(0) == 1; }

void check_edges(const Tensor& edge_index, const Tensor& cell_offsets, bool periodic) {
  check_edge_index(kName, edge_index);
  if (!periodic) return;
  TORCH_CHECK_VALUE(
      cell_offsets.dim() == 2 && cell_offsets.size(0) == edge_index.size(1) && cell_offsets.size(1) == 3, kName,
      ": cell_offsets has shape ", cell_offsets.sizes(), ", expected (", edge_index.size(1), ", 3)");
}

// radius_shells pads a graph of fixed size with edges of the atoms -1 and -1: their vectors are zero.
bool is_padding(int64_t receiver, int64_t sender) { return receiver == -1 && sender == -1; }

[[noreturn]] void refuse_index(int64_t index, int64_t size, const char* what) {
  TORCH_CHECK_INDEX(false, kName, ": ", what, " ", index, " is outside [0, ", size, ")");
}
inline void check_index(int64_t index, int64_t size, const char* what) {
  if (C10_UNLIKELY(index < 0 || index >= size)) refuse_index(index, size, what);
}

// Edges that one thread takes at a time; fewer are not worth waking a second one. Gradients are summed in so many
// parts, in fixed order, whatever the number of threads.
constexpr int64_t kEdgesPerPart = 8192, kMostParts = 8;
int64_t num_parts(int64_t num_edges) { return std::clamp<int64_t>(num_edges / kEdgesPerPart, 1, kMostParts); }

template <class Scalar>
void forward_loop(
    const Tensor& pos, const Tensor& edge_index, const Tensor& cell_offsets, const OptionalTensor& box,
    const Tensor& batch, Tensor& vector) {
  const Scalar* p = pos.const_data_ptr<Scalar>();
  const int64_t num_edges = edge_index.size(1), num_atoms = pos.size(0);
  const int64_t* receivers = edge_index.const_data_ptr<int64_t>();
  const int64_t* senders = receivers + num_edges;
  Scalar* out = vector.data_ptr<Scalar>();
  const int* n = box ? cell_offsets.const_data_ptr<int>() : nullptr;
  const Scalar* cells = box ? box->const_data_ptr<Scalar>() : nullptr;
  const bool single = !box || one_box(*box);
  const int64_t num_boxes = single ? 1 : box->size(0);
  const int64_t* systems = batch.const_data_ptr<int64_t>();
  const bool broken = !box && num_edges > 0 && cell_offsets.dim() == 2 && cell_offsets.numel() > 0 &&
                      cell_offsets[0][0].item().toLong() == kBrokenOffset;
  const auto set = [&](int64_t e) {
    const int64_t i = receivers[e], j = senders[e];
    if (is_padding(i, j)) {
      for (int k = 0; k < 3; ++k) out[3 * e + k] = Scalar(0);
      return;
    }
    check_index(i, num_atoms, "receiver");
    check_index(j, num_atoms, "sender");
    if (broken || (n && n[3 * e] == kBrokenOffset)) {
      for (int k = 0; k < 3; ++k) out[3 * e + k] = std::numeric_limits<Scalar>::quiet_NaN();
      return;
    }
    if (!box) {
      for (int k = 0; k < 3; ++k) out[3 * e + k] = p[3 * j + k] - p[3 * i + k];
      return;
    }
    const int64_t system = single ? 0 : systems[i];
    check_index(system, num_boxes, "system");
    const Scalar* cell = cells + 9 * system;
    for (int k = 0; k < 3; ++k) {
      const Scalar shift = n[3 * e] * cell[k] + n[3 * e + 1] * cell[3 + k] + n[3 * e + 2] * cell[6 + k];
      out[3 * e + k] = (p[3 * j + k] - p[3 * i + k]) + shift;
    }
  };
  at::parallel_for(0, num_edges, kEdgesPerPart, [&](int64_t begin, int64_t end) {
    for (int64_t e = begin; e < end; ++e) set(e);
  });
}

// Gradients of positions (parts, N, 3) and, where there are boxes, of these (parts, B, 3, 3), by parts of the edges.
template <class Scalar>
void transposed_loop(
    const Tensor& grad, const Tensor& edge_index, const Tensor& cell_offsets, const Tensor& batch, Tensor& grad_pos,
    Tensor& grad_box) {
  const int64_t num_edges = edge_index.size(1), parts = grad_pos.size(0), num_atoms = grad_pos.size(1);
  const int64_t* receivers = edge_index.const_data_ptr<int64_t>();
  const int64_t* senders = receivers + num_edges;
  const int64_t* systems = batch.const_data_ptr<int64_t>();
  const Scalar* g = grad.const_data_ptr<Scalar>();
  const bool periodic = grad_box.numel() > 0;
  const int64_t num_boxes = periodic ? grad_box.numel() / (9 * parts) : 0;
  const int* n = periodic ? cell_offsets.const_data_ptr<int>() : nullptr;
  Scalar *all_pos = grad_pos.data_ptr<Scalar>(), *all_box = periodic ? grad_box.data_ptr<Scalar>() : nullptr;
  const auto add_part = [&](int64_t part) {
    Scalar *to_pos = all_pos + 3 * num_atoms * part, *to_box = all_box + 9 * num_boxes * part;
    for (int64_t e = num_edges * part / parts; e < num_edges * (part + 1) / parts; ++e) {
      const int64_t i = receivers[e], j = senders[e];
      if (is_padding(i, j)) continue;
      check_index(i, num_atoms, "receiver");
      check_index(j, num_atoms, "sender");
      for (int k = 0; k < 3; ++k) {
        to_pos[3 * j + k] += g[3 * e + k];
        to_pos[3 * i + k] -= g[3 * e + k];
      }
      if (!periodic) continue;
      const int64_t system = num_boxes == 1 ? 0 : systems[i];
      check_index(system, num_boxes, "system");
      for (int row = 0; row < 3; ++row)
        for (int k = 0; k < 3; ++k) to_box[9 * system + 3 * row + k] += n[3 * e + row] * g[3 * e + k];
    }
  };
  at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) add_part(part);
  });
}

Tensor edge_vectors_cpu(
    const Tensor& pos, const Tensor& edge_index, const Tensor& cell_offsets, const OptionalTensor& box,
    const Tensor& batch) {
  check_positions(kName, pos);
  check_batch(kName, batch, pos.size(0));
  check_edges(edge_index, cell_offsets, box.has_value());
  if (box) check_box_shape(kName, *box, pos);
  Tensor vector = at::empty({edge_index.size(1), 3}, pos.options());
  const Tensor offsets = box ? cell_offsets.to(at::kInt).contiguous() : cell_offsets;
  const OptionalTensor cells = box ? OptionalTensor(box->contiguous()) : OptionalTensor();
  AT_DISPATCH_FLOATING_TYPES(pos.scalar_type(), kName, [&] {
    forward_loop<scalar_t>(pos.contiguous(), edge_index.contiguous(), offsets, cells, batch.contiguous(), vector);
  });
  return vector;
}

// box_shape is empty without a box; the second result then has no elements.
std::tuple<Tensor, Tensor> edge_vectors_backward_cpu(
    const Tensor& grad, const Tensor& edge_index, const Tensor& cell_offsets, const Tensor& batch,
    at::IntArrayRef box_shape) {
  check_edges(edge_index, cell_offsets, !box_shape.empty());
  TORCH_CHECK_VALUE(
      grad.dim() == 2 && grad.size(0) == edge_index.size(1) && grad.size(1) == 3, kName, ": gradient has shape ",
      grad.sizes(), ", expected (", edge_index.size(1), ", 3)");
  const int64_t parts = num_parts(edge_index.size(1));
  Tensor grad_pos = at::zeros({parts, batch.size(0), 3}, grad.options());
  std::vector<int64_t> shape{parts};
  shape.insert(shape.end(), box_shape.begin(), box_shape.end());
  if (box_shape.empty()) shape.push_back(0);
  Tensor grad_box = at::zeros(shape, grad.options());
  const Tensor offsets = box_shape.empty() ? cell_offsets : cell_offsets.to(at::kInt).contiguous();
  AT_DISPATCH_FLOATING_TYPES(grad.scalar_type(), kName, [&] {
    transposed_loop<scalar_t>(
        grad.contiguous(), edge_index.contiguous(), offsets, batch.contiguous(), grad_pos, grad_box);
  });
  const auto sum_parts = [](const Tensor& x) { return x.size(0) == 1 ? x.squeeze(0) : x.sum(0); };
  return {sum_parts(grad_pos), sum_parts(grad_box)};
}

Tensor edge_vectors_meta(
    const Tensor& pos, const Tensor& edge_index, const Tensor&, const OptionalTensor&, const Tensor&) {
  return at::empty_symint({edge_index.sym_size(1), 3}, pos.options());
}

std::tuple<Tensor, Tensor> edge_vectors_backward_meta(
    const Tensor& grad, const Tensor&, const Tensor&, const Tensor& batch, c10::SymIntArrayRef box_shape) {
  Tensor grad_pos = at::empty_symint({batch.sym_size(0), 3}, grad.options());
  Tensor grad_box = box_shape.empty() ? at::empty({0}, grad.options()) : at::empty_symint(box_shape, grad.options());
  return {grad_pos, grad_box};
}

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

Tensor call_forward(
    const Tensor& pos, const Tensor& edge_index, const Tensor& cell_offsets, const OptionalTensor& box,
    const Tensor& batch) {
  static auto op = c10::Dispatcher::singleton()
                       .findSchemaOrThrow("dkmp_plugin::edge_vectors", "")
                       .typed<Tensor(
                           const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&, const Tensor&)>();
  return op.call(pos, edge_index, cell_offsets, box, batch);
}

std::tuple<Tensor, Tensor> call_backward(
    const Tensor& grad, const Tensor& edge_index, const Tensor& cell_offsets, const Tensor& batch,
    c10::SymIntArrayRef box_shape) {
  static auto op = c10::Dispatcher::singleton()
                       .findSchemaOrThrow("dkmp_plugin::edge_vectors_backward", "")
                       .typed<std::tuple<Tensor, Tensor>(
                           const Tensor&, const Tensor&, const Tensor&, const Tensor&, c10::SymIntArrayRef)>();
  return op.call(grad, edge_index, cell_offsets, batch, box_shape);
}

struct EdgeVectors : torch::autograd::Function<EdgeVectors> {
  static Tensor forward(
      AutogradContext* context, const Tensor& pos, const Tensor& edge_index, const Tensor& cell_offsets,
      const OptionalTensor& box, const Tensor& batch) {
    at::AutoDispatchBelowADInplaceOrView guard;
    context->save_for_backward({edge_index, cell_offsets, batch, box ? *box : Tensor()});
    return call_forward(pos, edge_index, cell_offsets, box, batch);
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const variable_list saved = context->get_saved_variables();
    const bool periodic = saved[3].defined();
    const c10::SymIntArrayRef shape = periodic ? saved[3].sym_sizes() : c10::SymIntArrayRef();
    auto [grad_pos, grad_box] = call_backward(grads[0], saved[0], saved[1], saved[2], shape);
    return {grad_pos, Tensor(), Tensor(), periodic ? grad_box : Tensor(), Tensor()};
  }
};

struct EdgeVectorsBackward : torch::autograd::Function<EdgeVectorsBackward> {
  static variable_list forward(
      AutogradContext* context, const Tensor& grad, const Tensor& edge_index, const Tensor& cell_offsets,
      const Tensor& batch, c10::SymIntArrayRef box_shape) {
    at::AutoDispatchBelowADInplaceOrView guard;
    context->save_for_backward({edge_index, cell_offsets, batch});
    context->saved_data["periodic"] = !box_shape.empty();
    auto [grad_pos, grad_box] = call_backward(grad, edge_index, cell_offsets, batch, box_shape);
    return {grad_pos, grad_box};
  }

  // The transpose of the transpose: the gradient of a linear map's backward is the map itself.
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const variable_list saved = context->get_saved_variables();
    const OptionalTensor box = context->saved_data["periodic"].toBool() ? OptionalTensor(grads[1]) : OptionalTensor();
    return {call_forward(grads[0], saved[0], saved[1], box, saved[2]), Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

Tensor edge_vectors_autograd(
    const Tensor& pos, const Tensor& edge_index, const Tensor& cell_offsets, const OptionalTensor& box,
    const Tensor& batch) {
  return EdgeVectors::apply(pos, edge_index, cell_offsets, box, batch);
}

std::tuple<Tensor, Tensor> edge_vectors_backward_autograd(
    const Tensor& grad, const Tensor& edge_index, const Tensor& cell_offsets, const Tensor& batch,
    c10::SymIntArrayRef box_shape) {
  auto result = EdgeVectorsBackward::apply(grad, edge_index, cell_offsets, batch, box_shape);
  return {result[0], result[1]};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(dkmp_plugin, library) {
  library.def(
      "edge_vectors(Tensor pos, Tensor edge_index, Tensor cell_offsets, Tensor? box, Tensor batch) -> Tensor");
  library.def(
      "edge_vectors_backward(Tensor grad, Tensor edge_index, Tensor cell_offsets, Tensor batch, SymInt[] box_shape)"
      " -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(dkmp_plugin, DKMP_CPU_KEY, library) {
  library.impl("edge_vectors", edge_vectors_cpu);
  library.impl(
      "edge_vectors_backward",
      [](const Tensor& grad, const Tensor& edge_index, const Tensor& cell_offsets, const Tensor& batch,
         c10::SymIntArrayRef box_shape) {
        return edge_vectors_backward_cpu(grad, edge_index, cell_offsets, batch, C10_AS_INTARRAYREF_SLOW(box_shape));
      });
}

TORCH_LIBRARY_IMPL(dkmp_plugin, Meta, library) {
  library.impl("edge_vectors", edge_vectors_meta);
  library.impl("edge_vectors_backward", edge_vectors_backward_meta);
}

TORCH_LIBRARY_IMPL(dkmp_plugin, Autograd, library) {
  library.impl("edge_vectors", edge_vectors_autograd);
  library.impl("edge_vectors_backward", edge_vectors_backward_autograd);
}

}  // namespace dkmp
