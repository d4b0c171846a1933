// Checks of what Python hands to the ops; messages name what was given, what was expected and the remedy.
#pragma once

#include <ATen/core/Tensor.h>

namespace dkmp {

// Positions lie within so many angstrom: their squared distances are numbers in float32 too.
constexpr double kFarthest = 1e16;

// Boxes are refused in which a search looks at so many times more images of an atom than there is room for: it would
// take minutes. Compact ones look at 2 to 50 times what is needed.
constexpr double kFlattest = 1e4;
// Largest rounding of positions over the width of the box.
constexpr double kCoarsest = 16.0;
// What is within reach of a larger cutoff is within reach of this one.
constexpr double kLongestReach = 4.0 * kFarthest;

// What to do about more neighbours than max_neighbors.
constexpr const char* kTooManyNeighbors =
    " or reduce the cutoff (max_num_neighbors and cutoff_upper of the training's configuration; in a simulation, the "
    "box is too small or atoms are too close)";

inline void check_positions(const char* op, const at::Tensor& pos) {
  TORCH_CHECK_VALUE(pos.dim() == 2 && pos.size(1) == 3, op, ": pos has shape ", pos.sizes(), ", expected (N, 3)");
  TORCH_CHECK_VALUE(
      pos.scalar_type() == at::kFloat || pos.scalar_type() == at::kDouble, op, ": pos is ", pos.scalar_type(),
      ", expected float32 or float64; convert it with pos.float()");
}

inline void check_batch(const char* op, const at::Tensor& batch, int64_t num_atoms) {
  TORCH_CHECK_VALUE(
      batch.dim() == 1 && batch.size(0) == num_atoms, op, ": batch has shape ", batch.sizes(),
      ", expected one system index per atom, (", num_atoms, ",)");
  TORCH_CHECK_VALUE(
      batch.scalar_type() == at::kLong, op, ": batch is ", batch.scalar_type(),
      ", expected int64; convert it with batch.long()");
}

inline void check_box_shape(const char* op, const at::Tensor& box, const at::Tensor& pos) {
  TORCH_CHECK_VALUE(
      (box.dim() == 2 || box.dim() == 3) && box.size(-1) == 3 && box.size(-2) == 3, op, ": box has shape ",
      box.sizes(), ", expected (3, 3) or (B, 3, 3)");
  TORCH_CHECK_VALUE(
      box.scalar_type() == pos.scalar_type(), op, ": box is ", box.scalar_type(), " and pos is ", pos.scalar_type(),
      "; convert one with .to(pos.dtype)");
}

inline void check_edge_index(const char* op, const at::Tensor& edge_index) {
  TORCH_CHECK_VALUE(
      edge_index.dim() == 2 && edge_index.size(0) == 2 && edge_index.scalar_type() == at::kLong, op,
      ": edge_index has shape ", edge_index.sizes(), " and dtype ", edge_index.scalar_type(),
      ", expected (2, E) int64");
}

}  // namespace dkmp
