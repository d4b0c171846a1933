// Groups one shell's edges by receiver or by sender (compressed rows), without the host reading anything.
//
// The edges begin at ptr[shell] and end at ptr[shell + 1], both read here: grids depend on shapes only. Atomics are
// on integers, and what depends on their order is put in order afterwards, so rows list their edges in ascending
// order whatever the schedule. A row whose edges follow each other (receivers in radius_shells' output) is copied
// as it is; only scattered rows are sorted.
// Traffic: 16 bytes per edge slot of the shell in group_count and in group_fill, 4 to 12 written per edge.
#include "common.cuh"

// The shell's edges, limited to those that exist. An impossible ptr, like an edge to an atom that does not exist,
// sets `broken`, which turns the results into NaN: a kernel cannot raise an error.
struct Span {
  int begin, end;
  bool valid;
};
DKMP_INLINE Span shell_span(const long long* ptr, int shell, int num_edges) {
  const long long begin = ptr[shell], end = ptr[shell + 1];
  const bool valid = begin >= 0 && begin <= end && end <= num_edges;
  return {valid ? int(begin) : 0, valid ? int(end) : 0, valid};
}

// Consecutive lanes whose edges lie in the same row: they share one atomic.
struct Run {
  int first_lane, length;
};
DKMP_INLINE Run find_run(int row, int lane) {
  const int left = __shfl_sync(kWholeWarp, row, lane > 0 ? lane - 1 : 0);
  const unsigned heads = __ballot_sync(kWholeWarp, lane == 0 || left != row);
  const unsigned below = heads & (kWholeWarp >> (kWarp - 1 - lane)), above = lane == kWarp - 1 ? 0u : heads >> (lane + 1);
  const int first = kWarp - 1 - __clz(int(below));
  return {first, (above ? lane + __ffs(int(above)) : kWarp) - first};
}

// counts[1 + row] += edges of the row; bounds[row] and bounds[num_rows + row]: largest num_edges - e and e + 1 of its
// edges e. All start at zero.
extern "C" __global__ void __launch_bounds__(256) group_count(
    const long long* rows, const long long* others, const long long* ptr, int shell, int num_edges, int num_rows,
    int num_others, int* counts, int* bounds, int* broken) {
  const Span span = shell_span(ptr, shell, num_edges);
  if (!span.valid && blockIdx.x == 0 && threadIdx.x == 0) *broken = 1;
  const int lane = threadIdx.x % kWarp;
  const Offset stride = Offset(gridDim.x) * blockDim.x;
  for (Offset base = span.begin + Offset(blockIdx.x) * blockDim.x + (threadIdx.x - lane); base < span.end;
       base += stride) {
    const Offset e = base + lane;
    int row = -1;
    if (e < span.end) {
      const long long found = rows[e], other = others[e];
      if (found >= 0 && found < num_rows && other >= 0 && other < num_others) {
        row = int(found);
      } else {
        atomicExch(broken, 1);
      }
    }
    const Run run = find_run(row, lane);
    if (row >= 0 && run.first_lane == lane) {
      atomicAdd(counts + 1 + row, run.length);
      atomicMax(bounds + row, num_edges - int(e));
      atomicMax(bounds + num_rows + row, int(e) + run.length);
    }
  }
}

// Rows without gaps go to `edges` directly, others to `unordered`, for group_order. `next` starts at zero.
extern "C" __global__ void __launch_bounds__(256) group_fill(
    const long long* rows, const long long* others, const long long* ptr, int shell, int num_edges, int num_rows,
    int num_others, const int* starts, const int* bounds, int* next, int* unordered, int* edges) {
  const Span span = shell_span(ptr, shell, num_edges);
  const int lane = threadIdx.x % kWarp;
  const Offset stride = Offset(gridDim.x) * blockDim.x;
  for (Offset base = span.begin + Offset(blockIdx.x) * blockDim.x + (threadIdx.x - lane); base < span.end;
       base += stride) {
    const Offset e = base + lane;
    int row = -1;
    if (e < span.end) {
      const long long found = rows[e], other = others[e];
      if (found >= 0 && found < num_rows && other >= 0 && other < num_others) row = int(found);
    }
    const Run run = find_run(row, lane);
    int at = 0;
    bool gapless = false;
    if (row >= 0) {
      const int first = num_edges - bounds[row];
      gapless = bounds[num_rows + row] - first == starts[row + 1] - starts[row];
      at = starts[row] + int(e) - first;
      if (!gapless && run.first_lane == lane) at = starts[row] + atomicAdd(next + row, run.length);
    }
    const int reserved = __shfl_sync(kWholeWarp, at, run.first_lane);
    if (row < 0) continue;
    if (gapless) {
      edges[at] = int(e);
    } else {
      unordered[reserved + lane - run.first_lane] = int(e);
    }
  }
}

// One warp per row: an edge's place is the number of smaller edges in its row.
extern "C" __global__ void __launch_bounds__(256) group_order(
    const int* starts, const int* bounds, const int* unordered, int num_edges, int num_rows, int* edges) {
  const Offset row = (Offset(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
  if (row >= num_rows) return;
  const int lane = threadIdx.x % kWarp, begin = starts[row], end = starts[row + 1];
  if (bounds[num_rows + row] - (num_edges - bounds[row]) == end - begin) return;
  for (int base = begin; base < end; base += kWarp) {
    const int e = base + lane < end ? unordered[base + lane] : 0;
    int place = begin;
    for (int other = begin; other < end; ++other) place += unordered[other] < e;
    if (base + lane < end) edges[place] = e;
  }
}
