// Cell list of the systems of a batch, as csrc/neighbor_grid.h builds it on the CPU: cells divide the fractional
// coordinates of any triclinic box, searches run on into periodic images, open systems use their bounding box.
//
// Cells only choose candidates, in float32 with a slack for rounding; whether an atom is a neighbour is decided in
// the precision of the positions, with the same operations in the same order as on the CPU: compile the files that
// include this with --fmad=false.
#pragma once

#include "common.cuh"
#include "neighbor_grid_plan.cuh"

using namespace dkmp;

// Positions lie within so many angstrom, as csrc/checks.h says for the CPU.
constexpr float kFarthest = 1e16f;
// Boxes that would be searched for minutes are refused, as there.
constexpr float kFlattest = 1e4f;
// Largest rounding of positions over the width of the box; more is refused.
constexpr float kCoarsest = 16.0f;

constexpr int kImageLimit = 1 << 20;  // 21 bits per component of a packed cell offset

// One system, kept at the place of its first atom.
struct GridRecord {
  float inverse[9], cell[9];  // columns of `inverse` are the reciprocal vectors
  float height[3], origin[3];
  float slack, radius, whole;  // radius: first guess for a rank search; whole: reaches every atom
  int divisions[3], orthogonal, end, box, unused[3];
};
static_assert(sizeof(GridRecord) == 4 * kRecordWords, "launchers allocate so many words");

// Home position and, as bits, the atom: one load of 16 bytes.
typedef Pack<float, 4> Site;

struct Grid {
  const Scalar *pos, *box;
  const int* first;           // (N) first atom of the atom's system
  const GridRecord* records;  // (N)
  const float* fraction;      // (N, 3) in the home box
  const int* wrap;            // (N, 3) box that the position lies in
  const int* cell_start;      // (8 N + 1)
  const Site* sorted;       // (N) in order of cells
};

DKMP_INLINE unsigned long long packed_offset(const int* n) {
  return ((unsigned long long)(n[0] + kImageLimit) << 42) | ((unsigned long long)(n[1] + kImageLimit) << 21) |
         (unsigned long long)(n[2] + kImageLimit);
}
DKMP_INLINE int floor_divide(int a, int b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }
// To int without overflow; NaN becomes the lower limit.
DKMP_INLINE int to_int(float x, float limit) { return (int)fminf(fmaxf(x, -limit), limit); }

// Cell layers along axis k that a sphere around the atom touches.
DKMP_INLINE void cell_range(const GridRecord& r, bool periodic, float fraction, int k, float reach, int* low, int* high) {
  const float n = (float)r.divisions[k], step = reach / r.height[k], slack = 1e-3f + 4e-7f * n;
  *low = to_int(floorf((fraction - step) * n - slack), 20000.0f);
  *high = to_int(floorf((fraction + step) * n + slack), 20000.0f);
  if (!periodic) {
    *low = *low < 0 ? 0 : *low;
    *high = *high >= r.divisions[k] ? r.divisions[k] - 1 : *high;
  }
}

// Smallest distance along axis k between the atom and cell layer c.
DKMP_INLINE float slab_distance(const GridRecord& r, float fraction, int k, int c) {
  const float n = (float)r.divisions[k], f = fraction * n;
  const float layers = fmaxf(fmaxf((float)c - f, f - (float)(c + 1)), 0.0f) - 1e-3f - 4e-7f * n;
  return fmaxf(0.0f, layers) * r.height[k] / n;
}

// pos[j] + n @ box - pos[i], squared; (pos[j] - pos[i]) first, so that the reverse edge gets the same value.
DKMP_INLINE Scalar squared_distance(const Scalar* pos, const Scalar* box, int i, int j, const int* n) {
  Scalar squared = 0, vector[3];
#pragma unroll
  for (int k = 0; k < 3; ++k) {
    vector[k] = pos[3 * (Offset)j + k] - pos[3 * (Offset)i + k];
    if (box) vector[k] = vector[k] + (n[0] * box[k] + n[1] * box[3 + k] + n[2] * box[6 + k]);
  }
  squared = vector[0] * vector[0] + vector[1] * vector[1] + vector[2] * vector[2];
  return squared;
}

// Calls found(j, n, squared) for every neighbour j of atom i at image n closer than `radius`, the atom itself
// excluded. One warp searches for one atom; every lane calls for what it finds, so lanes may diverge.
template <class Found>
DKMP_INLINE void search_neighbors(const Grid& g, int i, Scalar radius, const Found& found) {
  constexpr int kColumnLanes = 8;  // lanes that read one column of cells together
  const GridRecord& r = g.records[g.first[i]];
  const int lane = threadIdx.x % kWarp;
  const bool periodic = g.box != nullptr;
  const Scalar* box = periodic ? g.box + 9 * (Offset)r.box : nullptr;
  const float reach = (float)radius * 1.00001f + r.slack;
  float f[3], home[3];
  int low[3], high[3];
#pragma unroll
  for (int k = 0; k < 3; ++k) {
    f[k] = g.fraction[3 * (Offset)i + k];
    cell_range(r, periodic, f[k], k, reach, &low[k], &high[k]);
  }
#pragma unroll
  for (int k = 0; k < 3; ++k) home[k] = f[0] * r.cell[k] + f[1] * r.cell[3 + k] + f[2] * r.cell[6 + k];
  const int width = high[1] - low[1] + 1, columns = (high[0] - low[0] + 1) * width;
  for (int column = lane / kColumnLanes; column < columns; column += kWarp / kColumnLanes) {
    const int cx = low[0] + column / width, cy = low[1] + column % width;
    int low_z = low[2], high_z = high[2];
    if (r.orthogonal) {
      const float dx = slab_distance(r, f[0], 0, cx), dy = slab_distance(r, f[1], 1, cy);
      const float left = reach * reach - dx * dx - dy * dy;
      if (!(left > 0.0f)) continue;
      cell_range(r, periodic, f[2], 2, sqrtf(left), &low_z, &high_z);
    }
    const int nx = floor_divide(cx, r.divisions[0]), ny = floor_divide(cy, r.divisions[1]);
    const Offset row = kCellsPerAtom * (Offset)g.first[i] +
        ((Offset)(cx - nx * r.divisions[0]) * r.divisions[1] + (cy - ny * r.divisions[1])) * r.divisions[2];
    for (int nz = floor_divide(low_z, r.divisions[2]); nz * r.divisions[2] <= high_z; ++nz) {
      const int first = larger(low_z - nz * r.divisions[2], 0);
      const int last = smaller(high_z - nz * r.divisions[2], r.divisions[2] - 1);
      const int end = g.cell_start[row + last + 1];
      float center[3];
#pragma unroll
      for (int k = 0; k < 3; ++k) center[k] = home[k] - (nx * r.cell[k] + ny * r.cell[3 + k] + nz * r.cell[6 + k]);
      for (int slot = g.cell_start[row + first] + lane % kColumnLanes; slot < end; slot += kColumnLanes) {
        const Site there = g.sorted[slot];
        const float dx = there.at[0] - center[0], dy = there.at[1] - center[1], dz = there.at[2] - center[2];
        if (!(dx * dx + dy * dy + dz * dz <= reach * reach)) continue;
        const int j = __float_as_int(there.at[3]);
        int n[3] = {0, 0, 0};
        if (periodic) {
          n[0] = nx - g.wrap[3 * (Offset)j] + g.wrap[3 * (Offset)i];
          n[1] = ny - g.wrap[3 * (Offset)j + 1] + g.wrap[3 * (Offset)i + 1];
          n[2] = nz - g.wrap[3 * (Offset)j + 2] + g.wrap[3 * (Offset)i + 2];
        }
        const Scalar squared = squared_distance(g.pos, box, i, j, n);
        const bool itself = i == j && n[0] == 0 && n[1] == 0 && n[2] == 0;
        if (square_root(squared) < radius && !itself) found(j, n, squared);
      }
    }
  }
}
