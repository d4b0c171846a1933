// The nearest atoms of each atom in ascending distance, ties to the lower index, each atom at its nearest image.
//
// One warp per atom collects the atoms within a radius in shared memory, changes the radius until they are enough
// but not too many, and sorts them: exact, since whatever lies outside is farther. Where no radius does (more
// atoms at one distance than fit), it selects one rank after the other. Bytes: 8 per rank written; candidates
// come from cache.
#include "neighbor_grid.cuh"

constexpr int kNobody = 2147483647;

// Whether image n of atom j is the nearest one to atom i, the first of them where several are equally near.
DKMP_INLINE bool is_nearest_image(const Grid& g, const GridRecord& r, int i, int j, const int* n, Scalar squared) {
  const Scalar* box = g.box + 9 * (Offset)r.box;
  const float reach = (float)square_root(squared) * 1.00001f + r.slack;
  float vector[3];
  int low[3], high[3];
#pragma unroll
  for (int k = 0; k < 3; ++k) vector[k] = (float)(g.pos[3 * (Offset)j + k] - g.pos[3 * (Offset)i + k]);
#pragma unroll
  for (int k = 0; k < 3; ++k) {
    const float f = vector[0] * r.inverse[k] + vector[1] * r.inverse[3 + k] + vector[2] * r.inverse[6 + k];
    const float step = reach / r.height[k] + 1e-3f + 1e-6f * fabsf(f);
    low[k] = to_int(ceilf(-f - step), 1e6f);
    high[k] = to_int(floorf(-f + step), 1e6f);
  }
  int m[3];
  for (m[0] = low[0]; m[0] <= high[0]; ++m[0])
    for (m[1] = low[1]; m[1] <= high[1]; ++m[1])
      for (m[2] = low[2]; m[2] <= high[2]; ++m[2]) {
        const Scalar other = squared_distance(g.pos, box, i, j, m);
        const bool before = packed_offset(m) < packed_offset(n);
        if (other < squared || (other == squared && before)) return false;
      }
  return true;
}

DKMP_INLINE bool is_before(Scalar squared, int atom, Scalar other_squared, int other_atom) {
  return squared != other_squared ? squared < other_squared : atom < other_atom;
}

// Sorts size (a power of two) pairs in shared memory by distance, then index.
DKMP_INLINE void sort_pairs(Scalar* squared, int* atom, int size) {
  const int lane = threadIdx.x % kWarp;
  for (int run = 2; run <= size; run *= 2)
    for (int distance = run / 2; distance > 0; distance /= 2) {
      for (int pair = lane; pair < size / 2; pair += kWarp) {
        const int a = 2 * distance * (pair / distance) + pair % distance, b = a + distance;
        const bool ascending = (a & run) == 0;
        if (is_before(squared[b], atom[b], squared[a], atom[a]) == ascending) {
          const Scalar s = squared[a];
          const int t = atom[a];
          squared[a] = squared[b];
          atom[a] = atom[b];
          squared[b] = s;
          atom[b] = t;
        }
      }
      __syncwarp();
    }
}

// Calls found(j, squared) for every other atom closer than the radius, once, at its nearest image.
template <class Found>
DKMP_INLINE void search_atoms(const Grid& g, const GridRecord& r, int i, Scalar radius, const Found& found) {
  // Two images of one atom are at least the smallest height of the box apart.
  const float height = fminf(fminf(r.height[0], r.height[1]), r.height[2]);
  const bool several = g.box != nullptr && !(2.001f * (float)radius + r.slack < height);
  search_neighbors(g, i, radius, [&](int j, const int* n, Scalar squared) {
    if (j == i || (several && !is_nearest_image(g, r, i, j, n, squared))) return;
    found(j, squared);
  });
}

// Selects one rank after the other: a search of the whole system each.
DKMP_INLINE void select_ranks(const Grid& g, const GridRecord& r, int i, int count, long long* row) {
  Scalar last_squared = -1;
  int last = -1;
  for (int k = 0; k < count; ++k) {
    Scalar best_squared = INFINITY;
    int best = kNobody;
    search_atoms(g, r, i, Scalar(1.2f * r.whole), [&](int j, Scalar squared) {
      if (is_before(last_squared, last, squared, j) && is_before(squared, j, best_squared, best)) {
        best_squared = squared;
        best = j;
      }
    });
    __syncwarp();
    for (int distance = kWarp / 2; distance > 0; distance /= 2) {
      const Scalar other_squared = from_lane_xor(best_squared, distance);
      const int other = from_lane_xor(best, distance);
      if (is_before(other_squared, other, best_squared, best)) {
        best_squared = other_squared;
        best = other;
      }
    }
    // Nobody is left where rounding hides the images of atoms: positions too far from the box.
    if (threadIdx.x % kWarp == 0) row[k] = best == kNobody ? -1 : best;
    last_squared = best_squared;
    last = best;
  }
}

// ranks: (N, num_neighbors). capacity: pairs that fit into a warp's shared memory, a power of two or 0 for none.
// Shared memory per warp: capacity scalars, capacity + 1 integers (rounded up to 8 bytes).
extern "C" __global__ void __launch_bounds__(128, 4) distance_ranks(
    const Scalar* pos, const Scalar* box, const int* first, const GridRecord* records, const float* fraction,
    const int* wrap, const int* cell_start, const Site* sorted, int num_atoms, int num_neighbors, int capacity,
    const unsigned long long* status, long long* ranks) {
  DYN_SHARED(Scalar, shared);
  const int i = (int)(((Offset)blockIdx.x * blockDim.x + threadIdx.x) / kWarp), lane = threadIdx.x % kWarp;
  if (i >= num_atoms) return;
  long long* row = ranks + (Offset)num_neighbors * i;
  for (int k = lane; k < num_neighbors; k += kWarp) row[k] = -1;
  if (status[0] != 0) return;
  __syncwarp();
  const Grid g = {pos, box, first, records, fraction, wrap, cell_start, sorted};
  const GridRecord& r = records[first[i]];
  const int count = smaller(num_neighbors, r.end - first[i] - 1);
  if (count < 1) return;
  Scalar* squared = shared + threadIdx.x / kWarp * (rank_list_bytes(capacity, sizeof(Scalar)) / (int)sizeof(Scalar));
  int *atom = reinterpret_cast<int*>(squared + capacity), *found = atom + capacity;

  float low = 0.0f, high = INFINITY, radius = r.radius;
  for (int attempt = 0; attempt < 60 && count <= capacity; ++attempt) {
    if (lane == 0) *found = 0;
    __syncwarp();
    search_atoms(g, r, i, Scalar(radius), [&](int j, Scalar s) {
      const int slot = atomicAdd(found, 1);
      if (slot >= capacity) return;
      squared[slot] = s;
      atom[slot] = j;
    });
    __syncwarp();
    const int size = *found;
    __syncwarp();
    if (size >= count && size <= capacity) {
      int padded = 1;
      while (padded < size) padded *= 2;
      for (int k = size + lane; k < padded; k += kWarp) {
        squared[k] = INFINITY;
        atom[k] = kNobody;
      }
      __syncwarp();
      sort_pairs(squared, atom, padded);
      for (int k = lane; k < count; k += kWarp) row[k] = atom[k];
      return;
    }
    if (size < count) {
      if (radius >= r.whole) break;
      low = radius;
      const float growth = fminf(fmaxf(cbrtf((float)count / (float)larger(size, 1)), 1.1f), 2.0f);
      radius = high < INFINITY ? 0.5f * (low + high) : fminf(growth * radius, r.whole);
    } else {
      high = radius;
      radius = 0.5f * (low + high);
    }
    if (!(radius > low && radius < high)) break;
  }
  select_ranks(g, r, i, count, row);
}
