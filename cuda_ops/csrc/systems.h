// The systems of a batch, and checks of positions and boxes that need their values.
#pragma once

#include <ATen/core/Tensor.h>

#include <cmath>
#include <optional>
#include <vector>

#include "checks.h"

namespace dkmp {

// A run of atoms with the same batch index.
struct System {
  int64_t first_atom, num_atoms, index;
};

inline std::vector<System> split_systems(
    const char* op, const at::Tensor& batch_indices, const std::optional<at::Tensor>& box) {
  const at::Tensor contiguous = batch_indices.contiguous();
  const int64_t* batch = contiguous.const_data_ptr<int64_t>();
  const int64_t num_atoms = contiguous.numel();
  std::vector<System> systems;
  for (int64_t i = 0; i < num_atoms; ++i) {
    TORCH_CHECK_VALUE(
        batch[i] >= 0 && (i == 0 || batch[i] >= batch[i - 1]), op,
        ": batch must be non-negative and sorted, but atom ", i, " has system ", batch[i],
        "; order the atoms by system");
    if (i == 0 || batch[i] != batch[i - 1]) systems.push_back({i, 0, batch[i]});
    ++systems.back().num_atoms;
  }
  if (box && box->numel() != 9 && !systems.empty())
    TORCH_CHECK_VALUE(
        box->size(0) > systems.back().index, op, ": box holds ", box->size(0), " boxes but batch names system ",
        systems.back().index, "; give one box per system or a single (3, 3) box");
  return systems;
}

template <class Scalar>
void check_values(const char* op, const at::Tensor& pos, const std::optional<at::Tensor>& box) {
  const Scalar* p = pos.const_data_ptr<Scalar>();
  for (int64_t i = 0; i < pos.numel(); ++i)
    TORCH_CHECK_VALUE(
        std::abs(double(p[i])) <= kFarthest, op, ": pos holds NaN or infinite values, or values beyond ", kFarthest,
        " angstrom (atom ", i / 3, "); check the structure or the time step");
  if (!box) return;
  const Scalar* boxes = box->const_data_ptr<Scalar>();
  for (int64_t b = 0; b < box->numel() / 9; ++b) {
    double a[9], lengths = 1.0;
    for (int k = 0; k < 9; ++k) a[k] = double(boxes[9 * b + k]);
    for (int k = 0; k < 9; ++k) TORCH_CHECK_VALUE(std::isfinite(a[k]), op, ": box holds NaN or infinite values");
    for (int k = 0; k < 9; k += 3) lengths *= std::sqrt(a[k] * a[k] + a[k + 1] * a[k + 1] + a[k + 2] * a[k + 2]);
    const double volume = std::abs(
        a[0] * (a[4] * a[8] - a[5] * a[7]) - a[1] * (a[3] * a[8] - a[5] * a[6]) + a[2] * (a[3] * a[7] - a[4] * a[6]));
    TORCH_CHECK_VALUE(
        volume > 1e-6 * lengths, op,
        ": box is singular (its rows, the lattice vectors, span no volume); pass box=None for a system without "
        "periodic boundaries");
  }
}

}  // namespace dkmp
