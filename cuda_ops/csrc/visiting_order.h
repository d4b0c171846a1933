// An order to visit atoms in, such that atoms that share neighbours follow each other.
#pragma once

#include <algorithm>
#include <cstdint>
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

}  // namespace dkmp
