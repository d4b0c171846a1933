// All pairs within a cutoff, sorted by distance shell, receiver, sender and periodic image.
//
// One warp per receiver searches twice: first it counts per shell, then, after a running sum over (shell,
// receiver), it writes its edges into their segments, in any order; a third kernel sorts each segment. Bytes per
// edge: 12 written and about 24 read for sorting, 16 (28 with images) written; per atom 150 for the cells.
#include "neighbor_grid.cuh"

// Status words: [0] flags, [1] edges found, [2] most neighbours of an atom.
constexpr int kStatusFlags = 0, kStatusEdges = 1, kStatusMost = 2;

// Shell l holds from[l] <= r < to[l]; from = borders, to = borders + num_shells.
extern "C" __global__ void shell_borders(double cutoff, int num_shells, double overlap, Scalar* borders) {
  const int l = blockIdx.x * blockDim.x + threadIdx.x;
  if (l >= num_shells) return;
  const double count = (double)num_shells;
  borders[l] = l == 0 ? Scalar(0) : Scalar(cutoff * (double)l / count - 0.5 * overlap);
  borders[num_shells + l] =
      l + 1 == num_shells ? Scalar(INFINITY) : Scalar(cutoff * (double)(l + 1) / count + 0.5 * overlap);
}

// First and last shell that hold a distance.
DKMP_INLINE void locate(const Scalar* borders, int count, Scalar per_width, Scalar distance, int* first, int* last) {
  const Scalar *from = borders, *to = borders + count;
  int l = (int)(distance * per_width);
  if (l > count - 1) l = count - 1;
  while (l > 0 && distance < to[l - 1]) --l;
  while (distance >= to[l]) ++l;
  *first = l;
  while (l + 1 < count && distance >= from[l + 1]) ++l;
  *last = l;
}

#define DKMP_GRID_PARAMETERS                                                                                   \
  const Scalar *pos, const Scalar *box, const int *first, const GridRecord *records, const float *fraction,    \
      const int *wrap, const int *cell_start, const Site *sorted
#define DKMP_GRID {pos, box, first, records, fraction, wrap, cell_start, sorted}

// counts: (num_shells, N), all zero before.
extern "C" __global__ void __launch_bounds__(128, 4) radius_shells_count(
    DKMP_GRID_PARAMETERS, int num_atoms, Scalar cutoff, Scalar per_width, int num_shells, const Scalar* borders,
    int* counts, unsigned long long* status) {
  DYN_SHARED(int, shared_counts);
  const int i = (int)(((Offset)blockIdx.x * blockDim.x + threadIdx.x) / kWarp), lane = threadIdx.x % kWarp;
  if (i >= num_atoms || status[kStatusFlags] != 0) return;
  const Grid grid = DKMP_GRID;
  const bool in_shared = num_shells <= kSharedShells;
  int* mine = shared_counts + threadIdx.x / kWarp * num_shells;
  if (in_shared)
    for (int l = lane; l < num_shells; l += kWarp) mine[l] = 0;
  __syncwarp();
  int found = 0;
  search_neighbors(grid, i, cutoff, [&](int, const int*, Scalar squared) {
    int low, high;
    locate(borders, num_shells, per_width, square_root(squared), &low, &high);
    for (int l = low; l <= high; ++l) {
      if (in_shared)
        atomicAdd(mine + l, 1);
      else
        atomicAdd(counts + l * (Offset)num_atoms + i, 1);
    }
    ++found;
  });
  __syncwarp();
  if (in_shared)
    for (int l = lane; l < num_shells; l += kWarp) counts[l * (Offset)num_atoms + i] = mine[l];
  found = warp_sum(found);
  if (lane == 0) atomicMax(status + kStatusMost, (unsigned long long)found);
}

// ends: running sum of counts. ptr: (num_shells + 1), at most `capacity` where that is not negative.
extern "C" __global__ void radius_shells_ptr(
    const long long* ends, int num_atoms, int num_shells, long long capacity, long long max_neighbors,
    unsigned long long* status, long long* ptr) {
  const int l = blockIdx.x * blockDim.x + threadIdx.x;
  if (l > num_shells) return;
  const long long found = l == 0 ? 0 : ends[l * (Offset)num_atoms - 1];
  const long long total = ends[num_shells * (Offset)num_atoms - 1];
  ptr[l] = capacity >= 0 && found > capacity ? capacity : found;
  if (l == num_shells) status[kStatusEdges] = (unsigned long long)total;
  if (capacity < 0) return;
  // Nobody reads the status of a graph of fixed size: one edge stands for what is wrong, and its vector is NaN.
  const bool broken = status[kStatusFlags] != 0 || total > capacity ||
                      (max_neighbors > 0 && (long long)status[kStatusMost] > max_neighbors);
  if (broken && l > 0 && ptr[l] < 1) ptr[l] = 1;
}

// Writes senders and packed offsets into the segments, in any order. left: the counts, which it uses up.
extern "C" __global__ void __launch_bounds__(128, 4) radius_shells_write(
    DKMP_GRID_PARAMETERS, int num_atoms, Scalar cutoff, Scalar per_width, int num_shells, const Scalar* borders,
    const long long* ends, int* left, const unsigned long long* status, long long num_edges, int* senders,
    unsigned long long* packed) {
  const int i = (int)(((Offset)blockIdx.x * blockDim.x + threadIdx.x) / kWarp);
  if (i >= num_atoms || status[kStatusFlags] != 0) return;
  const Grid grid = DKMP_GRID;
  search_neighbors(grid, i, cutoff, [&](int j, const int* n, Scalar squared) {
    int low, high;
    locate(borders, num_shells, per_width, square_root(squared), &low, &high);
    for (int l = low; l <= high; ++l) {
      const Offset segment = l * (Offset)num_atoms + i;
      const Offset at = ends[segment] - atomicAdd(left + segment, -1);
      if (at >= num_edges) continue;
      senders[at] = j;
      if (packed) packed[at] = packed_offset(n);
    }
  });
}

// Sorts every segment by sender and image: an edge's place is the number of edges before it. counts: as counted.
extern "C" __global__ void __launch_bounds__(128, 4) radius_shells_sort(
    const int* senders, const unsigned long long* packed, const long long* ends, int num_atoms, int num_shells,
    long long num_edges, long long* edge_index, int* offsets) {
  const Offset segment = ((Offset)blockIdx.x * blockDim.x + threadIdx.x) / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (segment >= num_shells * (Offset)num_atoms) return;
  const Offset begin = segment == 0 ? 0 : ends[segment - 1], end = smaller((long long)ends[segment], num_edges);
  for (Offset e = begin + lane; e < end; e += kWarp) {
    const int sender = senders[e];
    const unsigned long long image = packed ? packed[e] : 0;
    Offset at = begin;
    for (Offset other = begin; other < end; ++other)
      at += senders[other] < sender || (senders[other] == sender && packed && packed[other] < image);
    edge_index[at] = segment % num_atoms;
    edge_index[num_edges + at] = sender;
    if (!packed) continue;
    const unsigned long long mask = (1ull << 21) - 1;
    offsets[3 * at] = (int)(image >> 42) - kImageLimit;
    offsets[3 * at + 1] = (int)((image >> 21) & mask) - kImageLimit;
    offsets[3 * at + 2] = (int)(image & mask) - kImageLimit;
  }
}

// Pads a graph of fixed size: edges behind the last shell join the atoms -1 and -1. Where something is wrong with
// the graph (see radius_shells_ptr), every edge's vector is NaN. offsets: (num_offsets, 3).
extern "C" __global__ void radius_shells_pad(
    const long long* ptr, const unsigned long long* status, int num_shells, long long capacity,
    long long max_neighbors, long long num_offsets, long long* edge_index, int* offsets) {
  const Offset e = (Offset)blockIdx.x * blockDim.x + threadIdx.x;
  if (e >= capacity) return;
  const bool broken = status[kStatusFlags] != 0 || (long long)status[kStatusEdges] > capacity ||
                      (max_neighbors > 0 && (long long)status[kStatusMost] > max_neighbors);
  const bool empty = status[kStatusEdges] == 0;
  if (e >= ptr[num_shells] || (empty && broken)) {
    const long long nobody = broken && e == 0 ? 0 : -1;
    edge_index[e] = nobody;
    edge_index[capacity + e] = nobody;
    if (e < num_offsets)
      for (int k = 0; k < 3; ++k) offsets[3 * e + k] = 0;
  }
  if (e < num_offsets && (broken || num_offsets == 1))
    for (int k = 0; k < 3; ++k) offsets[3 * e + k] = broken ? kBrokenOffset : 0;
}
