// An order to visit atoms in, such that atoms that share neighbours follow each other, and what each visit reads anew.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "hilbert_curve.h"
#include "neighbor_lists.h"

namespace dkmp {

// How many different atoms the lists of some atoms name.
template <class Index>
int64_t count_listed(std::vector<Index> entries) {
  std::sort(entries.begin(), entries.end());
  return std::unique(entries.begin(), entries.end()) - entries.begin();
}

// Whether the file has atoms in an order of space already: then a run of atoms fills a compact region, and what it lists
// is that region and a rim as wide as the lists reach. That is half as far as lists of lists, which fill a sphere.
// Judged by a sample, with lengths in units of an atom's own.
template <class Index>
bool follows_space(const Index* neighbors, int64_t num_atoms, int64_t width) {
  constexpr int64_t kSampledRuns = 8, kRun = 256, kListsOfLists = 32;
  // Runs along a Z-order curve list 1.0 to 1.5 times as much, chains of a protein 1.5 to 2.2 times.
  constexpr double kCompact = 1.5;
  double by_runs = 0.0, by_lists_of_lists = 0.0;
  for (int64_t sample = 0; sample < kSampledRuns; ++sample) {
    const int64_t begin = sample * std::max<int64_t>(num_atoms - kRun, 0) / kSampledRuns;
    const int64_t end = std::min(num_atoms, begin + kRun);
    by_runs += double(count_listed(std::vector<Index>(neighbors + begin * width, neighbors + end * width)));
    std::vector<Index> further;
    const int64_t lists = std::min(width, kListsOfLists);
    for (int64_t k = 0; k < lists; ++k) {
      const int64_t other = neighbors[(begin + end) / 2 * width + k * width / lists];
      if (other >= 0) further.insert(further.end(), neighbors + other * width, neighbors + (other + 1) * width);
    }
    by_lists_of_lists += double(count_listed(std::move(further)));
  }
  const double reach = std::cbrt(by_lists_of_lists / kSampledRuns) / 2.0;
  const double edge = std::cbrt(double(std::min(num_atoms, kRun))) + reach;
  return by_runs / kSampledRuns <= kCompact * edge * edge * edge;
}

// Places of atoms in space, as far as their lists tell: how many steps along lists it is to either end of the system, for
// three pairs of ends (as in FastMap, Faloutsos and Lin 1995). Looks at a sample of each list.
template <class Index>
class ListSpace {
 public:
  using Place = std::array<float, 3>;

  ListSpace(const Index* neighbors_, int64_t num_atoms_, int64_t width_)
      : neighbors(neighbors_), num_atoms(num_atoms_), width(width_), places(num_atoms_) {
    const std::vector<int32_t> from_any = steps_from(0);
    std::vector<int32_t> to_ends = from_any;  // steps to the nearest end so far
    for (int axis = 0; axis < 3; ++axis) {
      const std::vector<int32_t> from_one =
          steps_from(farthest([&](int64_t atom) { return float(to_ends[atom]); }));
      // The other end is far away, and not merely along the axes before.
      const std::vector<int32_t> from_other = steps_from(farthest([&](int64_t atom) {
        float distance = float(from_one[atom]);
        for (int before = 0; before < axis; ++before) distance -= std::abs(places[atom][before]);
        return distance;
      }));
      for (int64_t atom = 0; atom < num_atoms; ++atom) {
        places[atom][axis] = float(from_one[atom] - from_other[atom]);
        const int32_t nearer = std::min(from_one[atom], from_other[atom]);
        to_ends[atom] = axis == 0 ? nearer : std::min(to_ends[atom], nearer);
      }
    }
    // Steps are whole numbers; their means over the lists are not.
    constexpr int kTimes = 2;
    for (int time = 0; time < kTimes; ++time) smooth();
  }

  // All atoms along a Hilbert curve through cells of about one atom. Along a Z-order curve an eighth more of the rows
  // that a visit reads have not been read by the two visits before it.
  std::vector<int32_t> order() const {
    constexpr float kAtomsPerCell = 1.0f;
    constexpr int kBits = 10;
    Place lowest = places[0], highest = places[0];
    for (const Place& place : places) {
      for (int axis = 0; axis < 3; ++axis) {
        lowest[axis] = std::min(lowest[axis], place[axis]);
        highest[axis] = std::max(highest[axis], place[axis]);
      }
    }
    float volume = kAtomsPerCell / float(num_atoms);
    // Where all atoms have the same coordinate there is one layer of cells.
    for (int axis = 0; axis < 3; ++axis) volume *= std::max(highest[axis] - lowest[axis], 1.0f);
    const float edge = std::cbrt(volume);
    std::vector<std::pair<uint32_t, int32_t>> keys(num_atoms);
    for (int64_t atom = 0; atom < num_atoms; ++atom) {
      std::array<uint32_t, 3> cell;
      for (int axis = 0; axis < 3; ++axis) {
        const float last = float((1 << kBits) - 1);
        cell[axis] = uint32_t(std::min((places[atom][axis] - lowest[axis]) / edge, last));
      }
      keys[atom] = {hilbert_place(cell, kBits), int32_t(atom)};
    }
    std::sort(keys.begin(), keys.end());
    std::vector<int32_t> order(num_atoms);
    for (int64_t at = 0; at < num_atoms; ++at) order[at] = keys[at].second;
    return order;
  }

 private:
  const Index* neighbors;
  int64_t num_atoms, width;
  std::vector<Place> places;

  // Calls visit(neighbour) for about `sampled` entries of an atom's list.
  template <class Visit>
  void listed(int64_t atom, int64_t sampled, const Visit& visit) const {
    const Index* const list = neighbors + atom * width;
    sampled = std::min(width, sampled);
    for (int64_t k = 0; k < sampled; ++k)
      if (const int64_t other = list[k * width / sampled]; other >= 0) visit(other);
  }

  // Atoms that no list leads to are reached from nowhere: they count as beginnings, too.
  std::vector<int32_t> steps_from(int64_t first) const {
    constexpr int64_t kSampled = 8;
    std::vector<int32_t> steps(num_atoms, -1), reached;
    reached.reserve(num_atoms);
    const auto reach = [&](int64_t atom, int32_t number) {
      if (steps[atom] >= 0) return;
      steps[atom] = number;
      reached.push_back(int32_t(atom));
    };
    reach(first, 0);
    int64_t unreached = 0;
    for (int64_t at = 0; at < num_atoms; ++at) {
      while (at == int64_t(reached.size())) reach(unreached++, 0);
      listed(reached[at], kSampled, [&](int64_t other) { reach(other, steps[reached[at]] + 1); });
    }
    return steps;
  }

  template <class Distance>
  int64_t farthest(const Distance& distance) const {
    int64_t best = 0;
    for (int64_t atom = 1; atom < num_atoms; ++atom)
      if (distance(atom) > distance(best)) best = atom;
    return best;
  }

  void smooth() {
    constexpr int64_t kSampled = 16;
    std::vector<Place> means(num_atoms);
    for (int64_t atom = 0; atom < num_atoms; ++atom) {
      Place sum = places[atom];
      float count = 1.0f;
      listed(atom, kSampled, [&](int64_t other) {
        for (int axis = 0; axis < 3; ++axis) sum[axis] += places[other][axis];
        count += 1.0f;
      });
      for (int axis = 0; axis < 3; ++axis) means[atom][axis] = sum[axis] / count;
    }
    places.swap(means);
  }
};

struct Visits {
  std::vector<int32_t> order;  // (N,) the atom visited at each place; empty for 0, 1, 2, ...
  // Visit p reads rows anew[start[p]..start[p + 1]] that recent visits have not read.
  std::vector<uint32_t> start;
  std::vector<int32_t> anew;
};

template <class Index>
Visits plan_visits(const Index* neighbors, int64_t num_atoms, int64_t width) {
  // Visits whose rows a second-level cache holds.
  constexpr int32_t kHeld = 256;
  Visits visits;
  if (!follows_space(neighbors, num_atoms, width)) visits.order = ListSpace<Index>(neighbors, num_atoms, width).order();
  std::vector<int32_t> held_until(num_atoms, -1);
  visits.start.push_back(0);
  for (int64_t at = 0; at < num_atoms; ++at) {
    const int64_t atom = visits.order.empty() ? at : visits.order[at];
    for (int64_t k = 0; k < width; ++k) {
      const int64_t other = neighbors[atom * width + k];
      if (other < 0) continue;
      if (held_until[other] < at) visits.anew.push_back(int32_t(other));
      held_until[other] = int32_t(at) + kHeld;
    }
    visits.start.push_back(uint32_t(visits.anew.size()));
  }
  return visits;
}

// The same, remembered for the lists of recent calls: models attend over the same few lists again and again, and one
// thread plans while the others wait. Lists are told apart by some of their entries only, which is safe: results do not
// depend on the order, a wrong one costs time. Entries of new lists are checked.
template <class Index>
std::shared_ptr<const Visits> recent_visits(
    const char* op, const Index* neighbors, int64_t num_atoms, int64_t width) {
  struct Entry {
    int64_t num_atoms = -1, width = -1;
    uint64_t sample = 0;
    std::shared_ptr<const Visits> visits;
  };
  constexpr int64_t kSampled = 512;
  static std::mutex mutex;
  static std::array<Entry, 16> entries;
  static size_t oldest = 0;

  const int64_t total = num_atoms * width;
  uint64_t sample = 14695981039346656037u;  // FNV-1a
  for (int64_t k = 0; k < kSampled; ++k) sample = (sample ^ uint64_t(neighbors[k * total / kSampled])) * 1099511628211u;
  {
    const std::lock_guard<std::mutex> guard(mutex);
    for (const Entry& entry : entries)
      if (entry.num_atoms == num_atoms && entry.width == width && entry.sample == sample) return entry.visits;
  }
  check_entries(op, neighbors, num_atoms, width);
  auto visits = std::make_shared<const Visits>(plan_visits(neighbors, num_atoms, width));
  const std::lock_guard<std::mutex> guard(mutex);
  entries[oldest] = {num_atoms, width, sample, visits};
  oldest = (oldest + 1) % entries.size();
  return visits;
}

}  // namespace dkmp
