// An order to visit atoms in, such that atoms that share neighbours follow each other, and what each visit reads anew.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "neighbor_lists.h"

namespace dkmp {

// Whether the file has atoms in an order of space already: what a run of atoms reads then lies in few other runs.
// Judged by a sample.
template <class Index>
bool follows_space(const Index* neighbors, int64_t num_atoms, int64_t width) {
  constexpr int64_t kSampledRuns = 32, kRun = 64, kReadPerRun = 8;
  std::vector<Index> rows;
  int64_t num_rows = 0, num_runs = 0;
  for (int64_t sample = 0; sample < kSampledRuns; ++sample) {
    const int64_t begin = sample * std::max<int64_t>(num_atoms - kRun, 0) / kSampledRuns;
    rows.assign(neighbors + begin * width, neighbors + std::min(num_atoms, begin + kRun) * width);
    std::sort(rows.begin(), rows.end());
    rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
    num_rows += int64_t(rows.size());
    for (size_t at = 0; at < rows.size(); ++at) num_runs += at == 0 || rows[at] / kRun != rows[at - 1] / kRun;
  }
  return kReadPerRun * num_runs < num_rows;
}

// Next is always an atom with the most neighbours in common with those visited last: the rows that it reads are still
// in cache, whatever order the file has, and however far away the lists reach (Wei et al. 2016, "Speedup graph
// processing by graph ordering"). Looks at a sample of each list.
template <class Index>
std::vector<int32_t> visiting_order(const Index* neighbors, int64_t num_atoms, int64_t width) {
  // Atoms visited last; the rows they read fill a second-level cache.
  constexpr int64_t kRecent = 128;
  const int64_t sampled = std::min<int64_t>(width, 16);
  const auto listed = [&](int64_t atom, int64_t k) { return int64_t(neighbors[atom * width + k * width / sampled]); };

  // Who lists each atom.
  std::vector<int32_t> first(num_atoms + 1, 0), receiver(num_atoms * sampled);
  for (int64_t i = 0; i < num_atoms; ++i)
    for (int64_t k = 0; k < sampled; ++k)
      if (listed(i, k) >= 0) ++first[listed(i, k) + 1];
  for (int64_t i = 0; i < num_atoms; ++i) first[i + 1] += first[i];
  std::vector<int32_t> filled(first.begin(), first.end() - 1);
  for (int64_t i = 0; i < num_atoms; ++i)
    for (int64_t k = 0; k < sampled; ++k)
      if (listed(i, k) >= 0) receiver[filled[listed(i, k)]++] = int32_t(i);

  // Atoms in the order of how many of their neighbours are in cache; those of equal number begin at start[number].
  std::vector<int32_t> sorted(num_atoms), place(num_atoms), start(sampled + 2, int32_t(num_atoms));
  std::vector<uint8_t> cached(num_atoms, 0);
  for (int64_t i = 0; i < num_atoms; ++i) sorted[i] = place[i] = int32_t(num_atoms - 1 - i);
  start[0] = 0;
  const auto swap = [&](int32_t here, int32_t there) {
    std::swap(sorted[here], sorted[there]);
    place[sorted[here]] = here;
    place[sorted[there]] = there;
  };
  int32_t remaining = int32_t(num_atoms);
  const auto change = [&](int32_t atom, int delta) {
    if (place[atom] >= remaining) return;
    if (delta > 0) {
      swap(place[atom], --start[++cached[atom]]);
    } else {
      swap(place[atom], start[cached[atom]--]++);
    }
  };
  std::vector<int32_t> readers(num_atoms, 0);  // of those visited last
  const auto enter = [&](int64_t atom, int delta) {
    for (int64_t k = 0; k < sampled; ++k) {
      const int64_t other = listed(atom, k);
      if (other < 0) continue;
      const bool changed = delta > 0 ? readers[other]++ == 0 : --readers[other] == 0;
      for (int32_t at = first[other]; changed && at < first[other + 1]; ++at) change(receiver[at], delta);
    }
  };

  std::vector<int32_t> order;
  order.reserve(num_atoms);
  while (remaining > 0) {
    const int32_t atom = sorted[--remaining];
    // It leaves from the end of the highest number that occurs; higher ones are empty and end here too.
    for (int64_t number = cached[atom] + 1; number <= sampled; ++number) start[number] = remaining;
    order.push_back(atom);
    enter(atom, +1);
    if (int64_t(order.size()) > kRecent) enter(order[order.size() - 1 - kRecent], -1);
  }
  return order;
}

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
  if (!follows_space(neighbors, num_atoms, width)) visits.order = visiting_order(neighbors, num_atoms, width);
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
