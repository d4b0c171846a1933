// Inner loops of dilated_message, compiled once per instruction-set level into the namespace DKMP_ISA.
//
// Nothing here includes ATen or standard containers: inline functions compiled for a high level must never be
// the copy that the linker keeps for everyone. Channels are processed one lane vector at a time over all edges of
// a row, so a row's sums stay in registers; numbers that belong to an edge, one lane vector of edges at a time.
// Kernels are templates on plain or dual numbers: the dual instances are directional derivatives, from which the
// double backward is built without a third kernel.
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "cache_line.h"
#include "dilated_message_kernel.h"

namespace dkmp {
namespace DKMP_ISA {
namespace {

#include "dual.h"
#include "lanes.h"
#include "dual_arrays.h"
#include "transpose_sum.h"
#include "prefetch.h"

constexpr int kBlock = 32;  // edges whose geometry is held at once
constexpr int kHarmonics = 8;
constexpr int kTaps = kSplineTaps;

template <class Scalar, bool dual>
struct Arrays {
  Array<Scalar, dual> edge_vector, query, key, value, vector, table;

  Arrays(const MessageInputs<Scalar>& x, const MessageInputs<Scalar>* p)
      : edge_vector{x.edge_vector, p ? p->edge_vector : nullptr},
        query{x.query, p ? p->query : nullptr},
        key{x.key, p ? p->key : nullptr},
        value{x.value, p ? p->value : nullptr},
        vector{x.vector, p ? p->vector : nullptr},
        table{x.table, p ? p->table : nullptr} {}
};

// A smooth function of the distance and its slope.
template <class Wide>
struct Slope {
  Wide value, slope;
};

template <class Scalar, class Wide>
inline Slope<Wide> smootherstep(const Wide& r, Scalar border, Scalar overlap) {
  const Wide zero = r * Scalar(0), one = zero + Scalar(1);
  if (overlap == Scalar(0)) return {choose(plain(r) >= border, one, zero), zero};
  const Wide x = (r - (border - Scalar(0.5) * overlap)) * (Scalar(1) / overlap), left = Scalar(1) - x;
  const auto before = plain(x) <= Scalar(0), beyond = plain(x) >= Scalar(1);
  const Wide value = x * x * x * (Scalar(10) - x * (Scalar(15) - Scalar(6) * x)),
             slope = (Scalar(30) / overlap) * (x * x * left * left);
  return {choose(before, zero, choose(beyond, one, value)), choose(before | beyond, zero, slope)};
}

template <class Scalar, class Wide>
inline Slope<Wide> window(const MessageSetup& setup, const Wide& r) {
  const Scalar cutoff = Scalar(setup.cutoff), lower = Scalar(setup.lower), upper = Scalar(setup.upper),
               overlap = Scalar(setup.overlap);
  const Wide zero = r * Scalar(0), x = r * (Scalar(1) / cutoff);
  const Wide x2 = x * x, x5 = x2 * x2 * x, left = Scalar(1) - x;
  Slope<Wide> w{Scalar(1) - x5 * x * (Scalar(28) - x * (Scalar(48) - Scalar(21) * x)),
                (Scalar(-168) / cutoff) * (x5 * left * left)};
  if (setup.lower > 0) {
    const Slope<Wide> s = smootherstep<Scalar>(r, lower, overlap);
    w = {w.value * s.value, w.slope * s.value + w.value * s.slope};
  }
  if (setup.upper < setup.cutoff) {
    const Slope<Wide> s = smootherstep<Scalar>(r, upper, overlap);
    const Wide falls = Scalar(1) - s.value;
    w = {w.value * falls, w.slope * falls - w.value * s.slope};
  }
  const auto within = plain(x) < Scalar(1);
  return {choose(within, w.value, zero), choose(within, w.slope, zero)};
}

// B-spline weights of a table's rows and their derivatives by the distance: places of an edge's numbers, slopes kTaps
// after their weights. Those of messages are times the window; those of the attention are not.
constexpr int kHarmonic = 0, kMessageTap = kHarmonic + kHarmonics, kAttentionTap = kMessageTap + 2 * kTaps,
              kNumbers = kAttentionTap + 2 * kTaps;

// What the loops over channels need of an edge.
template <class Scalar, bool dual>
struct Edge {
  Array<Scalar, dual> numbers;  // those of neighbouring edges stand in between: a lane vector for each number
  int64_t first_row;            // first of the table's rows that the taps weigh
  int64_t other;

  typename Types<Scalar, dual>::Number operator[](int number) const { return numbers.number(number * kLanes<Scalar>); }
};

// What only the chain rule back to the edge vectors needs, of as many edges as a vector has lanes.
template <class Wide>
struct Direction {
  Wide unit[3], inverse_distance;
};

// Hands keep(m, weight, slope) the uniform B-splines of degree 5 that do not vanish at the fraction s of an interval.
template <class Scalar, class Wide, class Keep>
inline void quintic_taps(const Wide& s, Scalar per_step, const Keep& keep) {
  const Scalar part = Scalar(1) / Scalar(120), slope = per_step / Scalar(24);
  const Wide left = Scalar(1) - s, s4 = s * s * s * s, left4 = left * left * left * left;
  const auto c = [](double number) { return Scalar(number); };
  keep(0, left4 * left * part, left4 * (-slope));
  keep(
      1, (s * (s * (s * (s * (c(5) * s - c(20)) + c(20)) + c(20)) - c(50)) + c(26)) * part,
      (s * (s * (s * (c(5) * s - c(16)) + c(12)) + c(8)) - c(10)) * slope);
  keep(
      2, (s * s * (s * s * (c(30) - c(10) * s) - c(60)) + c(66)) * part,
      s * (s * s * (c(24) - c(10) * s) - c(24)) * slope);
  keep(
      3, (s * (s * (s * (s * (c(10) * s - c(20)) - c(20)) + c(20)) + c(50)) + c(26)) * part,
      (s * (s * (s * (c(10) * s - c(16)) - c(12)) + c(8)) + c(10)) * slope);
  keep(
      4, (s * (s * (s * (s * (c(5) - c(5) * s) + c(10)) + c(10)) + c(5)) + c(1)) * part,
      (s * (s * (s * (c(4) - c(5) * s) + c(6)) + c(4)) + c(1)) * slope);
  keep(5, s4 * s * part, s4 * slope);
}

// The same of degree 3. The last two taps, of rows that the caller has added, are zero.
template <class Scalar, class Wide, class Keep>
inline void cubic_taps(const Wide& s, Scalar per_step, const Keep& keep) {
  const Wide left = Scalar(1) - s, zero = s * Scalar(0);
  const Scalar sixth = Scalar(1) / Scalar(6), half = per_step * Scalar(0.5);
  keep(0, left * left * left * sixth, left * left * (-half));
  keep(1, (s * s * (Scalar(3) * s - Scalar(6)) + Scalar(4)) * sixth, s * (Scalar(3) * s - Scalar(4)) * half);
  keep(
      2, (s * (s * (Scalar(3) - Scalar(3) * s) + Scalar(3)) + Scalar(1)) * sixth,
      (s * (Scalar(2) - Scalar(3) * s) + Scalar(1)) * half);
  keep(3, s * s * s * sixth, s * s * half);
  keep(4, zero, zero);
  keep(5, zero, zero);
}

// Everything about the edges of one block that depends on their vectors alone, computed one lane vector of edges at a
// time.
template <class Scalar, bool dual>
struct Geometry {
  using Number = typename Types<Scalar, dual>::Number;
  using Wide = typename Types<Scalar, dual>::Wide;
  static constexpr int lanes = kLanes<Scalar>;
  static_assert(kBlock % lanes == 0, "blocks are whole lane vectors of edges");
  int64_t index[kBlock], first_row[kBlock];
  int32_t other[kBlock];
  Scalar values[kBlock / lanes][kNumbers][lanes], tangents[dual ? kBlock / lanes : 1][kNumbers][lanes];
  Direction<Wide> directions[kBlock / lanes];

  Edge<Scalar, dual> operator[](int e) const {
    const int group = e / lanes, lane = e % lanes;
    return {{&values[group][0][lane], &tangents[dual ? group : 0][0][lane]}, first_row[e], other[e]};
  }

  // `slopes`: whether derivatives of the taps are needed.
  template <bool slopes>
  void set(
      const MessageSetup& setup, const Array<Scalar, dual>& edge_vector, const EdgeRows& rows, int64_t begin,
      int count) {
    for (int e = 0; e < count; ++e) {
      index[e] = rows.edge[begin + e];
      other[e] = rows.other[begin + e];
    }
    for (int first = 0; first < count; first += lanes) {
      const int here = count - first < lanes ? count - first : lanes;
      // The lanes of no edge hold zero vectors, which are valid.
      Scalar of_edges[3][lanes] = {}, their_tangents[3][lanes] = {};
      for (int e = 0; e < here; ++e)
        for (int k = 0; k < 3; ++k) {
          const Number number = edge_vector.number(3 * index[first + e] + k);
          of_edges[k][e] = plain(number);
          if constexpr (dual) their_tangents[k][e] = number.t;
        }
      Wide x[3];
      for (int k = 0; k < 3; ++k) x[k] = Buffer<Scalar, dual>{of_edges[k], their_tangents[k]}.wide(0);
      set_lanes<slopes>(setup, x, first, here);
    }
  }

 private:
  template <bool slopes>
  void set_lanes(const MessageSetup& setup, const Wide* x, int first, int here) {
    const Wide squared = x[0] * x[0] + x[1] * x[1] + x[2] * x[2], zero = squared * Scalar(0);
    // Coincident atoms have no direction: distance, unit vector and their gradients are zero.
    const auto apart = plain(squared) != Scalar(0);
    const Wide root = root_lane<Scalar>(squared), r = choose(apart, root, zero),
               inverse = choose(apart, reciprocal_lane<Scalar>(root), zero);
    const Wide ux = x[0] * inverse, uy = x[1] * inverse, uz = x[2] * inverse;
    const int group = first / lanes;
    directions[group] = {{ux, uy, uz}, inverse};
    const Buffer<Scalar, dual> numbers{values[group][0], tangents[dual ? group : 0][0]};
    const auto keep = [&](int number, const Wide& wide) { numbers.set_wide(number * lanes, wide); };
    const Scalar root3 = Scalar(1.7320508075688772935);
    keep(kHarmonic, ux), keep(kHarmonic + 1, uy), keep(kHarmonic + 2, uz);
    keep(kHarmonic + 3, root3 * (ux * uz));
    keep(kHarmonic + 4, root3 * (ux * uy));
    keep(kHarmonic + 5, uy * uy - Scalar(0.5) * (ux * ux + uz * uz));
    keep(kHarmonic + 6, root3 * (uy * uz));
    keep(kHarmonic + 7, (Scalar(0.5) * root3) * (uz * uz - ux * ux));
    const Slope<Wide> w = window<Scalar>(setup, r);
    set_taps(setup, r, first, here, [&](int m, const Wide& tap, const Wide& slope) {
      keep(kMessageTap + m, w.value * tap);
      if (slopes) keep(kMessageTap + kTaps + m, w.slope * tap + w.value * slope);
      if (!setup.attention) return;
      keep(kAttentionTap + m, tap);
      if (slopes) keep(kAttentionTap + kTaps + m, slope);
    });
  }

  template <class Keep>
  void set_taps(const MessageSetup& setup, const Wide& r, int first, int here, const Keep& keep) {
    const double start = setup.lower - 0.5 * setup.overlap > 0 ? setup.lower - 0.5 * setup.overlap : 0.0;
    const double stop =
        setup.upper + 0.5 * setup.overlap < setup.cutoff ? setup.upper + 0.5 * setup.overlap : setup.cutoff;
    const Scalar per_step = Scalar(double(setup.num_intervals) / (stop - start));
    const Wide x = (r - Scalar(start)) * per_step;
    // Compared before converting: a NaN or huge distance must not become an index.
    const Lane<Scalar> zero{}, last = zero + Scalar(setup.num_intervals - 1);
    const Lane<Scalar> inside = plain(x) < last ? plain(x) : last, at = plain(x) > zero ? inside : zero;
    Lane<Scalar> cell;
    for (int e = 0; e < lanes; ++e) {
      const int64_t row = int64_t(at[e]);
      cell[e] = Scalar(row);
      if (e < here) first_row[first + e] = row;
    }
    const Wide s = x - cell;
    if (setup.degree == 3) {
      cubic_taps<Scalar>(s, per_step, keep);
    } else {
      quintic_taps<Scalar>(s, per_step, keep);
    }
  }
};

// Chain rule from distance and harmonics back to the vectors of a lane vector of edges.
template <class Scalar, class Wide>
inline void edge_gradient(
    const Direction<Wide>& g, const Wide& by_distance, const Wide* h, Wide* out) {
  const Scalar root3 = Scalar(1.7320508075688772935);
  const Wide ux = g.unit[0], uy = g.unit[1], uz = g.unit[2];
  const Wide gx = h[0] + root3 * (h[3] * uz + h[4] * uy) - (h[5] + root3 * h[7]) * ux;
  const Wide gy = h[1] + root3 * (h[4] * ux + h[6] * uz) + Scalar(2) * (h[5] * uy);
  const Wide gz = h[2] + root3 * (h[3] * ux + h[6] * uy) + (root3 * h[7] - h[5]) * uz;
  const Wide along = by_distance - (gx * ux + gy * uy + gz * uz) * g.inverse_distance;
  out[0] = gx * g.inverse_distance + along * ux;
  out[1] = gy * g.inverse_distance + along * uy;
  out[2] = gz * g.inverse_distance + along * uz;
}

// Of all four filters of a lane vector of channels: what one row of the table holds.
template <class Scalar>
constexpr int64_t kRow = 4 * kLanes<Scalar>;

// Where a slice of the table holds a filter (0 of the attention, 1 to 3 of the messages) in the first row of an edge.
template <class Scalar, bool dual>
inline int64_t filter_at(const MessageSetup& setup, const Edge<Scalar, dual>& g, int64_t c, int filter) {
  const int64_t num_rows = setup.num_intervals + kTaps - 1;
  return c * 4 * num_rows + g.first_row * kRow<Scalar> + filter * kLanes<Scalar>;
}

// Radial filter at place `at` of the table: rows blended with the edge's numbers from `tap` on.
// Always inline, as the next one: a call would put all vector registers, which hold the caller's sums, into memory.
template <class Scalar, bool dual>
__attribute__((always_inline)) inline typename Types<Scalar, dual>::Wide blend(
    const Array<Scalar, dual>& table, const Edge<Scalar, dual>& g, int tap, int64_t at) {
  if constexpr (!dual) {
    Lane<Scalar> sum = g[tap] * load(table.values + at);
#pragma GCC unroll 8
    for (int m = 1; m < kTaps; ++m) sum += g[tap + m] * load(table.values + at + m * kRow<Scalar>);
    return sum;
  } else {
    Dual<Lane<Scalar>> sum{Lane<Scalar>{}, Lane<Scalar>{}};
    for (int m = 0; m < kTaps; ++m) {
      const Lane<Scalar> row = load(table.values + at + m * kRow<Scalar>);
      const Dual<Scalar> weight = g[tap + m];
      sum.v += weight.v * row;
      sum.t += weight.t * row;
    }
    // Only training asks for a direction of the table itself.
    if (table.direction)
      for (int m = 0; m < kTaps; ++m) sum.t += g[tap + m].v * load(table.direction + at + m * kRow<Scalar>);
    return sum;
  }
}

// A filter and its slope from the same rows.
template <class Wide>
struct Filter {
  Wide value, slope;
};

template <class Scalar, bool dual, class Wide = typename Types<Scalar, dual>::Wide>
__attribute__((always_inline)) inline Filter<Wide> blend_with_slope(
    const Array<Scalar, dual>& table, const Edge<Scalar, dual>& g, int tap, int64_t at) {
  if constexpr (!dual) {
    Filter<Wide> sum{Wide{}, Wide{}};
#pragma GCC unroll 8
    for (int m = 0; m < kTaps; ++m) {
      const Lane<Scalar> row = load(table.values + at + m * kRow<Scalar>);
      sum.value += g[tap + m] * row;
      sum.slope += g[tap + kTaps + m] * row;
    }
    return sum;
  } else {
    return {blend<Scalar, dual>(table, g, tap, at), blend<Scalar, dual>(table, g, tap + kTaps, at)};
  }
}

// What a kernel needs of the attention while it works on one block of edges. Numbers of edge e and head h are at
// e * num_heads + h. Where a lane vector spans several heads they are also laid out for every channel.
template <class Scalar, bool dual>
struct Attention {
  using Wide = typename Types<Scalar, dual>::Wide;
  static constexpr int lanes = kLanes<Scalar>;
  const int64_t num_heads, head_width, width;
  const bool whole;  // each lane vector lies within one head
  const int64_t numbers, channels;
  int32_t *edge_of, *first_of;  // of each number, its edge and the first channel of its head
  Buffer<Scalar, dual> score, gate, weight, sum, gradient, weight_of_channel, gradient_of_channel, products;

  Attention(const MessageSetup& setup, Scalar* memory)
      : num_heads(setup.num_heads),
        head_width(setup.head_width),
        width(setup.width),
        whole(setup.head_width % lanes == 0),
        numbers(numbers_of(setup)),
        channels(setup.width + lanes) {
    edge_of = reinterpret_cast<int32_t*>(memory);
    first_of = reinterpret_cast<int32_t*>(memory + numbers);
    for (int64_t at = 0; at < kBlock * num_heads; ++at) {
      edge_of[at] = int32_t(at / num_heads);
      first_of[at] = int32_t(at % num_heads * head_width);
    }
    memory += 2 * numbers;
    for (Buffer<Scalar, dual>* buffer : {&score, &gate, &weight, &sum, &gradient})
      memory = cut(memory, numbers, *buffer);
    if (whole) return;
    for (Buffer<Scalar, dual>* buffer : {&products, &weight_of_channel, &gradient_of_channel})
      memory = cut(memory, kBlock * channels, *buffer);
  }
  static int64_t size(const MessageSetup& setup) {
    const int64_t of_channels = setup.head_width % lanes == 0 ? 0 : 3 * kBlock * (setup.width + lanes);
    return 2 * numbers_of(setup) + 2 * (5 * numbers_of(setup) + of_channels);
  }
  static int64_t numbers_of(const MessageSetup& setup) { return kBlock * setup.num_heads + lanes; }

  // Sums products(e, c), lane vectors, over the channels of each head of `count` edges.
  template <class Products>
  void sum_heads(int count, const Buffer<Scalar, dual>& to, const Products& of_channels) const {
    if (!whole)
      for (int e = 0; e < count; ++e)
        for (int64_t c = 0; c < width; c += lanes) products.set_wide(e * channels + c, of_channels(e, c));
    const auto sum_head = [&](int e, int64_t first) __attribute__((always_inline)) {
      Wide sum{};
      if (whole) {
        for (int64_t c = first; c < first + head_width; c += lanes) sum += of_channels(e, c);
        return sum;
      }
      const int64_t from = e * channels + first;
      int64_t c = 0;
      for (; c + lanes <= head_width; c += lanes) sum += products.wide(from + c);
      // Reads on beyond the head, and takes what belongs to it.
      if (c < head_width) sum += first_lanes<Scalar>(products.wide(from + c), head_width - c);
      return sum;
    };
    // Beyond the last edge stand sums that nobody reads.
    for (int64_t at = 0; at < count * num_heads; at += lanes)
      to.set_wide(at, transpose_sum<Scalar>([&](int number) __attribute__((always_inline)) {
                    return sum_head(edge_of[at + number], first_of[at + number]);
                  }));
  }
  // The gates: sigmoids of the scores.
  void open_gates(int count) const {
    for (int64_t at = 0; at < count * num_heads; at += lanes) {
      const Lane<Scalar> s = sigmoid_lane<Scalar>(load(score.values + at));
      store<Scalar>(gate.values + at, s);
      if (dual) store<Scalar>(gate.tangents + at, load(score.tangents + at) * s * (Scalar(1) - s));
    }
  }
  // The weights silu(score) of the scalar messages, also laid out for every channel.
  void set_weights(int count) const {
    for (int64_t at = 0; at < count * num_heads; at += lanes) weight.set_wide(at, score.wide(at) * gate.wide(at));
    lay_out(count, weight, weight_of_channel);
  }
  void lay_out(int count, const Buffer<Scalar, dual>& numbers_of_heads, const Buffer<Scalar, dual>& to) const {
    if (whole) return;
    // A head's last store reaches into the next head, whose own stores follow.
    for (int e = 0; e < count; ++e)
      for (int64_t head = 0; head < num_heads; ++head) {
        const Wide number = spread<Scalar>(numbers_of_heads.number(e * num_heads + head));
        for (int64_t c = 0; c < head_width; c += lanes) to.set_wide(e * channels + head * head_width + c, number);
      }
  }
  // Of channels c.. of edge e; `head` is c / head_width.
  Wide weight_at(int e, int64_t head, int64_t c) const {
    return whole ? spread<Scalar>(weight.number(e * num_heads + head)) : weight_of_channel.wide(e * channels + c);
  }
  Wide gradient_at(int e, int64_t head, int64_t c) const {
    return whole ? spread<Scalar>(gradient.number(e * num_heads + head)) : gradient_of_channel.wide(e * channels + c);
  }

 private:
  static Scalar* cut(Scalar* memory, int64_t size, Buffer<Scalar, dual>& buffer) {
    buffer = {memory, memory + size};
    return memory + 2 * size;
  }
};

// kWidth: the number of channels when known at compile time, which turns address arithmetic into constants; else 0.
// simple: whether there are spherical features to carry, no attention and no gradient of the table, as in all layers
// but the first of a simulation.

// The messages of a block of edges to receiver i, in `together` lane vectors of channels from c on.
template <class Scalar, bool dual, int kWidth, bool simple, int together>
inline void sum_messages(
    const MessageSetup& setup, const Arrays<Scalar, dual>& x, const Geometry<Scalar, dual>& geometry,
    const Attention<Scalar, dual>& attention, int64_t i, int64_t c, int count, bool add, Scalar* scalar,
    Scalar* vector) {
  using Wide = typename Types<Scalar, dual>::Wide;
  constexpr int lanes = kLanes<Scalar>;
  const int64_t d = kWidth ? kWidth : setup.width;
  const bool attends = !simple && setup.attention, carries = simple || setup.carries_vector;
  Wide to_scalar[together] = {}, to_vector[together][kHarmonics] = {};
  for (int e = 0; e < count; ++e) {
    const Edge<Scalar, dual> g = geometry[e];
#pragma GCC unroll 2
    for (int k = 0; k < together; ++k) {
      const int64_t here = c + k * lanes, filters = filter_at(setup, g, here, 0), sent = g.other * 3 * d + here;
      const Wide f1 = blend<Scalar, dual>(x.table, g, kMessageTap, filters + lanes);
      const Wide f3 = blend<Scalar, dual>(x.table, g, kMessageTap, filters + 3 * lanes);
      const Wide message = x.value.wide(sent) * f1, turned = x.value.wide(sent + 2 * d) * f3;
      to_scalar[k] += attends ? attention.weight_at(e, here / setup.head_width, here) * message : message;
#pragma GCC unroll 8
      for (int m = 0; m < kHarmonics; ++m) to_vector[k][m] += g[kHarmonic + m] * turned;
      if (!carries) continue;
      const Wide f2 = blend<Scalar, dual>(x.table, g, kMessageTap, filters + 2 * lanes);
      const Wide carried = x.value.wide(sent + d) * f2;
      const Array<Scalar, dual> vector_sent = x.vector.from(g.other * kHarmonics * d + here);
#pragma GCC unroll 8
      for (int m = 0; m < kHarmonics; ++m) to_vector[k][m] += vector_sent.wide(m * d) * carried;
    }
  }
#pragma GCC unroll 2
  for (int k = 0; k < together; ++k) {
    put<Scalar>(scalar + i * d + c + k * lanes, to_scalar[k], add);
#pragma GCC unroll 8
    for (int m = 0; m < kHarmonics; ++m)
      put<Scalar>(vector + (i * kHarmonics + m) * d + c + k * lanes, to_vector[k][m], add);
  }
}

template <class Scalar, bool dual, int kWidth, bool simple>
void forward(
    const MessageSetup& setup, const EdgeRows& rows, const MessageInputs<Scalar>& inputs,
    const MessageInputs<Scalar>* directions, Scalar* scalar, Scalar* vector, Scalar* workspace, int64_t begin,
    int64_t end) {
  constexpr int lanes = kLanes<Scalar>;
  const Arrays<Scalar, dual> x(inputs, directions);
  const int64_t d = kWidth ? kWidth : setup.width;
  const Attention<Scalar, dual> attention(setup, workspace);
  Geometry<Scalar, dual> geometry{};  // zero: indices of a first block that is not full must be valid ones
  for (int64_t i = begin; i < end; ++i) {
    if (rows.start[i] == rows.start[i + 1]) {
      std::memset(scalar + i * d, 0, d * sizeof(Scalar));
      std::memset(vector + i * kHarmonics * d, 0, kHarmonics * d * sizeof(Scalar));
    }
    for (int64_t b = rows.start[i]; b < rows.start[i + 1]; b += kBlock) {
      const bool add = b > rows.start[i];
      const int count = int(rows.start[i + 1] - b < kBlock ? rows.start[i + 1] - b : kBlock);
      geometry.template set<false>(setup, x.edge_vector, rows, b, count);
      if (!simple && setup.attention) {
        attention.sum_heads(count, attention.score, [&](int e, int64_t c) __attribute__((always_inline)) {
          const Edge<Scalar, dual> g = geometry[e];
          return x.query.wide(i * d + c) * x.key.wide(g.other * d + c) *
                 blend<Scalar, dual>(x.table, g, kAttentionTap, filter_at(setup, g, c, 0));
        });
        attention.open_gates(count);
        attention.set_weights(count);
      }
      int64_t c = 0;
      // Two lane vectors of channels share what an edge has of its own.
      if constexpr (!dual)
        for (; c + 2 * lanes <= d; c += 2 * lanes)
          sum_messages<Scalar, dual, kWidth, simple, 2>(
              setup, x, geometry, attention, i, c, count, add, scalar, vector);
      for (; c < d; c += lanes)
        sum_messages<Scalar, dual, kWidth, simple, 1>(setup, x, geometry, attention, i, c, count, add, scalar, vector);
    }
  }
}

// Per-edge sums over channels, kept one lane vector wide until all channels are done.
template <class Wide>
struct EdgeSums {
  Wide by_distance, by_harmonic[kHarmonics];
};

// State of one sender's block of edges, shared by the steps of the backward kernel.
template <class Scalar, bool dual>
struct BackwardBlock {
  using Wide = typename Types<Scalar, dual>::Wide;
  int count;
  Geometry<Scalar, dual> geometry;
  EdgeSums<Wide> sums[kBlock];
};

// Gradients of the vectors of edges first.. of a block, as many as a vector has lanes.
template <class Scalar, bool dual>
inline void put_edge_gradients(const BackwardBlock<Scalar, dual>& block, int first, Scalar* edge_vector) {
  using Wide = typename Types<Scalar, dual>::Wide;
  constexpr int lanes = kLanes<Scalar>;
  // Sums of edges beyond the last one are left over from other blocks, and not read.
  const EdgeSums<Wide>* sums = block.sums + first;
  Wide by_harmonic[kHarmonics], gradient[3];
  for (int m = 0; m < kHarmonics; ++m)
    by_harmonic[m] = transpose_sum<Scalar>([&](int e) { return sums[e].by_harmonic[m]; });
  edge_gradient<Scalar>(
      block.geometry.directions[first / lanes], transpose_sum<Scalar>([&](int e) { return sums[e].by_distance; }),
      by_harmonic, gradient);
  for (int e = 0; e < lanes && first + e < block.count; ++e)
    for (int k = 0; k < 3; ++k) edge_vector[3 * block.geometry.index[first + e] + k] = result_at(gradient[k], e);
}

// Recomputes the attention and the gradients of its scores.
template <class Scalar, bool dual, int kWidth>
inline void differentiate_scores(
    const MessageSetup& setup, const Arrays<Scalar, dual>& x, const Scalar* grad_scalar, int64_t sender,
    const BackwardBlock<Scalar, dual>& block, const Attention<Scalar, dual>& attention, Scalar* score_gradient) {
  using Wide = typename Types<Scalar, dual>::Wide;
  const int64_t d = kWidth ? kWidth : setup.width;
  attention.sum_heads(block.count, attention.score, [&](int e, int64_t c) __attribute__((always_inline)) {
    const auto g = block.geometry[e];
    return x.query.wide(g.other * d + c) * x.key.wide(sender * d + c) *
           blend<Scalar, dual>(x.table, g, kAttentionTap, filter_at(setup, g, c, 0));
  });
  attention.sum_heads(block.count, attention.sum, [&](int e, int64_t c) __attribute__((always_inline)) {
    const auto g = block.geometry[e];
    return load(grad_scalar + g.other * d + c) *
           (x.value.wide(sender * 3 * d + c) *
            blend<Scalar, dual>(x.table, g, kMessageTap, filter_at(setup, g, c, 1)));
  });
  attention.open_gates(block.count);
  attention.set_weights(block.count);
  for (int64_t at = 0; at < block.count * setup.num_heads; at += kLanes<Scalar>) {
    const Wide a = attention.score.wide(at), sigmoid = attention.gate.wide(at);
    const Wide slope = sigmoid * (Scalar(1) + a * (Scalar(1) - sigmoid));
    attention.gradient.set_wide(at, attention.sum.wide(at) * slope);
  }
  for (int e = 0; e < block.count; ++e) {
    Scalar* out = score_gradient + block.geometry.index[e] * 2 * setup.num_heads;
    const int64_t first = e * setup.num_heads;
    for (int64_t head = 0; head < setup.num_heads; ++head) {
      out[head] = attention.gradient.values[first + head];
      if (dual) out[setup.num_heads + head] = attention.gradient.tangents[first + head];
    }
  }
  attention.lay_out(block.count, attention.gradient, attention.gradient_of_channel);
}

// One lane vector of channels of one sender over a block of its edges.
template <class Scalar, bool dual, int kWidth, bool simple>
inline void differentiate_channels(
    const MessageSetup& setup, const Arrays<Scalar, dual>& x, const Scalar* grad_scalar, const Scalar* grad_vector,
    int64_t sender, int64_t c, bool add, BackwardBlock<Scalar, dual>& block,
    const Attention<Scalar, dual>& attention, Scalar* key, Scalar* value, Scalar* vector, Scalar* table) {
  using Wide = typename Types<Scalar, dual>::Wide;
  using Plain = Lane<Scalar>;
  constexpr int lanes = kLanes<Scalar>;
  const int64_t d = kWidth ? kWidth : setup.width, sent = sender * 3 * d + c;
  const bool attends = !simple && setup.attention, carries = simple || setup.carries_vector;
  const int64_t from = sender * kHarmonics * d + c, head = c / setup.head_width;
  const Array<Scalar, dual> vector_sent = x.vector.from(carries ? from : 0);
  const Wide v0 = x.value.wide(sent), v1 = x.value.wide(sent + d), v2 = x.value.wide(sent + 2 * d);
  Wide to_key{}, to_v0{}, to_v1{}, to_v2{}, to_vector[kHarmonics] = {};
  for (int e = 0; e < block.count; ++e) {
    const Edge<Scalar, dual> g = block.geometry[e];
    EdgeSums<Wide>& sums = block.sums[e];
    const int64_t filters = filter_at(setup, g, c, 0);
    const Scalar* grad_received = grad_vector + g.other * kHarmonics * d + c;
    const Filter<Wide> f1 = blend_with_slope<Scalar, dual>(x.table, g, kMessageTap, filters + lanes);
    const Filter<Wide> f3 = blend_with_slope<Scalar, dual>(x.table, g, kMessageTap, filters + 3 * lanes);
    const Plain grad = load(grad_scalar + g.other * d + c);
    const Wide turned = v2 * f3.value;
    Wide by_f[4] = {Wide{}, grad * v0, Wide{}, Wide{}};
    if (attends) {
      const Wide attended = attention.weight_at(e, head, c);
      by_f[1] = attended * by_f[1];
      to_v0 += attended * (grad * f1.value);
    } else {
      to_v0 += grad * f1.value;
    }
    Wide along{}, projected{}, by_distance = by_f[1] * f1.slope;
    if (carries) {
      const Filter<Wide> f2 = blend_with_slope<Scalar, dual>(x.table, g, kMessageTap, filters + 2 * lanes);
      const Wide carried = v1 * f2.value;
#pragma GCC unroll 8
      for (int m = 0; m < kHarmonics; ++m) {
        const Plain grad_m = load(grad_received + m * d);
        along += grad_m * vector_sent.wide(m * d);
        projected += g[kHarmonic + m] * grad_m;
        to_vector[m] += grad_m * carried;
        sums.by_harmonic[m] += grad_m * turned;
      }
      by_f[2] = v1 * along;
      by_distance += by_f[2] * f2.slope;
      to_v1 += along * f2.value;
    } else {
#pragma GCC unroll 8
      for (int m = 0; m < kHarmonics; ++m) {
        const Plain grad_m = load(grad_received + m * d);
        projected += g[kHarmonic + m] * grad_m;
        sums.by_harmonic[m] += grad_m * turned;
      }
    }
    by_f[3] = v2 * projected;
    by_distance += by_f[3] * f3.slope;
    to_v2 += projected * f3.value;
    if (attends) {
      const Wide query = attention.gradient_at(e, head, c) * x.query.wide(g.other * d + c);
      by_f[0] = query * x.key.wide(sender * d + c);
      const Filter<Wide> f0 = blend_with_slope<Scalar, dual>(x.table, g, kAttentionTap, filters);
      by_distance += by_f[0] * f0.slope;
      to_key += query * f0.value;
    }
    sums.by_distance += by_distance;
    if (!simple && table)
      for (int m = 0; m < kTaps; ++m) {
        Scalar* const to = table + filters + m * kRow<Scalar>;
        if (attends) put<Scalar>(to, g[kAttentionTap + m] * by_f[0], true);
        for (int f = 1; f < 4; ++f) put<Scalar>(to + f * lanes, g[kMessageTap + m] * by_f[f], true);
      }
  }
  if (attends) put<Scalar>(key + sender * d + c, to_key, add);
  put<Scalar>(value + sent, to_v0, add);
  put<Scalar>(value + sent + d, to_v1, add);
  put<Scalar>(value + sent + 2 * d, to_v2, add);
  if (carries)
#pragma GCC unroll 8
    for (int m = 0; m < kHarmonics; ++m) put<Scalar>(vector + from + m * d, to_vector[m], add);
}

template <class Scalar, bool dual, int kWidth, bool simple>
void backward(
    const MessageSetup& setup, const EdgeRows& rows, const MessageInputs<Scalar>& inputs,
    const MessageInputs<Scalar>* directions, const Scalar* grad_scalar, const Scalar* grad_vector,
    Scalar* edge_vector, Scalar* key, Scalar* value, Scalar* vector, Scalar* table, Scalar* score_gradient,
    Scalar* workspace, int64_t begin, int64_t end) {
  constexpr int lanes = kLanes<Scalar>;
  const Arrays<Scalar, dual> x(inputs, directions);
  const bool attends = !simple && setup.attention;
  const Attention<Scalar, dual> attention(setup, workspace);
  BackwardBlock<Scalar, dual> block{};
  for (int64_t j = begin; j < end; ++j) {
    if (j + 1 < end) {
      prefetch(inputs.value + (j + 1) * 3 * setup.width, 3 * setup.width);
      if (setup.carries_vector) prefetch(inputs.vector + (j + 1) * kHarmonics * setup.width, kHarmonics * setup.width);
    }
    if (rows.start[j] == rows.start[j + 1]) {
      if (attends) std::memset(key + j * setup.width, 0, setup.width * sizeof(Scalar));
      std::memset(value + j * 3 * setup.width, 0, 3 * setup.width * sizeof(Scalar));
      if (setup.carries_vector)
        std::memset(vector + j * kHarmonics * setup.width, 0, kHarmonics * setup.width * sizeof(Scalar));
    }
    for (int64_t b = rows.start[j]; b < rows.start[j + 1]; b += kBlock) {
      const bool add = b > rows.start[j];
      block.count = int(rows.start[j + 1] - b < kBlock ? rows.start[j + 1] - b : kBlock);
      std::memset(static_cast<void*>(block.sums), 0, block.count * sizeof(block.sums[0]));
      block.geometry.template set<true>(setup, x.edge_vector, rows, b, block.count);
      if (attends)
        differentiate_scores<Scalar, dual, kWidth>(setup, x, grad_scalar, j, block, attention, score_gradient);
      for (int64_t c = 0; c < setup.width; c += kLanes<Scalar>)
        differentiate_channels<Scalar, dual, kWidth, simple>(
            setup, x, grad_scalar, grad_vector, j, c, add, block, attention, key, value, vector, table);
      for (int first = 0; first < block.count; first += lanes) put_edge_gradients(block, first, edge_vector);
    }
  }
}

template <class Scalar, bool dual, int kWidth>
void query_gradient(
    const MessageSetup& setup, const EdgeRows& rows, const MessageInputs<Scalar>& inputs,
    const MessageInputs<Scalar>* directions, const Scalar* score_gradient, Scalar* query, Scalar* workspace,
    int64_t begin, int64_t end) {
  using Wide = typename Types<Scalar, dual>::Wide;
  const Arrays<Scalar, dual> x(inputs, directions);
  const int64_t d = kWidth ? kWidth : setup.width;
  const Attention<Scalar, dual> attention(setup, workspace);
  Geometry<Scalar, dual> geometry{};
  for (int64_t i = begin; i < end; ++i) {
    if (rows.start[i] == rows.start[i + 1]) std::memset(query + i * d, 0, d * sizeof(Scalar));
    for (int64_t b = rows.start[i]; b < rows.start[i + 1]; b += kBlock) {
      const bool add = b > rows.start[i];
      const int count = int(rows.start[i + 1] - b < kBlock ? rows.start[i + 1] - b : kBlock);
      geometry.template set<false>(setup, x.edge_vector, rows, b, count);
      for (int e = 0; e < count; ++e) {
        const Scalar* by = score_gradient + rows.edge[b + e] * 2 * setup.num_heads;
        const Array<Scalar, dual> by_score{by, by + setup.num_heads};
        for (int64_t head = 0; head < setup.num_heads; ++head)
          attention.gradient.set(e * setup.num_heads + head, by_score.number(head));
      }
      attention.lay_out(count, attention.gradient, attention.gradient_of_channel);
      for (int64_t c = 0; c < d; c += kLanes<Scalar>) {
        const int64_t head = c / setup.head_width;
        Wide sum{};
        for (int e = 0; e < count; ++e) {
          const Edge<Scalar, dual> g = geometry[e];
          sum += attention.gradient_at(e, head, c) *
                 (x.key.wide(g.other * d + c) *
                  blend<Scalar, dual>(x.table, g, kAttentionTap, filter_at(setup, g, c, 0)));
        }
        put<Scalar>(query + i * d + c, sum, add);
      }
    }
  }
}

// Calls run(width) with the width as a constant where an instance for it exists.
template <class Run>
inline void with_width(int64_t width, const Run& run) {
#if DKMP_LANE_BYTES > 16
  if (width == 128) return run(std::integral_constant<int, 128>());
  if (width == 64) return run(std::integral_constant<int, 64>());
#endif
  run(std::integral_constant<int, 0>());
}

// Each entry chooses the instance by the width and by whether directions are given.
template <class Scalar>
void forward_entry(
    const MessageSetup& setup, const EdgeRows& rows, const MessageInputs<Scalar>& inputs,
    const MessageInputs<Scalar>* directions, Scalar* scalar, Scalar* vector, Scalar* workspace,
    int64_t begin, int64_t end) {
  with_width(setup.width, [&](auto width) {
    const bool simple = !setup.attention && setup.carries_vector;
    (directions ? forward<Scalar, true, width(), false>
     : simple   ? forward<Scalar, false, width(), true>
                : forward<Scalar, false, width(), false>)(
        setup, rows, inputs, directions, scalar, vector, workspace, begin, end);
  });
}

template <class Scalar>
void backward_entry(
    const MessageSetup& setup, const EdgeRows& rows, const MessageInputs<Scalar>& inputs,
    const MessageInputs<Scalar>* directions, const Scalar* grad_scalar, const Scalar* grad_vector,
    Scalar* edge_vector, Scalar* key, Scalar* value, Scalar* vector, Scalar* table, Scalar* score_gradient,
    Scalar* workspace, int64_t begin, int64_t end) {
  with_width(setup.width, [&](auto width) {
    const bool simple = !setup.attention && setup.carries_vector && !table;
    (directions ? backward<Scalar, true, width(), false>
     : simple   ? backward<Scalar, false, width(), true>
                : backward<Scalar, false, width(), false>)(
        setup, rows, inputs, directions, grad_scalar, grad_vector, edge_vector, key, value, vector, table,
        score_gradient, workspace, begin, end);
  });
}

template <class Scalar>
void query_entry(
    const MessageSetup& setup, const EdgeRows& rows, const MessageInputs<Scalar>& inputs,
    const MessageInputs<Scalar>* directions, const Scalar* score_gradient, Scalar* query, Scalar* workspace,
    int64_t begin, int64_t end) {
  with_width(setup.width, [&](auto width) {
    (directions ? query_gradient<Scalar, true, width()> : query_gradient<Scalar, false, width()>)(
        setup, rows, inputs, directions, score_gradient, query, workspace, begin, end);
  });
}

template <class Scalar>
MessageKernels<Scalar> make_kernels() {
  return {kLanes<Scalar>, Attention<Scalar, true>::size, forward_entry<Scalar>, backward_entry<Scalar>, query_entry<Scalar>};
}

}  // namespace

MessageKernels<float> message_kernels_float() { return make_kernels<float>(); }
MessageKernels<double> message_kernels_double() { return make_kernels<double>(); }

}  // namespace DKMP_ISA
}  // namespace dkmp
