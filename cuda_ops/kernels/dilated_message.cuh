// What the kernels of dilated_message share: the edge's geometry, radial filters, attention scores.
//
// Macros besides those of common.cuh: DKMP_WIDTH, channels d, a multiple of 32; DKMP_HEADS, attention heads of a
// power of two of channels (0: no attention); DKMP_VECTOR, whether senders carry vector features.
// Mathematics and notation: dkmp_plugin/ops/reference/message.py and csrc/dilated_message.isa.cpp.
#pragma once
#include "common.cuh"
#include "dilated_message_plan.cuh"

constexpr int kWidth = DKMP_WIDTH, kTableStride = 4 * kWidth, kHarmonics = 8, kTaps = dkmp::kSplineTaps;
constexpr bool kAttention = DKMP_HEADS > 0, kCarriesVector = DKMP_VECTOR != 0;
constexpr int kHeads = kAttention ? DKMP_HEADS : 1, kHeadWidth = kWidth / kHeads;
static_assert(kWidth % 32 == 0 && kWidth % kHeads == 0, "the launcher pads the width");
static_assert(!kAttention || (kHeadWidth & (kHeadWidth - 1)) == 0, "the launcher pads heads to a power of two");

// Rows of the table that blend takes at once. More wait for memory together, but leave fewer registers for the sums.
#ifndef DKMP_MOST_TAPS
#define DKMP_MOST_TAPS kTaps
#endif
DKMP_PLAN int taps_at_once(int bytes) {
  return bytes > 8 ? 2 : DKMP_MOST_TAPS;
}

// Values and their direction (null = zero), which plain kernels ignore.
struct Array {
  const Scalar *values, *direction;
};

// The kernels' common arguments. Directions are given in all instances, so that one launcher calls them.
#define MESSAGE_ARGUMENTS                                                                                        \
  const Scalar *edge_vector, const Scalar *query, const Scalar *key, const Scalar *value, const Scalar *vector,  \
      const Scalar *table, const Scalar *edge_vector_direction, const Scalar *query_direction,                   \
      const Scalar *key_direction, const Scalar *value_direction, const Scalar *vector_direction,                \
      const Scalar *table_direction, Scalar lower, Scalar upper, Scalar overlap, Scalar cutoff, Scalar start,    \
      Scalar per_step, int inner, int outer, int num_intervals, int degree
#define MESSAGE_INPUTS                                                                                           \
  Inputs {                                                                                                       \
    {edge_vector, edge_vector_direction}, {query, query_direction}, {key, key_direction},                        \
        {value, value_direction}, {vector, vector_direction}, {table, table_direction}                           \
  }
#define MESSAGE_SHELL \
  Shell { lower, upper, overlap, cutoff, start, per_step, inner != 0, outer != 0, num_intervals, degree }

struct Inputs {
  Array edge_vector, query, key, value, vector, table;
};

// Window and spline interval. inner: the window rises at `lower`; outer: it falls at `upper`.
struct Shell {
  Scalar lower, upper, overlap, cutoff, start, per_step;
  bool inner, outer;
  int num_intervals, degree;  // of the spline
};

// ---- geometry of an edge ---------------------------------------------------------------------------------------

struct Slope {
  Number value, slope;
};

DKMP_INLINE Slope smootherstep(const Number& r, Scalar border, Scalar overlap) {
  const Number zero = r * Scalar(0), one = zero + Scalar(1);
  if (overlap == Scalar(0)) return {plain(r) >= border ? one : zero, zero};
  const Number x = (r - (border - Scalar(0.5) * overlap)) * (Scalar(1) / overlap);
  if (plain(x) <= Scalar(0)) return {zero, zero};
  if (plain(x) >= Scalar(1)) return {one, zero};
  const Number left = Scalar(1) - x;
  return {x * x * x * (Scalar(10) - x * (Scalar(15) - Scalar(6) * x)), (Scalar(30) / overlap) * (x * x * left * left)};
}

DKMP_INLINE Slope window(const Shell& shell, const Number& r) {
  const Number zero = r * Scalar(0), x = r * (Scalar(1) / shell.cutoff);
  if (!(plain(x) < Scalar(1))) return {zero, zero};
  const Number x2 = x * x, x5 = x2 * x2 * x, left = Scalar(1) - x;
  Slope w{
      Scalar(1) - x5 * x * (Scalar(28) - x * (Scalar(48) - Scalar(21) * x)),
      (Scalar(-168) / shell.cutoff) * (x5 * left * left)};
  if (shell.inner) {
    const Slope s = smootherstep(r, shell.lower, shell.overlap);
    w = {w.value * s.value, w.slope * s.value + w.value * s.slope};
  }
  if (shell.outer) {
    const Slope s = smootherstep(r, shell.upper, shell.overlap);
    const Number falls = Scalar(1) - s.value;
    w = {w.value * falls, w.slope * falls - w.value * s.slope};
  }
  return w;
}

// What every lane needs of an edge. Aligned, so that shared memory is read 16 bytes at a time.
struct alignas(16) Edge {
  int index, other, first_row, unused;  // the edge, the atom at its other end, the first of the rows
  // Taps are weights of rows of the table.
  Number tap[kTaps], weight, unused_too, harmonic[kHarmonics];
};

// What its gradient needs besides.
struct alignas(16) EdgeSlopes {
  Number tap_slope[kTaps], weight_slope, inverse_distance, unit[3], unused;
};

// Compared before converting: a NaN or huge distance must not become an index.
DKMP_INLINE int spline_interval(const Shell& shell, Scalar distance) {
  const Scalar x = (distance - shell.start) * shell.per_step, last = Scalar(shell.num_intervals - 1);
  return int(x > Scalar(0) ? (x < last ? x : last) : Scalar(0));
}

// Weights, and their slopes, of the B-splines of degree 5 that do not vanish at the fraction s of an interval.
DKMP_INLINE void set_quintic_taps(const Number& s, Scalar per_step, Number (&tap)[kTaps], Number (&slope)[kTaps]) {
  const Scalar part = Scalar(1) / Scalar(120), step = per_step / Scalar(24);
  const Number left = Scalar(1) - s, s4 = s * s * s * s, left4 = left * left * left * left;
  const auto c = [](int number) { return Scalar(number); };
  tap[0] = left4 * left * part;
  tap[1] = (s * (s * (s * (s * (c(5) * s - c(20)) + c(20)) + c(20)) - c(50)) + c(26)) * part;
  tap[2] = (s * s * (s * s * (c(30) - c(10) * s) - c(60)) + c(66)) * part;
  tap[3] = (s * (s * (s * (s * (c(10) * s - c(20)) - c(20)) + c(20)) + c(50)) + c(26)) * part;
  tap[4] = (s * (s * (s * (s * (c(5) - c(5) * s) + c(10)) + c(10)) + c(5)) + c(1)) * part;
  tap[5] = s4 * s * part;
  slope[0] = left4 * (-step);
  slope[1] = (s * (s * (s * (c(5) * s - c(16)) + c(12)) + c(8)) - c(10)) * step;
  slope[2] = s * (s * s * (c(24) - c(10) * s) - c(24)) * step;
  slope[3] = (s * (s * (s * (c(10) * s - c(16)) - c(12)) + c(8)) + c(10)) * step;
  slope[4] = (s * (s * (s * (c(4) - c(5) * s) + c(6)) + c(4)) + c(1)) * step;
  slope[5] = s4 * step;
}

// The same of degree 3; the last two are of no spline.
DKMP_INLINE void set_cubic_taps(const Number& s, Scalar per_step, Number (&tap)[kTaps], Number (&slope)[kTaps]) {
  const Scalar sixth = Scalar(1) / Scalar(6), half = per_step * Scalar(0.5);
  const Number left = Scalar(1) - s;
  tap[0] = left * left * left * sixth;
  tap[1] = (s * s * (Scalar(3) * s - Scalar(6)) + Scalar(4)) * sixth;
  tap[2] = (s * (s * (Scalar(3) - Scalar(3) * s) + Scalar(3)) + Scalar(1)) * sixth;
  tap[3] = s * s * s * sixth;
  slope[0] = left * left * (-half);
  slope[1] = s * (Scalar(3) * s - Scalar(4)) * half;
  slope[2] = (s * (Scalar(2) - Scalar(3) * s) + Scalar(1)) * half;
  slope[3] = s * s * half;
  for (int m = 4; m < kTaps; ++m) tap[m] = Number{}, slope[m] = Number{};
}

// interval: of the spline; -1 to find it.
DKMP_INLINE void set_edge(
    const Shell& shell, const Array& edge_vector, int edge, int other, int interval, Edge& g, EdgeSlopes& slopes) {
  const Offset at = 3 * Offset(edge);
  const Number x = load_number(edge_vector.values, edge_vector.direction, at),
               y = load_number(edge_vector.values, edge_vector.direction, at + 1),
               z = load_number(edge_vector.values, edge_vector.direction, at + 2);
  const Number squared = x * x + y * y + z * z, zero = squared * Scalar(0);
  Number r = zero, inverse = zero;
  // Coincident atoms have no direction: distance, unit vector and their gradients are zero.
  if (plain(squared) != Scalar(0)) {
    r = square_root(squared);
    inverse = reciprocal(r);
  }
  const Number ux = x * inverse, uy = y * inverse, uz = z * inverse;
  const Scalar root3 = Scalar(1.7320508075688772935);
  g.index = edge;
  g.other = other;
  g.harmonic[0] = ux, g.harmonic[1] = uy, g.harmonic[2] = uz;
  g.harmonic[3] = root3 * (ux * uz);
  g.harmonic[4] = root3 * (ux * uy);
  g.harmonic[5] = uy * uy - Scalar(0.5) * (ux * ux + uz * uz);
  g.harmonic[6] = root3 * (uy * uz);
  g.harmonic[7] = (Scalar(0.5) * root3) * (uz * uz - ux * ux);
  slopes.unit[0] = ux, slopes.unit[1] = uy, slopes.unit[2] = uz;
  slopes.inverse_distance = inverse;
  const Slope w = window(shell, r);
  g.weight = w.value;
  slopes.weight_slope = w.slope;
  g.first_row = interval >= 0 ? interval : spline_interval(shell, plain(r));
  const Number s = (r - shell.start) * shell.per_step - Scalar(g.first_row);
  if (shell.degree == 3) {
    set_cubic_taps(s, shell.per_step, g.tap, slopes.tap_slope);
  } else {
    set_quintic_taps(s, shell.per_step, g.tap, slopes.tap_slope);
  }
}

// ---- channels of a lane ----------------------------------------------------------------------------------------

template <int channels>
struct Wide {
  Number at[channels];
};

template <int channels>
DKMP_INLINE Wide<channels> load_wide(const Array& array, Offset at) {
  Wide<channels> wide;
  const Pack<Scalar, channels> values = load_pack<channels>(array.values + at);
#if DKMP_DUAL
  Pack<Scalar, channels> direction{};
  if (array.direction) direction = load_pack<channels>(array.direction + at);
#pragma unroll
  for (int c = 0; c < channels; ++c) wide.at[c] = {values.at[c], direction.at[c]};
#else
#pragma unroll
  for (int c = 0; c < channels; ++c) wide.at[c] = values.at[c];
#endif
  return wide;
}

// Stores results; `poison` is NaN where the graph is broken, else zero.
template <int channels>
DKMP_INLINE void store_wide(Scalar* to, const Wide<channels>& wide, Scalar poison) {
  Pack<Scalar, channels> pack;
#pragma unroll
  for (int c = 0; c < channels; ++c) pack.at[c] = result(wide.at[c]) + poison;
  store_pack<channels>(to, pack);
}

// A radial filter and, if asked for, its slope with respect to the distance: table rows blended.
template <int channels>
DKMP_INLINE void blend(
    const Array& table, const Edge& g, const EdgeSlopes* slopes, int column, Wide<channels>& filter,
    Wide<channels>* slope) {
  const Offset at = Offset(g.first_row) * kTableStride + column;
  constexpr int at_once = taps_at_once(channels * sizeof(Number));
  filter = {};
  if (slope) *slope = {};
#pragma unroll at_once
  for (int m = 0; m < kTaps; ++m) {
    const Pack<Scalar, channels> row = load_pack<channels>(table.values + at + m * kTableStride);
#pragma unroll
    for (int c = 0; c < channels; ++c) {
      filter.at[c] += g.tap[m] * row.at[c];
      if (slope) slope->at[c] += slopes->tap_slope[m] * row.at[c];
    }
  }
#if DKMP_DUAL
  // Only training asks for a direction of the table itself.
  if (!table.direction) return;
#pragma unroll
  for (int m = 0; m < kTaps; ++m) {
    const Pack<Scalar, channels> row = load_pack<channels>(table.direction + at + m * kTableStride);
#pragma unroll
    for (int c = 0; c < channels; ++c) {
      filter.at[c].t += g.tap[m].v * row.at[c];
      if (slope) slope->at[c].t += slopes->tap_slope[m].v * row.at[c];
    }
  }
#endif
}

// ---- teams -----------------------------------------------------------------------------------------------------

// A block's teams and this thread's place; a team's part [begin, end) of the row's edges.
struct Place {
  int teams, team, thread;
};

template <int warps>
DKMP_INLINE Place find_place() {
  constexpr int threads = warps * kWarp;
  return {int(blockDim.x) / threads, int(threadIdx.x) / threads, int(threadIdx.x) % threads};
}

// Barrier of a team. Teams of several warps use the block's: all of them take the same number of turns.
template <int warps>
DKMP_INLINE void sync_team() {
  if (warps == 1) {
    __syncwarp();
  } else {
    __syncthreads();
  }
}

struct Part {
  int begin, end, stop;  // stop: where the turns end, the same number for all teams that share barriers
};

template <int warps>
DKMP_INLINE Part part_of(const int* starts, Offset row, const Place& place) {
  const int begin = starts[row], edges = starts[row + 1] - begin;
  // Edges times teams may pass 2^31.
  const auto cut = [&](int team) { return begin + int(Offset(edges) * team / place.teams); };
  const int from = cut(place.team), to = cut(place.team + 1);
  return {from, to, warps == 1 ? to : from + (edges + place.teams - 1) / place.teams};
}

// What a team works with and, when its edges are done, its part of the row's results.
template <class Shared, int results, int threads, int channels>
union TeamMemory {
  Shared shared;
  Pack<Scalar, channels> parts[results * threads];
};

template <int channels>
DKMP_INLINE Pack<Scalar, channels> pack_results(const Wide<channels>& wide) {
  Pack<Scalar, channels> pack;
#pragma unroll
  for (int c = 0; c < channels; ++c) pack.at[c] = result(wide.at[c]);
  return pack;
}

// Adds the teams' parts in the order of the teams. target(r): the pass' first channel of result r, null to leave out.
template <int results, int threads, int channels, class Memory, class Target>
DKMP_INLINE void add_teams(const Memory* memory, int teams, Scalar poison, const Target& target) {
  for (int at = threadIdx.x; at < results * threads; at += blockDim.x) {
    Scalar* const to = target(at / threads);
    if (!to) continue;
    Pack<Scalar, channels> sum = memory[0].parts[at];
    for (int team = 1; team < teams; ++team) {
      const Pack<Scalar, channels> more = memory[team].parts[at];
#pragma unroll
      for (int c = 0; c < channels; ++c) sum.at[c] += more.at[c];
    }
#pragma unroll
    for (int c = 0; c < channels; ++c) sum.at[c] += poison;
    store_pack<channels>(to + at % threads * channels, sum);
  }
}

// ---- attention -------------------------------------------------------------------------------------------------

DKMP_INLINE Scalar sigmoid(Scalar x) { return Scalar(1) / (Scalar(1) + exponential(-x)); }
#if DKMP_DUAL
DKMP_INLINE Number sigmoid(const Number& x) {
  const Scalar s = sigmoid(x.v);
  return {s, x.t * s * (Scalar(1) - s)};
}
#endif

// Attention silu(q.k.f) of a block's edges, in `score`, and if `gradients` what a change of a score does to the
// result, in `gradient`: (edge, slot), the first slot of each head. Both arrays are the team's shared memory; it calls
// this together, between barriers, and finds the numbers behind the last one. Each lane sums its channels of a head,
// shuffles add the lanes, and where a head is wider than a warp its slots are added in order.
template <int channels, int warps, int passes, int slots, bool gradients>
DKMP_INLINE void weigh_edges(
    const Inputs& x, const Scalar* grad_scalar, const Edge* edges, int count, Offset row, bool row_receives, int pass,
    int thread, Number* score, Number* gradient) {
  constexpr int chunk = kWarp * channels, span = slots / kHeads, lanes = kHeadWidth > chunk ? kWarp : kHeadWidth / channels;
  // A head that other passes share is summed anew in each of them.
  constexpr int pass_heads = span > 1 ? kHeads : kHeads / passes;
  const int lane = thread % kWarp, warp = thread / kWarp;
  for (int part = span > 1 ? 0 : pass; part < (span > 1 ? passes : pass + 1); ++part) {
    const int place = (part * warps + warp) * kWarp + lane, c = place * channels;
    for (int e = 0; e < count; ++e) {
      const Edge& g = edges[e];
      const Offset receiver = row_receives ? row : g.other, sender = row_receives ? g.other : row;
      const Wide<channels> q = load_wide<channels>(x.query, receiver * kWidth + c),
                           k = load_wide<channels>(x.key, sender * kWidth + c);
      Wide<channels> f;
      blend<channels>(x.table, g, nullptr, c, f, nullptr);
      Number sum{};
#pragma unroll
      for (int i = 0; i < channels; ++i) sum += q.at[i] * k.at[i] * f.at[i];
      sum = group_sum<lanes>(sum);
      if (lane % lanes == 0) score[e * slots + place / lanes] = sum;
      if (!gradients) continue;
      const Pack<Scalar, channels> grad = load_pack<channels>(grad_scalar + receiver * kWidth + c);
      const Wide<channels> v = load_wide<channels>(x.value, sender * 3 * kWidth + c);
      blend<channels>(x.table, g, nullptr, kWidth + c, f, nullptr);
      Number grad_sum{};
#pragma unroll
      for (int i = 0; i < channels; ++i) grad_sum += grad.at[i] * (v.at[i] * f.at[i]);
      grad_sum = group_sum<lanes>(grad_sum);
      if (lane % lanes == 0) gradient[e * slots + place / lanes] = grad_sum;
    }
  }
  sync_team<warps>();
  const int first_head = span > 1 ? 0 : pass * pass_heads;
  for (int at = thread; at < count * pass_heads; at += warps * kWarp) {
    const int e = at / pass_heads, slot = e * slots + (first_head + at % pass_heads) * span;
    Number a = score[slot], by_sum{};
    if (gradients) by_sum = gradient[slot];
    for (int s = 1; s < span; ++s) {
      a += score[slot + s];
      if (gradients) by_sum += gradient[slot + s];
    }
    const Number gate = sigmoid(a);
    score[slot] = a * gate;
    if (gradients) gradient[slot] = edges[e].weight * (by_sum * (gate * (Scalar(1) + a * (Scalar(1) - gate))));
  }
  sync_team<warps>();
}
