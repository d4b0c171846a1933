// An order to visit atoms in, such that atoms that share neighbours follow each other.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace dkmp {

// Clusters grown along the lists (N, K), each begun at the border of the one before: the rows of their neighbours
// then stay in cache, whatever order the file has. Looks at the first few neighbours only; takes little time
// beside reading features.
template <class Index>
std::vector<int32_t> visiting_order(const Index* neighbors, int64_t num_atoms, int64_t width) {
  constexpr size_t kClusterSize = 64;
  const int64_t looked = std::min<int64_t>(width, 4);
  std::vector<int32_t> order, queue, border;
  std::vector<uint8_t> placed(num_atoms, 0);
  order.reserve(num_atoms);
  for (int64_t next = 0; next < num_atoms; ++next) {
    border.push_back(int32_t(next));
    while (!border.empty()) {
      const int32_t seed = border.back();
      border.pop_back();
      if (placed[seed]) continue;
      queue.assign(1, seed);
      size_t at = 0;
      for (const size_t full = order.size() + kClusterSize; at < queue.size() && order.size() < full; ++at) {
        const int32_t atom = queue[at];
        if (placed[atom]) continue;
        placed[atom] = 1;
        order.push_back(atom);
        for (int64_t k = 0; k < looked; ++k) {
          const int64_t other = neighbors[atom * width + k];
          if (other >= 0 && !placed[other]) queue.push_back(int32_t(other));
        }
      }
      for (; at < queue.size(); ++at)
        if (!placed[queue[at]]) border.push_back(queue[at]);
    }
  }
  return order;
}

// The same, remembered for the lists of recent calls: models attend over the same few lists again and again, and one
// thread finds the order while the others wait. Lists are told apart by some of their entries only, which is safe:
// results do not depend on the order, a wrong one costs time.
template <class Index>
std::shared_ptr<const std::vector<int32_t>> recent_visiting_order(
    const Index* neighbors, int64_t num_atoms, int64_t width) {
  struct Entry {
    int64_t num_atoms = -1, width = -1;
    uint64_t sample = 0;
    std::shared_ptr<const std::vector<int32_t>> order;
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
      if (entry.num_atoms == num_atoms && entry.width == width && entry.sample == sample) return entry.order;
  }
  auto order = std::make_shared<const std::vector<int32_t>>(visiting_order(neighbors, num_atoms, width));
  const std::lock_guard<std::mutex> guard(mutex);
  entries[oldest] = {num_atoms, width, sample, order};
  oldest = (oldest + 1) % entries.size();
  return order;
}

}  // namespace dkmp
