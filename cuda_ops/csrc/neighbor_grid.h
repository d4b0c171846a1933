// Cell list of one system: finds every (atom, periodic image) within a cutoff of a given atom.
//
// Cells divide the fractional coordinates, so any triclinic box works; a search that runs over the border of the
// box continues in the next periodic image, as often as the cutoff asks for. Open systems use their bounding box
// without images.
#pragma once

#include <c10/util/Exception.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "checks.h"

namespace dkmp {

// Periodic image of a neighbour, n in pos[j] + n @ box - pos[i]; 21 bits per component when packed.
struct CellOffset {
  int n[3];

  static constexpr int kLimit = 1 << 20;
  uint64_t packed() const {
    return (uint64_t(n[0] + kLimit) << 42) | (uint64_t(n[1] + kLimit) << 21) | uint64_t(n[2] + kLimit);
  }
  static CellOffset unpack(uint64_t key) {
    constexpr uint64_t mask = (uint64_t(1) << 21) - 1;
    return {{int(key >> 42) - kLimit, int((key >> 21) & mask) - kLimit, int(key & mask) - kLimit}};
  }
};

template <class Scalar>
struct Neighbor {
  int atom;  // index within the system
  Scalar distance, squared;
  uint64_t offset;  // packed CellOffset, which sorts like the offset itself
};

inline int64_t floor_divide(int64_t a, int64_t b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }

template <class Scalar>
class NeighborGrid {
 public:
  // pos: the system's atoms, (n, 3). box: 9 values, rows are lattice vectors, or nullptr for open boundaries.
  // Cells suit searches of about `typical_radius`; none may exceed `largest_radius`.
  NeighborGrid(
      const Scalar* pos, int64_t num_atoms, const Scalar* box, double typical_radius, double largest_radius)
      : pos_(pos), num_atoms_(num_atoms), box_(box) {
    set_cell(typical_radius);
    choose_divisions(typical_radius);
    sort_atoms(largest_radius);
  }

  // Volume of the box in cubic angstrom; infinite for open systems.
  double volume() const { return box_ ? volume_ : std::numeric_limits<double>::infinity(); }
  // False when a packed cell offset could overflow: positions absurdly many boxes away.
  bool offsets_fit() const { return offsets_fit_; }

  // Whether positions may be rounded by many times the box's width: searches would look at ever more images.
  bool is_coarse() const { return box_ && slack_ > kCoarsest * *std::min_element(height_.begin(), height_.end()); }

  // Periodic images that a search within the radius looks at, over those whose volume is in the sphere.
  double flatness(double radius) const {
    if (!box_) return 1.0;
    double images = 1.0;
    for (const double height : height_) images *= 2.0 * radius / height + 1.0;
    return images / (4.19 * radius * radius * radius / volume_ + 1.0);
  }

  // Calls found(Neighbor) for each neighbour of `atom` closer than `radius`, itself excluded.
  // `candidates` is scratch memory kept by the caller.
  template <class Found>
  void search(int64_t atom, double radius, std::vector<int>& candidates, Found&& found) const {
    // The candidate search may round differently from the exact test that follows, so it looks a little farther.
    const Range range{Scalar(radius), radius * (1.0 + 1e-6) + slack_};
    int64_t low[3], high[3];
    for (int k = 0; k < 3; ++k) cell_range(atom, k, range.reach, &low[k], &high[k]);
    for (int64_t cx = low[0]; cx <= high[0]; ++cx) {
      const double dx = slab_distance(atom, 0, cx);
      int64_t low_y = low[1], high_y = high[1];
      if (orthogonal_ && !narrow(atom, 1, range.reach, dx * dx, &low_y, &high_y)) continue;
      for (int64_t cy = low_y; cy <= high_y; ++cy) {
        const double dy = slab_distance(atom, 1, cy);
        int64_t low_z = low[2], high_z = high[2];
        if (orthogonal_ && !narrow(atom, 2, range.reach, dx * dx + dy * dy, &low_z, &high_z)) continue;
        search_column(atom, range, cx, cy, low_z, high_z, candidates, found);
      }
    }
  }

 private:
  struct Range {
    Scalar radius;  // exact limit
    double reach;   // limit of the candidate search
  };

  void set_cell(double typical_radius) {
    if (box_) {
      for (int k = 0; k < 9; ++k) cell_[k] = double(box_[k]);
    } else {
      double low[3], high[3];
      for (int k = 0; k < 3; ++k) low[k] = high[k] = num_atoms_ > 0 ? double(pos_[k]) : 0.0;
      for (int64_t i = 0; i < num_atoms_; ++i)
        for (int k = 0; k < 3; ++k) {
          low[k] = std::min(low[k], double(pos_[3 * i + k]));
          high[k] = std::max(high[k], double(pos_[3 * i + k]));
        }
      cell_.fill(0.0);
      for (int k = 0; k < 3; ++k) {
        origin_[k] = low[k];
        cell_[4 * k] = std::max((high[k] - low[k]) * (1.0 + 1e-6), 1e-3 * typical_radius);
      }
    }
    invert();
    orthogonal_ = true;
    for (int k = 0; k < 9; ++k) orthogonal_ = orthogonal_ && (k % 4 == 0 || cell_[k] == 0.0);
    for (int k = 0; k < 3; ++k)
      height_[k] = 1.0 / std::sqrt(inverse_[k] * inverse_[k] + inverse_[3 + k] * inverse_[3 + k] +
                                   inverse_[6 + k] * inverse_[6 + k]);
  }

  void invert() {
    const auto& a = cell_;
    const double det = a[0] * (a[4] * a[8] - a[5] * a[7]) - a[1] * (a[3] * a[8] - a[5] * a[6]) +
                       a[2] * (a[3] * a[7] - a[4] * a[6]);
    volume_ = std::abs(det);
    inverse_ = {(a[4] * a[8] - a[5] * a[7]) / det, (a[2] * a[7] - a[1] * a[8]) / det, (a[1] * a[5] - a[2] * a[4]) / det,
                (a[5] * a[6] - a[3] * a[8]) / det, (a[0] * a[8] - a[2] * a[6]) / det, (a[2] * a[3] - a[0] * a[5]) / det,
                (a[3] * a[7] - a[4] * a[6]) / det, (a[1] * a[6] - a[0] * a[7]) / det, (a[0] * a[4] - a[1] * a[3]) / det};
  }

  // Cells of about a third of the radius follow its sphere closely; larger where that would leave them empty.
  void choose_divisions(double radius) {
    const double atoms = double(std::max<int64_t>(num_atoms_, 1));
    double edge = std::max(radius / 3.0, std::min(radius, std::cbrt(2.0 * volume_ / atoms)));
    for (;; edge *= 1.3) {
      double cells = 1.0;
      for (int k = 0; k < 3; ++k) {
        divisions_[k] = int64_t(std::clamp(std::floor(height_[k] / edge), 1.0, 1e6));
        cells *= double(divisions_[k]);
      }
      if (cells <= 8.0 * atoms + 64.0) break;
    }
  }

  void sort_atoms(double largest_radius) {
    const int64_t cells = divisions_[0] * divisions_[1] * divisions_[2];
    std::vector<int> cell_of(num_atoms_);
    wrap_.assign(box_ ? 3 * num_atoms_ : 0, 0);
    fraction_.resize(3 * num_atoms_);
    start_.assign(cells + 1, 0);
    double largest = 0.0;
    int64_t farthest = 0;
    for (int64_t i = 0; i < num_atoms_; ++i) {
      int64_t index = 0;
      for (int k = 0; k < 3; ++k) {
        double f = 0.0;
        for (int m = 0; m < 3; ++m) f += (double(pos_[3 * i + m]) - origin_[m]) * inverse_[3 * m + k];
        largest = std::max(largest, std::abs(double(pos_[3 * i + k])));
        if (box_) {
          const double home = std::clamp(std::floor(f), -1e9, 1e9);
          wrap_[3 * i + k] = int(home);
          farthest = std::max<int64_t>(farthest, std::abs(int64_t(home)));
          f -= home;
        }
        fraction_[3 * i + k] = f;
        index = index * divisions_[k] + std::clamp<int64_t>(int64_t(f * double(divisions_[k])), 0, divisions_[k] - 1);
      }
      cell_of[i] = int(index);
      ++start_[index + 1];
    }
    for (int64_t c = 0; c < cells; ++c) start_[c + 1] += start_[c];
    set_slack(largest, farthest, largest_radius);

    std::vector<int> next(start_.begin(), start_.end() - 1);
    for (auto* axis : {&x_, &y_, &z_}) axis->resize(num_atoms_);
    atom_.resize(num_atoms_);
    for (int64_t i = 0; i < num_atoms_; ++i) {
      const int slot = next[cell_of[i]]++;
      atom_[slot] = int(i);
      x_[slot] = Scalar(home_position(i, 0));
      y_[slot] = Scalar(home_position(i, 1));
      z_[slot] = Scalar(home_position(i, 2));
    }
  }

  // Rounding errors of positions, of their wrapped copies and of lattice shifts.
  void set_slack(double largest, int64_t farthest, double radius) {
    double boxes = 0.0;
    for (double value : cell_) boxes = std::max(boxes, std::abs(value));
    double images = double(farthest) + 1.0;
    for (int k = 0; k < 3; ++k) images = std::max(images, double(farthest) + radius / height_[k] + 2.0);
    offsets_fit_ = !box_ || 2.0 * images < double(CellOffset::kLimit);
    const double extent = largest + radius + 3.0 * boxes * (box_ ? images : 1.0);
    slack_ = 32.0 * double(std::numeric_limits<Scalar>::epsilon()) * extent;
  }

  double home_position(int64_t i, int k) const {
    double position = 0.0;
    for (int m = 0; m < 3; ++m) position += fraction_[3 * i + m] * cell_[3 * m + k];
    return position;
  }

  void cell_range(int64_t atom, int k, double reach, int64_t* low, int64_t* high) const {
    const double f = fraction_[3 * atom + k], step = reach / height_[k], n = double(divisions_[k]);
    *low = int64_t(std::floor((f - step) * n - 1e-6));
    *high = int64_t(std::floor((f + step) * n + 1e-6));
    if (!box_) {
      *low = std::max<int64_t>(*low, 0);
      *high = std::min<int64_t>(*high, divisions_[k] - 1);
    }
  }

  // Smallest distance along axis k between the atom and any point of cell layer c.
  double slab_distance(int64_t atom, int k, int64_t c) const {
    const double f = fraction_[3 * atom + k] * double(divisions_[k]);
    const double layers = std::max({double(c) - f, f - double(c + 1), 0.0});
    return std::max(0.0, layers - 1e-6) * height_[k] / double(divisions_[k]);
  }

  bool narrow(int64_t atom, int k, double reach, double used, int64_t* low, int64_t* high) const {
    const double left = reach * reach - used;
    if (left <= 0.0) return false;
    cell_range(atom, k, std::sqrt(left), low, high);
    return true;
  }

  template <class Found>
  void search_column(
      int64_t atom, const Range& range, int64_t cx, int64_t cy, int64_t low_z, int64_t high_z,
      std::vector<int>& candidates, Found&& found) const {
    const int64_t nx = floor_divide(cx, divisions_[0]), ny = floor_divide(cy, divisions_[1]);
    const int64_t row =
        ((cx - nx * divisions_[0]) * divisions_[1] + (cy - ny * divisions_[1])) * divisions_[2];
    for (int64_t nz = floor_divide(low_z, divisions_[2]); nz <= floor_divide(high_z, divisions_[2]); ++nz) {
      const int64_t first = std::max<int64_t>(low_z - nz * divisions_[2], 0);
      const int64_t last = std::min<int64_t>(high_z - nz * divisions_[2], divisions_[2] - 1);
      const int begin = start_[row + first], end = start_[row + last + 1];
      if (begin == end) continue;
      const CellOffset image{{int(nx), int(ny), int(nz)}};
      const int count = near_candidates(atom, range.reach, image, begin, end, candidates);
      for (int c = 0; c < count; ++c) test_exactly(atom, range.radius, candidates[c], image, found);
    }
  }

  int near_candidates(
      int64_t atom, double reach, const CellOffset& image, int begin, int end,
      std::vector<int>& candidates) const {
    if (int(candidates.size()) < end - begin) candidates.resize(end - begin);
    Scalar center[3];
    for (int k = 0; k < 3; ++k) {
      double shift = 0.0;
      for (int m = 0; m < 3; ++m) shift += image.n[m] * cell_[3 * m + k];
      center[k] = Scalar(home_position(atom, k) - shift);
    }
    const Scalar limit = Scalar(reach * reach);
    const Scalar *x = x_.data(), *y = y_.data(), *z = z_.data();
    int* kept = candidates.data();
    int count = 0;
    for (int slot = begin; slot < end; ++slot) {
      const Scalar dx = x[slot] - center[0], dy = y[slot] - center[1], dz = z[slot] - center[2];
      kept[count] = slot;
      count += dx * dx + dy * dy + dz * dz <= limit;
    }
    return count;
  }

  // (pos[j] - pos[i]) + n @ box is exactly the negative of its reverse, so both directions get the same distance.
  template <class Found>
  void test_exactly(int64_t i, Scalar radius, int slot, const CellOffset& image, Found&& found) const {
    const int64_t j = atom_[slot];
    CellOffset offset{{0, 0, 0}};
    Scalar vector[3];
    for (int k = 0; k < 3; ++k) vector[k] = pos_[3 * j + k] - pos_[3 * i + k];
    if (box_) {
      for (int k = 0; k < 3; ++k) offset.n[k] = image.n[k] - wrap_[3 * j + k] + wrap_[3 * i + k];
      for (int k = 0; k < 3; ++k) {
        const Scalar shift = offset.n[0] * box_[k] + offset.n[1] * box_[3 + k] + offset.n[2] * box_[6 + k];
        vector[k] = vector[k] + shift;
      }
    }
    const Scalar squared = vector[0] * vector[0] + vector[1] * vector[1] + vector[2] * vector[2];
    const Scalar distance = std::sqrt(squared);
    const bool itself = i == j && offset.n[0] == 0 && offset.n[1] == 0 && offset.n[2] == 0;
    if (distance < radius && !itself) found(Neighbor<Scalar>{int(j), distance, squared, offset.packed()});
  }

  const Scalar* pos_;
  int64_t num_atoms_;
  const Scalar* box_;
  double slack_ = 0.0;
  double volume_ = 0.0;
  bool orthogonal_ = false;
  bool offsets_fit_ = true;
  std::array<double, 9> cell_{}, inverse_{};
  std::array<double, 3> origin_{}, height_{};
  std::array<int64_t, 3> divisions_{};
  std::vector<int> start_, atom_, wrap_;
  std::vector<double> fraction_;
  std::vector<Scalar> x_, y_, z_;
};

// Refuses boxes that would be searched for minutes.
template <class Scalar>
void check_flatness(const char* op, const NeighborGrid<Scalar>& grid, double radius) {
  const double flatness = grid.flatness(radius);
  TORCH_CHECK_VALUE(
      flatness < kFlattest, op, ": box is nearly flat: within ", radius, " angstrom of an atom there are ", flatness,
      " times as many of its images as it has room for; give shorter lattice vectors of the same lattice");
  TORCH_CHECK_VALUE(
      !grid.is_coarse(), op,
      ": positions are so far from the box that rounding hides the images of atoms; wrap them into the box");
}

}  // namespace dkmp
