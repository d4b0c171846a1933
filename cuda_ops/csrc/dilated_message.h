// The arguments of dilated_message's ops, and what their CPU and CUDA implementations both do with them.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/constant_pad_nd.h>

#include <cmath>

#include "../kernels/spline_plan.cuh"
#include "checks.h"

namespace dkmp {
namespace message {

using at::Tensor;
using Results = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
constexpr const char* kName = "dilated_message";
constexpr int64_t kHarmonics = 8;

#define DKMP_INPUTS                                                                                              \
  const Tensor &edge_vector, const Tensor &edge_index, const Tensor &ptr, int64_t shell, const Tensor &query,    \
      const Tensor &key, const Tensor &value, const Tensor &vector, const Tensor &table, int64_t num_heads,      \
      double lower, double upper, double overlap, double cutoff, int64_t degree
#define DKMP_INPUT_NAMES \
  edge_vector, edge_index, ptr, shell, query, key, value, vector, table, num_heads, lower, upper, overlap, cutoff, degree

// The six differentiable inputs, or their gradients, or their directions.
struct Features {
  Tensor edge_vector, query, key, value, vector, table;
};

struct Shell {
  int64_t index, num_heads;
  double lower, upper, overlap, cutoff;
  int64_t degree;
};

inline void check_features(const Features& x, const Tensor& edge_index, const Tensor& ptr, const Shell& shell) {
  check_edge_index(kName, edge_index);
  const int64_t num_edges = edge_index.size(1);
  TORCH_CHECK_VALUE(
      x.edge_vector.dim() == 2 && x.edge_vector.size(0) == num_edges && x.edge_vector.size(1) == 3, kName,
      ": edge_vector has shape ", x.edge_vector.sizes(), ", expected (", num_edges, ", 3)");
  TORCH_CHECK_VALUE(
      ptr.dim() == 1 && ptr.scalar_type() == at::kLong && shell.index >= 0 && shell.index + 1 < ptr.size(0), kName,
      ": shell ", shell.index, " is not one of the shells of ptr, which has shape ", ptr.sizes(),
      " (expected int64, one more than there are shells)");
  TORCH_CHECK_VALUE(
      x.value.dim() == 2 && x.value.size(1) % 3 == 0 && x.value.size(1) > 0, kName, ": value has shape ",
      x.value.sizes(), ", expected (N, 3 d)");
  const int64_t num_atoms = x.value.size(0), width = x.value.size(1) / 3;
  TORCH_CHECK_VALUE(
      shell.num_heads >= 1 && width % shell.num_heads == 0, kName, ": width ", width,
      " is not a multiple of num_heads = ", shell.num_heads);
  TORCH_CHECK_VALUE(
      shell.degree == 3 || shell.degree == 5, kName, ": degree is ", shell.degree, ", expected 3 or 5");
  TORCH_CHECK_VALUE(
      x.table.dim() == 2 && x.table.size(1) == 4 * width && x.table.size(0) > shell.degree, kName,
      ": table has shape ", x.table.sizes(), ", expected (n >= ", shell.degree + 1, ", ", 4 * width, ")");
  TORCH_CHECK_VALUE(
      (x.query.numel() == 0) == (x.key.numel() == 0), kName, ": give both query and key, or leave both empty");
  for (const Tensor* given : {&x.query, &x.key})
    TORCH_CHECK_VALUE(
        given->numel() == 0 || given->sizes() == at::IntArrayRef({num_atoms, width}), kName,
        ": query or key has shape ", given->sizes(), ", expected (", num_atoms, ", ", width,
        ") or an empty tensor for no attention");
  TORCH_CHECK_VALUE(
      x.vector.numel() == 0 || x.vector.sizes() == at::IntArrayRef({num_atoms, kHarmonics, width}), kName,
      ": vector has shape ", x.vector.sizes(), ", expected (", num_atoms, ", 8, ", width, ") or an empty tensor");
  for (const Tensor* given : {&x.edge_vector, &x.query, &x.key, &x.value, &x.vector, &x.table})
    TORCH_CHECK_VALUE(
        given->scalar_type() == x.value.scalar_type(), kName, ": tensors are ", given->scalar_type(), " and ",
        x.value.scalar_type(), "; all must have the same floating dtype");
  for (const Tensor* given : {&x.edge_vector, &edge_index, &ptr, &x.query, &x.key, &x.vector, &x.table})
    TORCH_CHECK_VALUE(
        given->device() == x.value.device(), kName, ": tensors are on ", given->device(), " and ", x.value.device(),
        "; move all to one device");
  TORCH_CHECK_VALUE(
      std::isfinite(shell.cutoff) && shell.cutoff > 0 && shell.overlap >= 0 && shell.lower < shell.upper &&
          shell.lower < shell.cutoff && shell.upper > 0,
      kName, ": lower ", shell.lower, ", upper ", shell.upper, ", overlap ", shell.overlap, " and cutoff ",
      shell.cutoff, " do not describe a shell (need lower < upper, lower < cutoff, overlap >= 0)");
}

// Rows of zeros at the end of a table, as many as splines of a lower degree than the kernels' own lack; and back.
inline Tensor pad_rows(const Tensor& table, int64_t degree) {
  const int64_t missing = kSplineTaps - 1 - degree;
  return table.defined() && missing > 0 ? at::constant_pad_nd(table, {0, 0, 0, missing}) : table;
}
inline Tensor trim_rows(const Tensor& table, int64_t degree) {
  return table.narrow(0, 0, table.size(0) - (kSplineTaps - 1 - degree));
}

// Pads every group of `width` channels, a head or all of them, with zero channels to what the kernels can take; and
// back. Absent tensors stay as they are.
inline Tensor pad_channels(const Tensor& x, int64_t width, int64_t padded) {
  if (!x.defined() || width == padded || x.size(-1) % width != 0) return x;
  std::vector<int64_t> shape = x.sizes().vec(), split = shape;
  split.back() /= width;
  shape.back() = split.back() * padded;
  split.push_back(width);
  return at::constant_pad_nd(x.reshape(split), {0, padded - width}).reshape(shape);
}

inline Tensor trim_channels(const Tensor& x, int64_t width, int64_t padded) {
  if (width == padded || x.size(-1) % padded != 0) return x;
  std::vector<int64_t> shape = x.sizes().vec(), split = shape;
  split.back() /= padded;
  shape.back() = split.back() * width;
  split.push_back(padded);
  // One group alone would stay a view with gaps, where the ops promise results without (their Meta kernels too).
  return x.reshape(split).narrow(-1, 0, width).reshape(shape).contiguous();
}

// Directions of (edge_vector, query, key, value, vector, table); a table without directions is empty.
inline Features unpack_directions(at::TensorList directions, const Features& x) {
  TORCH_CHECK_VALUE(directions.size() == 6, kName, ": ", directions.size(), " directions given, expected 6");
  Features p{directions[0], directions[1], directions[2], directions[3], directions[4], directions[5]};
  if (p.table.numel() == 0) p.table = Tensor();
  const std::pair<const Tensor*, const Tensor*> pairs[] = {{&p.edge_vector, &x.edge_vector}, {&p.query, &x.query},
                                                           {&p.key, &x.key},                 {&p.value, &x.value},
                                                           {&p.vector, &x.vector},           {&p.table, &x.table}};
  for (const auto& [direction, input] : pairs)
    TORCH_CHECK_VALUE(
        !direction->defined() ||
            (direction->sizes() == input->sizes() && direction->scalar_type() == input->scalar_type()),
        kName, ": a direction differs in shape or dtype from its input of shape ", input->sizes());
  return p;
}

}  // namespace message
}  // namespace dkmp
