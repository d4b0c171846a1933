// dilated_attention on CUDA: softmax attention of every atom over its own list of neighbours.
//
// A warp serves one atom and `kHeads` of its heads: every head has `kHeadLanes` lanes, a lane holds one or more packs
// of 16 bytes of its head (smaller where the width of a head is not a multiple of that). Rows of neighbours are
// read as whole packs side by side; sums over a head are shuffles within its lanes. Weights are never stored.
//
// Bytes moved, with R = H D sizeof(Scalar), times two for every array that has directions:
//   forward    N R (query, result) + N K (R key + R value, from L2 where lists overlap) + N K (index, bias)
//   receivers  the same, and N R of upstream gradients
//   senders    2 N R (key, value) + 2 N R (results) + E (R query + R upstream, L2) + E (edge, bias, statistics)
//
// Macros: DKMP_SCALAR, DKMP_DUAL, DKMP_HEAD_WIDTH (channels per head), DKMP_WIDE_NEIGHBORS (1: indices are 64 bits
// wide). Arrays must be aligned to 16 bytes; N times the groups of heads and N K must be below 2^31.
#include "common.cuh"
#include "dilated_attention_plan.cuh"

#if DKMP_WIDE_NEIGHBORS
typedef long long Index;
#else
typedef int Index;
#endif

DKMP_INLINE constexpr int divided_up(int a, int b) { return (a + b - 1) / b; }

constexpr int kHeadWidth = DKMP_HEAD_WIDTH;
constexpr int kPack = dkmp::attention_pack(kHeadWidth, sizeof(Scalar));
constexpr int kPacksPerHead = kHeadWidth / kPack;
constexpr int kHeadLanes = dkmp::attention_head_lanes(kHeadWidth, sizeof(Scalar));
constexpr int kPacksPerLane = divided_up(kPacksPerHead, kHeadLanes);
constexpr bool kAllLanesUsed = kPacksPerLane * kHeadLanes == kPacksPerHead;
constexpr int kChannels = kPacksPerLane * kPack;  // of a head in one lane
constexpr int kHeads = kWarp / kHeadLanes;        // served by one warp
constexpr int kThreads = dkmp::kAttentionThreads;
// Neighbours whose rows are asked for before the first is used; fewer where rows take many registers.
constexpr int kLaneBytes = kChannels * int(sizeof(Number));
constexpr int kTogether = kLaneBytes <= 16 ? 4 : kLaneBytes <= 32 ? 2 : 1;
// Blocks that a multiprocessor must hold, so that registers are neither too few (spills) nor too many.
constexpr int kBlocks = kLaneBytes <= 16 && sizeof(Scalar) == 4 ? 6 : kLaneBytes <= 32 ? 4 : 2;
static_assert(kHeadWidth >= 1 && kHeadWidth <= dkmp::kWidestHead, "no such head");
constexpr int kStatistics = dkmp::attention_statistics(DKMP_DUAL);

// A lane's part of one head of one atom.
template <class T>
struct Row {
  T at[kChannels];
};

// The atom and the heads of a warp, and what its lanes serve of them.
struct Place {
  Offset atom;
  int lane, lane_of_head, head, group;
  bool exists;  // some head of the last group may not exist; its lanes follow another and write nothing

  DKMP_INLINE Place(int warp, int num_heads) {
    const int groups = divided_up(num_heads, kHeads);
    atom = warp / groups;
    group = warp % groups;
    lane = threadIdx.x % kWarp;
    lane_of_head = lane % kHeadLanes;
    const int wanted = group * kHeads + lane / kHeadLanes;
    exists = wanted < num_heads;
    head = exists ? wanted : num_heads - 1;
  }
};

DKMP_INLINE int warp_of_grid() { return int(blockIdx.x * (kThreads / kWarp) + threadIdx.x / kWarp); }

DKMP_INLINE Row<Scalar> load_plain(const Scalar* from, int lane_of_head) {
  Row<Scalar> row;
#pragma unroll
  for (int p = 0; p < kPacksPerLane; ++p) {
    const int pack = p * kHeadLanes + lane_of_head;
    const bool used = kAllLanesUsed || pack < kPacksPerHead;
    Pack<Scalar, kPack> loaded = {};
    if (used) loaded = load_pack<kPack>(from + pack * kPack);
#pragma unroll
    for (int c = 0; c < kPack; ++c) row.at[p * kPack + c] = loaded.at[c];
  }
  return row;
}

// A lane's part of the head of an atom, with its direction (null = zero).
DKMP_INLINE Row<Number> load_row(
    const Scalar* values, const Scalar* direction, Offset atom, int num_heads, const Place& place) {
  const Offset from = (atom * num_heads + place.head) * kHeadWidth;
  const Row<Scalar> value = load_plain(values + from, place.lane_of_head);
#if DKMP_DUAL
  Row<Scalar> tangent = {};
  if (direction) tangent = load_plain(direction + from, place.lane_of_head);
  Row<Number> row;
#pragma unroll
  for (int c = 0; c < kChannels; ++c) row.at[c] = {value.at[c], tangent.at[c]};
  return row;
#else
  return value;
#endif
}

DKMP_INLINE void store_row(Scalar* to, const Row<Number>& row, int num_heads, const Place& place) {
  if (!place.exists) return;
  to += (place.atom * num_heads + place.head) * kHeadWidth;
#pragma unroll
  for (int p = 0; p < kPacksPerLane; ++p) {
    const int pack = p * kHeadLanes + place.lane_of_head;
    if (!kAllLanesUsed && pack >= kPacksPerHead) continue;
    Pack<Scalar, kPack> stored;
#pragma unroll
    for (int c = 0; c < kPack; ++c) stored.at[c] = result(row.at[p * kPack + c]);
    store_pack<kPack>(to + pack * kPack, stored);
  }
}

// Dot product over a head, in all its lanes; all lanes of the warp must call.
template <class A, class B>
DKMP_INLINE auto head_dot(const Row<A>& a, const Row<B>& b) -> decltype(a.at[0] * b.at[0]) {
  auto sum = a.at[0] * b.at[0];
#pragma unroll
  for (int c = 1; c < kChannels; ++c) sum += a.at[c] * b.at[c];
  return group_sum<kHeadLanes>(sum);
}

template <class A, class B>
DKMP_INLINE void add_scaled(Row<Number>& to, const A& factor, const Row<B>& row) {
#pragma unroll
  for (int c = 0; c < kChannels; ++c) to.at[c] += factor * row.at[c];
}
DKMP_INLINE void shrink(Row<Number>& row, Scalar factor) {
#pragma unroll
  for (int c = 0; c < kChannels; ++c) row.at[c] = row.at[c] * factor;
}

DKMP_INLINE Number from_lane(const Number& x, int lane) {
#if DKMP_DUAL
  return {__shfl_sync(kWholeWarp, x.v, lane), __shfl_sync(kWholeWarp, x.t, lane)};
#else
  return __shfl_sync(kWholeWarp, x, lane);
#endif
}

// The largest logit so far and the sum of exponentials relative to it.
struct Softmax {
  Scalar top;
  Number sum;

  // e^(logit - top); with nothing but logits of -inf so far, zero.
  DKMP_INLINE Number weight(const Number& logit) const { return exponential(logit - shift()); }
  DKMP_INLINE Scalar shift() const { return top == -Scalar(INFINITY) ? Scalar(0) : top; }
  // Makes place for larger logits; what was summed must be multiplied by the result.
  DKMP_INLINE Scalar raise(Scalar logit) {
    const Scalar before = top;
    top = logit > top ? logit : top;
    return exponential(before - shift());
  }
};

// 32 entries of an atom's list at a time: lane l holds the l-th one and its bias.
struct Entries {
  int atom;
  Number bias;
  unsigned present;  // bit l: entry l is a neighbour
  bool wrong;        // some entry names no atom

  DKMP_INLINE Entries(
      const Index* neighbors, const Scalar* biases, const Scalar* to_bias, Offset row, int first, int num_neighbors,
      int num_atoms, int lane) {
    const bool inside = first + lane < num_neighbors;
    const Offset at = row * num_neighbors + first + lane;
    const Index entry = inside ? neighbors[at] : Index(-1);
    const bool names_atom = entry >= 0 && entry < num_atoms;
    atom = names_atom ? int(entry) : 0;
    bias = Number();
    if (biases && names_atom) bias = load_number(biases, to_bias, at);
    present = __ballot_sync(kWholeWarp, names_atom);
    wrong = __ballot_sync(kWholeWarp, !names_atom && entry != -1) != 0;
  }
};

// Visits the neighbours of an atom, kTogether at a time: visit(atoms, biases) with arrays of 1 or kTogether.
template <int together>
struct Tile {
  Offset atom[together];
  Number bias[together];

  DKMP_INLINE Tile(const Entries& entries, unsigned& left) {
#pragma unroll
    for (int u = 0; u < together; ++u) {
      const int from = __ffs(int(left)) - 1;
      left &= left - 1;
      atom[u] = __shfl_sync(kWholeWarp, entries.atom, from);
      bias[u] = from_lane(entries.bias, from);
    }
  }
};

struct Visited {
  bool any, wrong;
};

template <class Visitor>
DKMP_INLINE Visited visit_neighbors(
    Visitor& visitor, const Index* neighbors, const Scalar* biases, const Scalar* to_bias, int num_neighbors,
    int num_atoms, const Place& place) {
  Visited visited = {false, false};
  for (int first = 0; first < num_neighbors; first += kWarp) {
    const Entries entries(neighbors, biases, to_bias, place.atom, first, num_neighbors, num_atoms, place.lane);
    visited.any = visited.any || entries.present;
    visited.wrong = visited.wrong || entries.wrong;
    unsigned left = entries.present;
    while (__popc(left) >= kTogether) visitor.visit(Tile<kTogether>(entries, left));
    if (kTogether > 1)
      while (left) visitor.visit(Tile<1>(entries, left));
  }
  return visited;
}

// The differentiable inputs and their directions, (N, H, D), and (N, K) for the bias; null: absent, or zero.
struct Inputs {
  const Scalar *query, *key, *value, *bias, *to_query, *to_key, *to_value, *to_bias;
};
#define DKMP_INPUTS                                                                                            \
  const Scalar *__restrict__ query, const Scalar *__restrict__ key, const Scalar *__restrict__ value,          \
      const Scalar *__restrict__ bias, const Scalar *__restrict__ to_query, const Scalar *__restrict__ to_key, \
      const Scalar *__restrict__ to_value, const Scalar *__restrict__ to_bias
#define DKMP_INPUT_NAMES query, key, value, bias, to_query, to_key, to_value, to_bias

// ---- forward -------------------------------------------------------------------------------------------------

struct Attend {
  const Inputs& x;
  const Place& place;
  Scalar scale;
  int num_heads;
  Row<Number> query, sum;
  Softmax softmax;

  template <int together>
  DKMP_INLINE void visit(const Tile<together>& tile) {
    Row<Number> keys[together], values[together];
    Number logits[together];
#pragma unroll
    for (int u = 0; u < together; ++u) {
      keys[u] = load_row(x.key, x.to_key, tile.atom[u], num_heads, place);
      values[u] = load_row(x.value, x.to_value, tile.atom[u], num_heads, place);
    }
    Scalar top = -Scalar(INFINITY);
#pragma unroll
    for (int u = 0; u < together; ++u) {
      logits[u] = scale * (head_dot(query, keys[u]) + tile.bias[u]);
      top = larger(plain(logits[u]), top);
    }
    const Scalar before = softmax.raise(top);
    shrink(sum, before);
    softmax.sum = softmax.sum * before;
#pragma unroll
    for (int u = 0; u < together; ++u) {
      const Number weight = softmax.weight(logits[u]);
      softmax.sum += weight;
      add_scaled(sum, weight, values[u]);
    }
  }
};

// Result (N, H, D); with directions, its derivative. One warp per atom and group of heads.
extern "C" __global__ void __launch_bounds__(kThreads, kBlocks) dilated_attention_forward(
    DKMP_INPUTS, const Index* __restrict__ neighbors, Scalar* __restrict__ to, Scalar scale, int num_atoms,
    int num_heads, int num_neighbors) {
  const Place place(warp_of_grid(), num_heads);
  if (place.atom >= num_atoms) return;
  const Inputs x = {DKMP_INPUT_NAMES};
  Attend attend = {x, place, scale, num_heads, load_row(query, to_query, place.atom, num_heads, place), {}, {}};
  attend.softmax.top = -Scalar(INFINITY);
  const Visited visited = visit_neighbors(attend, neighbors, bias, to_bias, num_neighbors, num_atoms, place);
  Row<Number> out = {};
  if (visited.any) add_scaled(out, reciprocal(attend.softmax.sum), attend.sum);
  // An index that names no atom cannot be refused without reading it on the host.
  if (visited.wrong) shrink(out, Scalar(NAN));
  store_row(to, out, num_heads, place);
}

// ---- backward: queries and what the senders need -------------------------------------------------------------

// With weights w = e^(logit) / sum and gradients g = upstream . value, the gradient of the query is
// scale sum_k w_k (g_k - mean) key_k, mean = sum_k w_k g_k: both sums and the mean in one visit.
struct GatherGradient {
  const Inputs& x;
  const Place& place;
  Scalar scale;
  int num_heads;
  Row<Number> query;
  Row<Scalar> upstream;
  Row<Number> weighted_keys, keys_sum;
  Number gradient_sum;
  Softmax softmax;

  template <int together>
  DKMP_INLINE void visit(const Tile<together>& tile) {
    Row<Number> keys[together];
    Number logits[together], gradients[together];
#pragma unroll
    for (int u = 0; u < together; ++u) keys[u] = load_row(x.key, x.to_key, tile.atom[u], num_heads, place);
#pragma unroll
    for (int u = 0; u < together; ++u)
      gradients[u] = head_dot(upstream, load_row(x.value, x.to_value, tile.atom[u], num_heads, place));
    Scalar top = -Scalar(INFINITY);
#pragma unroll
    for (int u = 0; u < together; ++u) {
      logits[u] = scale * (head_dot(query, keys[u]) + tile.bias[u]);
      top = larger(plain(logits[u]), top);
    }
    const Scalar before = softmax.raise(top);
    shrink(weighted_keys, before);
    shrink(keys_sum, before);
    gradient_sum = gradient_sum * before;
    softmax.sum = softmax.sum * before;
#pragma unroll
    for (int u = 0; u < together; ++u) {
      const Number weight = softmax.weight(logits[u]), weighted = weight * gradients[u];
      softmax.sum += weight;
      gradient_sum += weighted;
      add_scaled(keys_sum, weight, keys[u]);
      add_scaled(weighted_keys, weighted, keys[u]);
    }
  }
};

DKMP_INLINE void store_statistics(
    Scalar* to, Scalar top, const Number& inverse, const Number& mean, int num_heads, const Place& place) {
  if (!place.exists || place.lane_of_head != 0) return;
  to += (place.atom * num_heads + place.head) * kStatistics;
  to[0] = top;
  to[1] = plain(inverse);
  to[2] = plain(mean);
#if DKMP_DUAL
  to[3] = inverse.t;
  to[4] = mean.t;
#endif
}

// Gradient of the queries (N, H, D) and the statistics (N, H, kStatistics) of rows with neighbours.
extern "C" __global__ void __launch_bounds__(kThreads, kBlocks) dilated_attention_receivers(
    const Scalar* __restrict__ upstream, DKMP_INPUTS, const Index* __restrict__ neighbors, Scalar* __restrict__ to,
    Scalar* __restrict__ statistics, Scalar scale, int num_atoms, int num_heads, int num_neighbors) {
  const Place place(warp_of_grid(), num_heads);
  if (place.atom >= num_atoms) return;
  const Inputs x = {DKMP_INPUT_NAMES};
  const Offset own = (place.atom * num_heads + place.head) * kHeadWidth;
  GatherGradient gather = {x, place, scale, num_heads,
                           load_row(query, to_query, place.atom, num_heads, place),
                           load_plain(upstream + own, place.lane_of_head), {}, {}, {}, {}};
  gather.softmax.top = -Scalar(INFINITY);
  const Visited visited = visit_neighbors(gather, neighbors, bias, to_bias, num_neighbors, num_atoms, place);
  Row<Number> out = {};
  Number inverse = Number(), mean = Number();
  if (visited.any) {
    inverse = reciprocal(gather.softmax.sum);
    mean = gather.gradient_sum * inverse;
    const Number factor = scale * inverse;
    add_scaled(out, factor, gather.weighted_keys);
    add_scaled(out, -(mean * factor), gather.keys_sum);
  }
  if (visited.wrong) {
    shrink(out, Scalar(NAN));
    inverse = inverse * Scalar(NAN);
  }
  store_row(to, out, num_heads, place);
  store_statistics(statistics, gather.softmax.top, inverse, mean, num_heads, place);
}

// ---- backward: keys, values and biases -----------------------------------------------------------------------

// What one edge of a sender brings.
struct Edge {
  Row<Number> query;
  Row<Scalar> upstream;
  Scalar top;
  Number inverse, mean;

  DKMP_INLINE void load(
      const Inputs& x, const Scalar* upstreams, const Scalar* statistics, Offset receiver, int num_heads,
      const Place& place) {
    const Offset head = receiver * num_heads + place.head;
    query = load_row(x.query, x.to_query, receiver, num_heads, place);
    upstream = load_plain(upstreams + head * kHeadWidth, place.lane_of_head);
    const Scalar* from = statistics + head * kStatistics;
    top = from[0];
#if DKMP_DUAL
    inverse = {from[1], from[3]};
    mean = {from[2], from[4]};
#else
    inverse = from[1];
    mean = from[2];
#endif
  }
};

// Sum over the heads of a warp of what all lanes of a head hold.
DKMP_INLINE Number sum_over_heads(Number x, bool exists) {
  if (!exists) x = Number();
#pragma unroll
  for (int distance = kHeadLanes; distance < kWarp; distance *= 2) x = x + from_lane_xor(x, distance);
  return x;
}

// Gradients of keys and values (N, H, D), summed in the order of the edges, and of the biases, where wanted:
// (groups of heads, N, K), zero where there is no neighbour. Edge e = i K + k of sender j is at rows
// start[j]..start[j + 1] of `edges`.
extern "C" __global__ void __launch_bounds__(kThreads, kBlocks) dilated_attention_senders(
    const Scalar* __restrict__ upstream, DKMP_INPUTS, const Scalar* __restrict__ statistics,
    const long long* __restrict__ start, const long long* __restrict__ edges, Scalar* __restrict__ key_gradient,
    Scalar* __restrict__ value_gradient, Scalar* __restrict__ bias_gradient, Scalar scale, int num_atoms,
    int num_heads, int num_neighbors) {
  const Place place(warp_of_grid(), num_heads);
  if (place.atom >= num_atoms) return;
  const Inputs x = {DKMP_INPUT_NAMES};
  const Row<Number> own_key = load_row(key, to_key, place.atom, num_heads, place);
  const Row<Number> own_value = load_row(value, to_value, place.atom, num_heads, place);
  Row<Number> key_sum = {}, value_sum = {};
  const Offset last = start[place.atom + 1];
  for (Offset first = start[place.atom]; first < last; first += kWarp) {
    const int count = int(smaller(last - first, Offset(kWarp)));
    const Offset edge = place.lane < count ? edges[first + place.lane] : 0;
    const int receiver = int(unsigned(edge) / unsigned(num_neighbors));
    const Number edge_bias = bias && place.lane < count ? load_number(bias, to_bias, edge) : Number();
    Number own_bias_gradient = Number();
    for (int t = 0; t < count; ++t) {
      Edge now;
      now.load(x, upstream, statistics, __shfl_sync(kWholeWarp, receiver, t), num_heads, place);
      const Number logit = scale * (head_dot(own_key, now.query) + from_lane(edge_bias, t));
      const Number weight = exponential(logit - now.top) * now.inverse;
      const Number gradient = scale * (weight * (head_dot(now.upstream, own_value) - now.mean));
      add_scaled(key_sum, gradient, now.query);
      add_scaled(value_sum, weight, now.upstream);
      if (bias_gradient) {
        const Number sum = sum_over_heads(gradient, place.exists);
        if (place.lane == t) own_bias_gradient = sum;
      }
    }
    if (bias_gradient && place.lane < count)
      bias_gradient[Offset(place.group) * num_atoms * num_neighbors + edge] = result(own_bias_gradient);
  }
  store_row(key_gradient, key_sum, num_heads, place);
  store_row(value_gradient, value_sum, num_heads, place);
}
