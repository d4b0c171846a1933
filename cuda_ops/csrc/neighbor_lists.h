// Lists of neighbours (N, K), -1 for none: their check and their transposed lists.
#pragma once

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

namespace dkmp {

// Refuses entries outside [-1, num_atoms); one of the two pointers is null.
template <class Index>
void check_entries(const char* op, const Index* neighbors, int64_t num_atoms, int64_t width) {
  std::atomic<int64_t> wrong{-1};
  const int64_t total = num_atoms * width;
  at::parallel_for(0, total, 1 << 16, [&](int64_t begin, int64_t end) {
    Index least = 0, most = -1;
    for (int64_t e = begin; e < end; ++e) {
      least = neighbors[e] < least ? neighbors[e] : least;
      most = neighbors[e] > most ? neighbors[e] : most;
    }
    if (least >= -1 && most < num_atoms) return;
    for (int64_t e = begin; e < end; ++e)
      if (neighbors[e] < -1 || neighbors[e] >= num_atoms) wrong = e;
  });
  const int64_t at = wrong;
  TORCH_CHECK_VALUE(
      at < 0, op, ": neighbors of atom ", at / width, " hold the index ", int64_t(neighbors[at < 0 ? 0 : at]),
      ", expected indices from -1 (none) to N - 1 = ", num_atoms - 1);
}

inline void check_neighbors(
    const char* op, const int64_t* wide, const int32_t* narrow, int64_t num_atoms, int64_t width) {
  if (num_atoms * width == 0) return;
  wide ? check_entries(op, wide, num_atoms, width) : check_entries(op, narrow, num_atoms, width);
}

// For every atom the entries that name it, in ascending order, so that sums over them have a fixed order.
struct SenderLists {
  std::vector<int64_t> start;
  std::unique_ptr<uint32_t[]> edge;

  SenderLists(const int64_t* wide, const int32_t* narrow, int64_t num_atoms, int64_t width)
      : start(num_atoms + 1, 0) {
    wide ? fill(wide, num_atoms * width) : fill(narrow, num_atoms * width);
  }

 private:
  // Every thread reads all entries and keeps those that name its own atoms: no thread waits for another, and the
  // lists do not depend on how many there are.
  template <class Index>
  void fill(const Index* neighbors, int64_t total) {
    const int64_t num_atoms = int64_t(start.size()) - 1;
    const int64_t grain = std::max<int64_t>(num_atoms / at::get_num_threads(), 1024);
    at::parallel_for(0, num_atoms, grain, [&](int64_t begin, int64_t end) {
      for (int64_t e = 0; e < total; ++e)
        if (neighbors[e] >= begin && neighbors[e] < end) ++start[neighbors[e] + 1];
    });
    for (int64_t a = 0; a < num_atoms; ++a) start[a + 1] += start[a];
    edge.reset(new uint32_t[start[num_atoms]]);
    at::parallel_for(0, num_atoms, grain, [&](int64_t begin, int64_t end) {
      std::vector<int64_t> next(start.begin() + begin, start.begin() + end);
      for (int64_t e = 0; e < total; ++e)
        if (neighbors[e] >= begin && neighbors[e] < end) edge[next[neighbors[e] - begin]++] = uint32_t(e);
    });
  }
};

}  // namespace dkmp
