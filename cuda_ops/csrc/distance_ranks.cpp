// dkmp_plugin::distance_ranks: the M nearest atoms of each atom in ascending distance, ties to the lower index.
//
// A search of a radius that holds enough atoms is exact: whatever lies outside is farther. The radius that the
// previous atom needed is the first guess for the next one, since neighbours in a file are neighbours in space.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "checks.h"
#include "keys.h"
#include "neighbor_grid.h"
#include "systems.h"

namespace dkmp {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
constexpr const char* kName = "distance_ranks";
constexpr int64_t kAtomsPerTask = 64;

template <class Scalar>
struct Ranked {
  Scalar squared;
  int atom;
  bool operator<(const Ranked& other) const {
    return squared != other.squared ? squared < other.squared : atom < other.atom;
  }
};

// Radius that certainly reaches the nearest image of every other atom.
template <class Scalar>
double whole_system(const Scalar* pos, const System& system, const Scalar* box) {
  double radius = 0.0;
  if (box) {
    for (int row = 0; row < 3; ++row) {
      double squared = 0.0;
      for (int k = 0; k < 3; ++k) squared += double(box[3 * row + k]) * double(box[3 * row + k]);
      radius += 0.5 * std::sqrt(squared);
    }
  } else {
    double squared = 0.0;
    for (int k = 0; k < 3; ++k) {
      double low = pos[k], high = pos[k];
      for (int64_t i = 1; i < system.num_atoms; ++i) {
        low = std::min(low, double(pos[3 * i + k]));
        high = std::max(high, double(pos[3 * i + k]));
      }
      squared += (high - low) * (high - low);
    }
    radius = std::sqrt(squared);
  }
  return radius * (1.0 + 1e-4) + 1e-3;
}

// Radius of a sphere that holds `count` atoms at the system's mean density.
double typical_radius(int64_t count, int64_t num_atoms, double whole) {
  const double volume = whole * whole * whole / 4.0;
  return std::min(whole, std::cbrt(double(count + 1) / double(num_atoms) * volume / 4.19));
}

// Ranks of atoms of one system; keeps scratch memory and the last radius between atoms.
template <class Scalar>
class RankSearch {
 public:
  RankSearch(const NeighborGrid<Scalar>& grid, int64_t num_atoms, double first_radius, double whole)
      : grid_(grid), radius_(first_radius), whole_(whole), slot_(num_atoms, -1) {}

  // Writes `count` ranks of `atom` (fewer than there are atoms), as indices of the batch.
  void rank(int64_t atom, int64_t count, int64_t first_atom, int64_t* ranks) {
    double radius = std::min(radius_, whole_);
    int64_t size;
    while ((size = find(atom, radius)) < count && radius < whole_) radius = std::min(1.3 * radius, whole_);
    TORCH_CHECK_VALUE(
        size >= count, kName, ": positions are so far from the box that rounding hides the images of atoms; wrap them "
        "into the box");
    std::nth_element(found_.begin(), found_.begin() + (count - 1), found_.end());
    std::sort(found_.begin(), found_.begin() + count);
    for (int64_t k = 0; k < count; ++k) ranks[k] = first_atom + found_[k].atom;
    radius_ = 1.1 * std::sqrt(double(found_[count - 1].squared)) + 1e-3;
  }

 private:
  // Each atom once, at its nearest image.
  int64_t find(int64_t atom, double radius) {
    found_.clear();
    grid_.search(atom, radius, candidates_, [&](const Neighbor<Scalar>& neighbor) {
      if (neighbor.atom == atom) return;
      int& slot = slot_[neighbor.atom];
      if (slot < 0) {
        slot = int(found_.size());
        found_.push_back({neighbor.squared, neighbor.atom});
      } else {
        found_[slot].squared = std::min(found_[slot].squared, neighbor.squared);
      }
    });
    for (const Ranked<Scalar>& ranked : found_) slot_[ranked.atom] = -1;
    return int64_t(found_.size());
  }

  const NeighborGrid<Scalar>& grid_;
  double radius_, whole_;
  std::vector<int> slot_, candidates_;
  std::vector<Ranked<Scalar>> found_;
};

template <class Scalar>
void rank_system(
    const Scalar* all, const System& system, const Scalar* box, int64_t num_neighbors, int64_t* ranks) {
  const int64_t count = std::min(num_neighbors, system.num_atoms - 1);
  if (count < 1) return;
  const Scalar* pos = all + 3 * system.first_atom;
  const double whole = whole_system(pos, system, box);
  const double radius = typical_radius(count, system.num_atoms, whole);
  const NeighborGrid<Scalar> grid(pos, system.num_atoms, box, radius, whole);
  TORCH_CHECK_VALUE(
      grid.offsets_fit(), kName, ": system ", system.index,
      " has atoms more than 500,000 periodic boxes away; wrap the positions into the box");
  check_flatness(kName, grid, radius);
  at::parallel_for(0, system.num_atoms, kAtomsPerTask, [&](int64_t begin, int64_t end) {
    RankSearch<Scalar> search(grid, system.num_atoms, radius, whole);
    for (int64_t i = begin; i < end; ++i)
      search.rank(i, count, system.first_atom, ranks + (system.first_atom + i) * num_neighbors);
  });
}

Tensor distance_ranks_cpu(
    const Tensor& pos, int64_t num_neighbors, const OptionalTensor& batch, const OptionalTensor& box) {
  check_positions(kName, pos);
  TORCH_CHECK_VALUE(
      num_neighbors >= 1, kName, ": num_neighbors is ", num_neighbors, ", expected at least 1");
  TORCH_CHECK_VALUE(pos.size(0) < (int64_t(1) << 31), kName, ": more than 2^31 atoms");
  const Tensor indices = batch ? *batch : at::zeros({pos.size(0)}, at::kLong);
  check_batch(kName, indices, pos.size(0));
  OptionalTensor cells;
  if (box) {
    check_box_shape(kName, *box, pos);
    cells = box->contiguous();
  }
  const std::vector<System> systems = split_systems(kName, indices, box);
  const Tensor positions = pos.contiguous();
  Tensor ranks = at::full({pos.size(0), num_neighbors}, -1, at::kLong);
  AT_DISPATCH_FLOATING_TYPES(pos.scalar_type(), kName, [&] {
    check_values<scalar_t>(kName, positions, cells);
    for (const System& system : systems) {
      const int64_t which = cells && cells->numel() != 9 ? system.index : 0;
      const scalar_t* cell = cells ? cells->const_data_ptr<scalar_t>() + 9 * which : nullptr;
      rank_system<scalar_t>(
          positions.const_data_ptr<scalar_t>(), system, cell, num_neighbors, ranks.data_ptr<int64_t>());
    }
  });
  return ranks;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(dkmp_plugin, library) {
  library.def("distance_ranks(Tensor pos, SymInt num_neighbors, Tensor? batch, Tensor? box) -> Tensor");
}

TORCH_LIBRARY_IMPL(dkmp_plugin, DKMP_CPU_KEY, library) {
  library.impl(
      "distance_ranks",
      [](const Tensor& pos, c10::SymInt num_neighbors, const OptionalTensor& batch, const OptionalTensor& box) {
        return distance_ranks_cpu(pos, num_neighbors.expect_int(), batch, box);
      });
}

TORCH_LIBRARY_IMPL(dkmp_plugin, Meta, library) {
  library.impl(
      "distance_ranks",
      [](const Tensor& pos, c10::SymInt num_neighbors, const OptionalTensor&, const OptionalTensor&) {
        return at::empty_symint({pos.sym_size(0), num_neighbors}, pos.options().dtype(at::kLong));
      });
}

}  // namespace dkmp
