// Builds the cell list of neighbor_grid.cuh. One thread per atom throughout; about 150 bytes per atom in all.
#include "neighbor_grid.cuh"

// Floats as integers of the same order, so that integer atomics find the largest one. Everything exceeds zero.
DKMP_INLINE unsigned ordered(float x) {
  const unsigned bits = __float_as_uint(x);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
DKMP_INLINE float from_ordered(unsigned x) { return __uint_as_float(x >> 31 ? x & 0x7fffffffu : ~x); }

DKMP_INLINE void raise(unsigned long long* status, unsigned long long flag) { atomicOr(status, flag); }

// First place in the sorted batch that is not below `value`.
DKMP_INLINE int lower_bound(const long long* batch, int num_atoms, long long value) {
  int low = 0, high = num_atoms;
  while (low < high) {
    const int middle = low + (high - low) / 2;
    if (batch[middle] < value)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

// Finds each atom's system and the systems' bounding boxes. bounds: (N, 8), all zero before; at a system's first
// atom the largest of x, y, z, -x, -y, -z and of |x|, |y|, |z| in the order of `ordered`.
extern "C" __global__ void grid_bounds(
    const Scalar* pos, const long long* batch, int num_atoms, int* first, unsigned* bounds,
    unsigned long long* status) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x % kWarp;
  const bool present = i < num_atoms;
  int start = -1;
  float value[7];
#pragma unroll
  for (int k = 0; k < 7; ++k) value[k] = -INFINITY;
  if (present) {
    const long long system = batch[i];
    if (system < 0 || (i > 0 && batch[i - 1] > system)) raise(status, kBadBatch);
    start = smaller(lower_bound(batch, num_atoms, system), i);
    first[i] = start;
    float most = 0.0f;
#pragma unroll
    for (int k = 0; k < 3; ++k) {
      const Scalar x = pos[3 * (Offset)i + k];
      if (!(fabs(x) <= kFarthest)) raise(status, kBadPositions);
      // A little outwards: float32 may round a float64 position inwards.
      const float near = (float)x, margin = fabsf(near) * 1e-6f;
      value[k] = near + margin;
      value[3 + k] = margin - near;
      most = fmaxf(most, fabsf(near));
    }
    value[6] = most;
  }
  // Most warps lie within one system: one atomic for all of their atoms.
  const int start_of_first = __shfl_sync(kWholeWarp, start, 0);
  const bool together = __all_sync(kWholeWarp, start == start_of_first || !present);
  for (int k = 0; k < 7; ++k) {
    float x = value[k];
    if (together) {
      for (int distance = kWarp / 2; distance > 0; distance /= 2) x = fmaxf(x, from_lane_xor(x, distance));
      if (lane == 0 && present) atomicMax(bounds + 8 * (Offset)start + k, ordered(x));
    } else if (present) {
      atomicMax(bounds + 8 * (Offset)start + k, ordered(x));
    }
  }
}

// Cell of the system: its box, or its bounding box. False when the box spans no volume.
DKMP_INLINE bool set_cell(GridRecord& r, const Scalar* box, const unsigned* bounds, float radius) {
  double a[9] = {0, 0, 0, 0, 0, 0, 0, 0, 0}, lengths = 1.0;
  for (int k = 0; k < 3; ++k) {
    const float low = -from_ordered(bounds[3 + k]), high = from_ordered(bounds[k]);
    r.origin[k] = box ? 0.0f : low;
    if (!box) a[4 * k] = fmax((double)(high - low) * (1.0 + 1e-5), 1e-3 * fmin((double)radius, 1e6) + 1e-6);
  }
  if (box)
    for (int k = 0; k < 9; ++k) a[k] = (double)box[k];
  const double det = a[0] * (a[4] * a[8] - a[5] * a[7]) - a[1] * (a[3] * a[8] - a[5] * a[6]) +
                     a[2] * (a[3] * a[7] - a[4] * a[6]);
  const double inverse[9] = {
      (a[4] * a[8] - a[5] * a[7]) / det, (a[2] * a[7] - a[1] * a[8]) / det, (a[1] * a[5] - a[2] * a[4]) / det,
      (a[5] * a[6] - a[3] * a[8]) / det, (a[0] * a[8] - a[2] * a[6]) / det, (a[2] * a[3] - a[0] * a[5]) / det,
      (a[3] * a[7] - a[4] * a[6]) / det, (a[1] * a[6] - a[0] * a[7]) / det, (a[0] * a[4] - a[1] * a[3]) / det};
  r.orthogonal = 1;
  for (int k = 0; k < 9; ++k) {
    r.cell[k] = (float)a[k];
    r.inverse[k] = (float)inverse[k];
    if (k % 4 != 0 && a[k] != 0.0) r.orthogonal = 0;
  }
  for (int k = 0; k < 3; ++k) {
    lengths *= sqrt(a[3 * k] * a[3 * k] + a[3 * k + 1] * a[3 * k + 1] + a[3 * k + 2] * a[3 * k + 2]);
    r.height[k] = (float)(1.0 / sqrt(inverse[k] * inverse[k] + inverse[3 + k] * inverse[3 + k] +
                                     inverse[6 + k] * inverse[6 + k]));
  }
  return !box || fabs(det) > 1e-6 * lengths;
}

// Cells of half the radius follow its sphere closely; larger where there would be many more cells than atoms.
DKMP_INLINE void choose_divisions(GridRecord& r, float radius, float volume, int atoms) {
  float edge = fmaxf(0.5f * radius, fminf(radius, cbrtf(2.0f * volume / (float)atoms)));
  for (int attempt = 0;; ++attempt, edge *= 1.3f) {
    float cells = 1.0f;
    for (int k = 0; k < 3; ++k) {
      r.divisions[k] = attempt < 200 ? to_int(fmaxf(floorf(r.height[k] / edge), 1.0f), 10000.0f) : 1;
      cells *= (float)r.divisions[k];
    }
    if (cells <= (float)kCellsPerAtom * (float)atoms || attempt >= 200) return;
  }
}

// Sets up the record of every system: thread i works where atom i is the first of its system.
// radius: of the search; 0 to choose one that holds about num_neighbors atoms. max_edges: what the result may hold.
extern "C" __global__ void grid_setup(
    const Scalar* boxes, int num_boxes, const long long* batch, const int* first, const unsigned* bounds,
    int num_atoms, Scalar radius, int num_neighbors, double max_edges, GridRecord* records,
    unsigned long long* status) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= num_atoms || first[i] != i) return;
  GridRecord r;
  r.end = larger(lower_bound(batch, num_atoms, batch[i] + 1), i + 1);
  r.box = num_boxes == 1 ? 0 : (int)batch[i];
  if (boxes && (r.box < 0 || r.box >= num_boxes)) {
    raise(status, kMissingBox);
    r.box = 0;
  }
  const Scalar* box = boxes ? boxes + 9 * (Offset)r.box : nullptr;
  const int atoms = r.end - i;
  if (!set_cell(r, box, bounds + 8 * (Offset)i, (float)radius)) raise(status, kBadBox);
  float whole = 0.0f, sizes = 0.0f;
  for (int row = 0; row < 3; ++row) {
    const float* a = r.cell + 3 * row;
    const float squared = a[0] * a[0] + a[1] * a[1] + a[2] * a[2];
    // Half of every lattice vector reaches the nearest image; in an open system the diagonal reaches all.
    whole += box ? 0.5f * sqrtf(squared) : squared;
    sizes = fmaxf(sizes, sqrtf(squared));
  }
  if (!box) whole = sqrtf(whole);
  r.whole = whole * 1.001f + 1e-3f;
  const float volume = fabsf(r.cell[0] * (r.cell[4] * r.cell[8] - r.cell[5] * r.cell[7]) -
                             r.cell[1] * (r.cell[3] * r.cell[8] - r.cell[5] * r.cell[6]) +
                             r.cell[2] * (r.cell[3] * r.cell[7] - r.cell[4] * r.cell[6]));
  r.radius = fminf(r.whole, 1.1f * cbrtf((float)(num_neighbors + 1) / (float)atoms * volume / 4.19f) + 1e-3f);
  const float typical = radius > 0 ? (float)radius : r.radius;
  choose_divisions(r, typical, volume, atoms);

  const float most = from_ordered(bounds[8 * (Offset)i + 6]), largest = radius > 0 ? (float)radius : r.whole;
  float images = 1.0f;
  for (int k = 0; k < 3; ++k) {
    images = fmaxf(images, (1.75f * most + largest) / r.height[k] + 2.0f);
    if (box && !((largest / r.height[k] + 2.0f) * (float)r.divisions[k] < 15000.0f)) raise(status, kTooManyImages);
  }
  if (box && !(2.0f * images < (float)kImageLimit)) raise(status, kTooManyImages);
  r.slack = 32.0f * 1.1920929e-7f * (most + (box ? fminf(largest, 1e6f) + 3.0f * sizes * images : sizes));
  const double edges = 4.19 * (double)radius * (double)radius * (double)radius * (double)atoms / (double)volume;
  if (box && radius > 0 && !(edges * (double)atoms <= 2.0 * max_edges + 1e6)) raise(status, kTooManyEdges);
  // The cube of a large radius is no number in float32.
  const double reach = typical, room = 4.19 * reach * reach * reach / (double)volume + 1.0;
  double looked_at = 1.0;
  for (int k = 0; k < 3; ++k) looked_at *= 2.0 * reach / (double)r.height[k] + 1.0;
  const float width = fminf(fminf(r.height[0], r.height[1]), r.height[2]);
  if (box && !(looked_at < (double)kFlattest * room))
    raise(status, kFlatBox);
  else if (box && !(r.slack <= kCoarsest * width))  // searches would look at ever more images
    raise(status, kTooManyImages);
  records[i] = r;
}

// Puts every atom into a cell; counts: (8 N), all zero before.
extern "C" __global__ void grid_count(
    const Scalar* pos, const Scalar* boxes, const int* first, const GridRecord* records, int num_atoms,
    float* fraction, int* wrap, int* cell_of, int* counts) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= num_atoms) return;
  const GridRecord& r = records[first[i]];
  int index = 0;
  for (int k = 0; k < 3; ++k) {
    float f = 0.0f, home = 0.0f;
    for (int m = 0; m < 3; ++m) f += (float)(pos[3 * (Offset)i + m] - (Scalar)r.origin[m]) * r.inverse[3 * m + k];
    if (boxes) {
      home = floorf(f);
      f -= home;
    }
    f = fminf(fmaxf(f, 0.0f), 1.0f);
    fraction[3 * (Offset)i + k] = f;
    if (boxes) wrap[3 * (Offset)i + k] = to_int(home, 1e6f);
    const int layer = to_int(f * (float)r.divisions[k], 20000.0f);
    index = index * r.divisions[k] + smaller(layer, r.divisions[k] - 1);
  }
  const int cell = kCellsPerAtom * first[i] + index;
  cell_of[i] = cell;
  atomicAdd(counts + cell, 1);
}

// left: the counts, which this kernel uses up.
extern "C" __global__ void grid_fill(
    const int* first, const GridRecord* records, const float* fraction, const int* cell_of, const int* cell_start,
    int num_atoms, int* left, Site* sorted) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= num_atoms) return;
  const GridRecord& r = records[first[i]];
  const float* f = fraction + 3 * (Offset)i;
  Site home;
  home.at[0] = f[0] * r.cell[0] + f[1] * r.cell[3] + f[2] * r.cell[6];
  home.at[1] = f[0] * r.cell[1] + f[1] * r.cell[4] + f[2] * r.cell[7];
  home.at[2] = f[0] * r.cell[2] + f[1] * r.cell[5] + f[2] * r.cell[8];
  home.at[3] = __int_as_float(i);
  sorted[cell_start[cell_of[i]] + atomicAdd(left + cell_of[i], -1) - 1] = home;
}
