// Inner loops of dilated_attention, compiled once per instruction-set level into the namespace DKMP_ISA.
//
// Nothing here includes ATen or standard containers: inline functions compiled for a high level must never be
// the copy that the linker keeps for everyone. Neighbours are scored in tiles of as many as a vector has lanes, so
// that one transposed sum replaces a horizontal sum per neighbour. Kernels are templates on plain or dual numbers:
// the dual instances are directional derivatives, from which the double backward is built without a third kernel.
#include <cstdint>
#include <type_traits>
#include <utility>

#include "cache_line.h"
#include "dilated_attention_kernel.h"

namespace dkmp {
namespace DKMP_ISA {
namespace {

#include "dual.h"
#include "lanes.h"
#include "dual_arrays.h"
#include "transpose_sum.h"
#include "prefetch.h"

template <class Scalar, bool dual>
struct Arrays {
  Array<Scalar, dual> query, key, value, bias;

  Arrays(const AttentionInputs<Scalar>& x, const AttentionInputs<Scalar>* p)
      : query{x.query, p ? p->query : nullptr},
        key{x.key, p ? p->key : nullptr},
        value{x.value, p ? p->value : nullptr},
        bias{x.bias, p ? p->bias : nullptr} {}
};

template <class Scalar>
inline int64_t whole_tiles(int64_t count) {
  return (count + kLanes<Scalar> - 1) / kLanes<Scalar> * kLanes<Scalar>;
}

// e^x of x <= 0, exactly zero where it would underflow.
template <class Scalar>
inline Lane<Scalar> weight_of(const Lane<Scalar>& x) {
  const Lane<Scalar> zero{};
  return x < zero - ExpConstants<Scalar>::limit ? zero : exponential_within_limit<Scalar>(x);
}
template <class Scalar>
inline Dual<Lane<Scalar>> weight_of(const Dual<Lane<Scalar>>& x) {
  const Lane<Scalar> weight = weight_of<Scalar>(x.v), zero{};
  return {weight, x.v < zero - ExpConstants<Scalar>::limit ? zero : weight * x.t};
}

// Largest lane, by halving; a NaN lane is passed over.
template <class Scalar, int bytes = DKMP_LANE_BYTES, class Vector>
inline Scalar largest_lane(const Vector& lane) {
  if constexpr (bytes == int(sizeof(Scalar))) {
    Scalar value;
    __builtin_memcpy(&value, &lane, sizeof(value));
    return value;
  } else if constexpr (bytes == 2 * int(sizeof(Scalar))) {
    Scalar pair[2];
    __builtin_memcpy(pair, &lane, sizeof(pair));
    return pair[0] > pair[1] ? pair[0] : pair[1];
  } else {
    typedef Scalar Half __attribute__((vector_size(bytes / 2)));
    Half low, high;
    __builtin_memcpy(&low, &lane, sizeof(low));
    __builtin_memcpy(&high, reinterpret_cast<const char*>(&lane) + sizeof(low), sizeof(high));
    return largest_lane<Scalar, bytes / 2>(Half(low > high ? low : high));
  }
}

// Lane e: the dot product of `here` (one head of one atom) with the same head of the row that begins at rows[e].
// `vectors` lane vectors of the head are held in registers: all of it or, unless `whole`, its beginning.
template <class Scalar, int vectors, bool whole, class Here, class There>
inline auto dot_tile(
    const AttentionSetup& setup, const Here& here, int64_t atom, const There& there, const int64_t* rows,
    int64_t head) {
  constexpr int lanes = kLanes<Scalar>, step = vectors * lanes;
  using Product = decltype(here.wide(0) * there.wide(0));
  const int64_t row = setup.num_heads * setup.head_width, first = head * setup.head_width;
  const Here mine = here.from(atom * row + first);
  const There theirs = there.from(first);
  decltype(here.wide(0)) held[vectors];
#pragma GCC unroll 8
  for (int x = 0; x < vectors; ++x) held[x] = mine.wide(x * lanes);
  return transpose_sum<Scalar>([&](int e) {
    const There other = theirs.from(rows[e]);
    Product sum = held[0] * other.wide(0);
#pragma GCC unroll 8
    for (int x = 1; x < vectors; ++x) sum += held[x] * other.wide(x * lanes);
    for (int64_t c = step; !whole && c < setup.head_width; c += lanes) sum += mine.wide(c) * other.wide(c);
    return sum;
  });
}

// Lanes of a and b by a rule: lane `at` of the result is lane Rule(at) of the two, one after the other.
template <class Rule, class Vector, int... at>
inline Vector shuffled(const Vector& a, const Vector& b, std::integer_sequence<int, at...>) {
  return __builtin_shufflevector(a, b, Rule::source(at)...);
}
template <class Rule>
inline Lane<float> shuffled(const Lane<float>& a, const Lane<float>& b) {
  return shuffled<Rule>(a, b, std::make_integer_sequence<int, kLanes<float>>());
}

// Within each block of four: `unit` lanes of a, then as many of b, and so on, from the lower or the upper half on.
template <int unit, bool upper>
struct Alternately {
  static constexpr int source(int at) {
    const int place = at % 4 / (2 * unit) * unit + at % unit + (upper ? 2 : 0);
    return at / 4 * 4 + place + (at % (2 * unit) < unit ? 0 : kLanes<float>);
  }
};
template <int block>
struct OneBlock {
  static constexpr int source(int at) { return 4 * block + at % 4; }
};
template <int place>
struct OneOfEachBlock {
  static constexpr int source(int at) { return at / 4 * 4 + place; }
};

// Weights that four heads have for a tile of neighbours. Block b of vector j holds the four of neighbour 4 b + j: from
// there a weight reaches all lanes by shuffles. From memory it would be a load for each head and neighbour, beside
// those of the rows, and loads are what the sum waits for.
struct FourHeads {
  Lane<float> vectors[4];

  FourHeads(const Lane<float>& a, const Lane<float>& b, const Lane<float>& c, const Lane<float>& d) {
    using Low = Alternately<1, false>;
    using High = Alternately<1, true>;
    const Lane<float> low[2] = {shuffled<Low>(a, b), shuffled<Low>(c, d)},
                      high[2] = {shuffled<High>(a, b), shuffled<High>(c, d)};
    vectors[0] = shuffled<Alternately<2, false>>(low[0], low[1]);
    vectors[1] = shuffled<Alternately<2, true>>(low[0], low[1]);
    vectors[2] = shuffled<Alternately<2, false>>(high[0], high[1]);
    vectors[3] = shuffled<Alternately<2, true>>(high[0], high[1]);
  }
  // Calls use(neighbour, head, weight in all lanes) for all of them, neighbour by neighbour.
  template <class Use>
  void each(const Use& use) const {
    each(use, std::make_integer_sequence<int, kLanes<float>>());
  }

 private:
  template <class Use, int... neighbor>
  void each(const Use& use, std::integer_sequence<int, neighbor...>) const {
    (each_head(use, neighbor, shuffled<OneBlock<neighbor / 4>>(vectors[neighbor % 4], vectors[neighbor % 4])), ...);
  }
  template <class Use>
  static void each_head(const Use& use, int neighbor, const Lane<float>& block) {
    use(neighbor, 0, shuffled<OneOfEachBlock<0>>(block, block));
    use(neighbor, 1, shuffled<OneOfEachBlock<1>>(block, block));
    use(neighbor, 2, shuffled<OneOfEachBlock<2>>(block, block));
    use(neighbor, 3, shuffled<OneOfEachBlock<3>>(block, block));
  }
};

// Writes factors[head] times the sum over t of weights[t] times channels c.. of the row that begins at rows[t] to
// `to` + c: `vectors` lane vectors of each of `heads` heads, which lie one after the other when there is more than one.
template <class Scalar, int vectors, int heads, class Weights, class Source, class Factor>
inline void sum_channels(
    const Weights& weights, int64_t stride, const Source& source, const int64_t* rows, int64_t count, int64_t c,
    const Factor* factors, Scalar* to) {
  constexpr int lanes = kLanes<Scalar>;
  using Product = decltype(weights.number(0) * source.wide(0));
  const Source channels = source.from(c);
  Product sums[heads * vectors] = {};
  int64_t first = 0;
  if constexpr (heads % 4 == 0 && lanes == 16 && std::is_same<Product, Lane<float>>::value) {
    for (; first + lanes <= count; first += lanes) {
#pragma GCC unroll 2
      for (int four = 0; four < heads; four += 4) {
        const auto of_head = [&](int h) { return weights.wide((four + h) * stride + first); };
        FourHeads(of_head(0), of_head(1), of_head(2), of_head(3)).each([&](int neighbor, int h, Lane<float> weight) {
          const int at = (four + h) * vectors;
          const Source other = channels.from(rows[first + neighbor] + at * lanes);
#pragma GCC unroll 8
          for (int x = 0; x < vectors; ++x) sums[at + x] += weight * other.wide(x * lanes);
        });
      }
    }
  }
  for (int64_t t = first; t < count; ++t) {
    const Source other = channels.from(rows[t]);
#pragma GCC unroll 8
    for (int h = 0; h < heads; ++h) {
      const auto weight = weights.number(h * stride + t);
#pragma GCC unroll 8
      for (int x = 0; x < vectors; ++x) sums[h * vectors + x] += weight * other.wide((h * vectors + x) * lanes);
    }
  }
#pragma GCC unroll 8
  for (int x = 0; x < heads * vectors; ++x) put<Scalar>(to + c + x * lanes, factors[x / vectors] * sums[x], false);
}

// The same for all channels of a row; weights of head h begin at h * stride.
template <class Scalar, int vectors, bool whole, class Weights, class Source, class Factor>
inline void sum_rows(
    const AttentionSetup& setup, const Weights& weights, int64_t stride, const Source& source, const int64_t* rows,
    int64_t count, const Factor* factors, Scalar* to) {
  constexpr int lanes = kLanes<Scalar>, together = 8 / vectors;
  const int64_t width = setup.head_width;
  int64_t head = 0;
  if constexpr (whole)
    for (; head + together <= setup.num_heads; head += together)
      sum_channels<Scalar, vectors, together>(
          weights.from(head * stride), stride, source, rows, count, head * width, factors + head, to);
  for (; head < setup.num_heads; ++head)
    for (int64_t c = 0; c < width; c += vectors * lanes)
      sum_channels<Scalar, vectors, 1>(
          weights.from(head * stride), stride, source, rows, count, head * width + c, factors + head, to);
}

// The neighbours of one receiver without the -1 entries, filled up to whole tiles with copies of the last whose biases
// are minus infinity: they get weight zero.
template <class Scalar, bool dual>
struct Receiver {
  int64_t count, padded;
  int64_t* row;   // where the features of each begin
  int32_t* slot;  // and which entry of the list it is
  Buffer<Scalar, dual> bias;  // times the scale

  // False, and no neighbours, where an entry is neither an atom nor -1.
  bool collect(const AttentionSetup& setup, const Array<Scalar, dual>& biases, int64_t atom) {
    const int64_t first = atom * setup.num_neighbors;
    const Array<Scalar, dual> mine = biases.values ? biases.from(first) : biases;
    return setup.wide_neighbors ? collect(setup, mine, setup.wide_neighbors + first)
                                : collect(setup, mine, setup.narrow_neighbors + first);
  }

 private:
  template <class Index>
  bool collect(const AttentionSetup& setup, const Array<Scalar, dual>& biases, const Index* neighbors) {
    using Number = typename Types<Scalar, dual>::Number;
    const int64_t width = setup.num_heads * setup.head_width, listed = setup.num_neighbors;
    const Scalar scale = Scalar(setup.scale);
    int64_t* const rows = row;
    int32_t* const slots = slot;
    const Buffer<Scalar, dual> scaled = bias;
    Index least = 0, most = -1;
    for (int64_t k = 0; k < listed; ++k) {
      least = neighbors[k] < least ? neighbors[k] : least;
      most = neighbors[k] > most ? neighbors[k] : most;
      rows[k] = int64_t(neighbors[k]) * width;
      slots[k] = int32_t(k);
    }
    if (least < -1 || most >= setup.num_atoms) return false;
    count = listed;
    if (least >= 0) {
      for (int64_t k = 0; k < listed; ++k) scaled.set(k, biases.values ? scale * biases.number(k) : Number{});
    } else {  // some are -1
      count = 0;
      for (int64_t k = 0; k < listed; ++k) {
        rows[count] = rows[k];
        slots[count] = int32_t(k);
        scaled.set(count, biases.values ? scale * biases.number(k) : Number{});
        count += neighbors[k] >= 0;
      }
    }
    padded = whole_tiles<Scalar>(count);
    for (int64_t t = count; t < padded; ++t) {
      rows[t] = rows[count - 1];
      scaled.set(t, Number{} + Scalar(-__builtin_inf()));
    }
    return true;
  }
};

inline int64_t visited(const AttentionSetup& setup, int64_t at) { return setup.order ? setup.order[at] : at; }

// Replaces the dot products of `heads` heads, `stride` apart, by exponentials that times `factors` are their softmax.
template <class Scalar, bool dual, int heads>
inline void exponentials(
    const AttentionSetup& setup, const Receiver<Scalar, dual>& receiver, const Buffer<Scalar, dual>& scores,
    int64_t stride, typename Types<Scalar, dual>::Number* factors) {
  using Wide = typename Types<Scalar, dual>::Wide;
  constexpr int lanes = kLanes<Scalar>;
  const Scalar scale = Scalar(setup.scale), lowest = -__builtin_inf();
  Lane<Scalar> most[heads];
#pragma GCC unroll 8
  for (int h = 0; h < heads; ++h) most[h] = spread<Scalar>(lowest);
  for (int64_t t = 0; t < receiver.padded; t += lanes) {
    const Wide bias = receiver.bias.wide(t);
#pragma GCC unroll 8
    for (int h = 0; h < heads; ++h) {
      const Wide score = scale * scores.wide(h * stride + t) + bias;
      scores.set_wide(h * stride + t, score);
      most[h] = plain(score) > most[h] ? plain(score) : most[h];
    }
  }
#pragma GCC unroll 8
  for (int h = 0; h < heads; ++h) most[h] = spread<Scalar>(largest_lane<Scalar>(most[h]));
  Wide sum[heads] = {};
  for (int64_t t = 0; t < receiver.padded; t += lanes) {
#pragma GCC unroll 8
    for (int h = 0; h < heads; ++h) {
      const Wide weight = weight_of<Scalar>(scores.wide(h * stride + t) - most[h]);
      scores.set_wide(h * stride + t, weight);
      sum[h] += weight;
    }
  }
#pragma GCC unroll 8
  for (int h = 0; h < heads; ++h) factors[h] = reciprocal(sum_lanes(sum[h]));
}

// Gradients of the dot products of `heads` heads from those of their softmax, in place.
template <class Scalar, bool dual, int heads>
inline void softmax_gradients(
    const AttentionSetup& setup, const Receiver<Scalar, dual>& receiver, const Buffer<Scalar, dual>& weights,
    const Buffer<Scalar, dual>& gradients, int64_t stride) {
  using Wide = typename Types<Scalar, dual>::Wide;
  using Number = typename Types<Scalar, dual>::Number;
  constexpr int lanes = kLanes<Scalar>;
  Wide mean[heads] = {};
#pragma GCC unroll 8
  for (int h = 0; h < heads; ++h) {
    // Filled-up entries have weight zero, but the gradient of a copied neighbour may be infinite.
    for (int64_t t = receiver.count; t < receiver.padded; ++t) gradients.set(h * stride + t, Number{});
  }
  for (int64_t t = 0; t < receiver.padded; t += lanes) {
#pragma GCC unroll 8
    for (int h = 0; h < heads; ++h) mean[h] += weights.wide(h * stride + t) * gradients.wide(h * stride + t);
  }
#pragma GCC unroll 8
  for (int h = 0; h < heads; ++h) mean[h] = spread<Scalar>(sum_lanes(mean[h]));
  const Scalar scale = Scalar(setup.scale);
  for (int64_t t = 0; t < receiver.padded; t += lanes) {
#pragma GCC unroll 8
    for (int h = 0; h < heads; ++h) {
      const int64_t at = h * stride + t;
      gradients.set_wide(at, scale * (weights.wide(at) * (gradients.wide(at) - mean[h])));
    }
  }
}

// Scratch memory of one thread, cut out of one array. Sizes in Scalars; a slot takes one Scalar's place, a row two.
template <class Scalar, bool dual>
struct Workspace {
  using Number = typename Types<Scalar, dual>::Number;

  Receiver<Scalar, dual> receiver;
  Buffer<Scalar, dual> weights, gradients;  // (H, K rounded up)
  Number* factors;                          // (H,), what weights are still to be multiplied with
  int64_t stride;
  static constexpr int kHeads = 4;  // as many as the registers hold

  Workspace() = default;
  Workspace(const AttentionSetup& setup, Scalar* memory) : stride(whole_tiles<Scalar>(setup.num_neighbors + 1)) {
    const int64_t all = setup.num_heads * stride;
    receiver.row = reinterpret_cast<int64_t*>(memory);
    receiver.slot = reinterpret_cast<int32_t*>(memory + 2 * stride);
    receiver.bias = {memory + 3 * stride, memory + 4 * stride};
    memory += 5 * stride;
    weights = {memory, memory + all};
    gradients = {memory + 2 * all, memory + 3 * all};
    factors = reinterpret_cast<Number*>(memory + 4 * all);
  }
  static int64_t size(const AttentionSetup& setup) {
    return (5 + 4 * setup.num_heads) * whole_tiles<Scalar>(setup.num_neighbors + 1) +
           whole_tiles<Scalar>(2 * setup.num_heads);
  }
  // The softmax of all heads, in place of their dot products, but for the factors. Heads go together because each waits
  // for its own maximum, exponentials and sum in turn.
  void exponentiate(const AttentionSetup& setup) const {
    if (receiver.count == 0) {
      for (int64_t head = 0; head < setup.num_heads; ++head) factors[head] = Number{};
      return;
    }
    int64_t head = 0;
    for (; head + kHeads <= setup.num_heads; head += kHeads)
      exponentials<Scalar, dual, kHeads>(setup, receiver, weights_of(head), stride, factors + head);
    for (; head < setup.num_heads; ++head)
      exponentials<Scalar, dual, 1>(setup, receiver, weights_of(head), stride, factors + head);
  }
  // Multiplies the weights with their factors.
  void normalize(const AttentionSetup& setup) const {
    constexpr int lanes = kLanes<Scalar>;
    for (int64_t head = 0; head < setup.num_heads; ++head) {
      const auto factor = spread<Scalar>(factors[head]);
      const Buffer<Scalar, dual> of_head = weights_of(head);
      for (int64_t t = 0; t < receiver.padded; t += lanes) of_head.set_wide(t, of_head.wide(t) * factor);
      factors[head] = Number{} + Scalar(1);
    }
  }
  // The gradients of all dot products, in place of those of the softmax.
  void differentiate(const AttentionSetup& setup) const {
    if (receiver.count == 0) return;
    int64_t head = 0;
    for (; head + kHeads <= setup.num_heads; head += kHeads)
      softmax_gradients<Scalar, dual, kHeads>(setup, receiver, weights_of(head), gradients_of(head), stride);
    for (; head < setup.num_heads; ++head)
      softmax_gradients<Scalar, dual, 1>(setup, receiver, weights_of(head), gradients_of(head), stride);
  }
  Buffer<Scalar, dual> weights_of(int64_t head) const { return weights.from(head * stride); }
  Buffer<Scalar, dual> gradients_of(int64_t head) const { return gradients.from(head * stride); }
};

// Visits read their rows where not everything is in cache: they are asked for some visits ahead. A processor keeps few
// requests open, so that the passes over keys and over values each ask for their own.

// Rows of keys or values that recent visits have not read.
template <class Scalar>
inline void prefetch_anew(const AttentionSetup& setup, const Scalar* features, int64_t at, int64_t end) {
  constexpr int64_t kAhead = 2;
  const int64_t next = at + kAhead, row = setup.num_heads * setup.head_width;
  if (!setup.anew || next >= end) return;
  for (uint32_t a = setup.anew_start[next]; a < setup.anew_start[next + 1]; ++a)
    prefetch(features + setup.anew[a] * row, row);
}

// What a row has of its own comes from memory, where others have been read lately: it is asked for earlier.
constexpr int64_t kOwnAhead = 8;
template <class Scalar>
inline void prefetch_inputs(
    const AttentionSetup& setup, const AttentionInputs<Scalar>& inputs, int64_t at, int64_t end) {
  if (!setup.anew || at + kOwnAhead >= end) return;
  const int64_t width = setup.num_neighbors, row = setup.num_heads * setup.head_width;
  const int64_t far = visited(setup, at + kOwnAhead);
  if (setup.wide_neighbors) prefetch(setup.wide_neighbors + far * width, width);
  if (setup.narrow_neighbors) prefetch(setup.narrow_neighbors + far * width, width);
  if (inputs.bias) prefetch(inputs.bias + far * width, width);
  prefetch(inputs.query + far * row, row);
}
template <class Scalar>
inline void prefetch_result(const AttentionSetup& setup, const Scalar* result, int64_t at, int64_t end) {
  if (!setup.anew || at + kOwnAhead >= end) return;
  const int64_t row = setup.num_heads * setup.head_width;
  prefetch<true>(result + visited(setup, at + kOwnAhead) * row, row);
}

// Receivers whose keys the forward pass reads before their values. They share most of their neighbours, so that keys
// stay in the first-level cache from one receiver to the next, if they fit there and values do not fit beside them.
constexpr int64_t kReceivers = 16;
template <class Scalar>
inline int64_t receivers_together(const AttentionSetup& setup) {
  constexpr int64_t kFirstLevelBytes = 40 << 10;
  const int64_t bytes = setup.num_neighbors * setup.num_heads * setup.head_width * int64_t(sizeof(Scalar));
  return bytes <= kFirstLevelBytes && 2 * bytes > kFirstLevelBytes ? kReceivers : 1;
}

template <class Scalar, bool dual, int vectors, bool whole>
__attribute__((flatten)) bool forward(
    const AttentionSetup& setup, const AttentionInputs<Scalar>& inputs, const AttentionInputs<Scalar>* directions,
    Scalar* to, Scalar* memory, int64_t begin, int64_t end) {
  constexpr int lanes = kLanes<Scalar>;
  const Arrays<Scalar, dual> x(inputs, directions);
  const int64_t row = setup.num_heads * setup.head_width, together = receivers_together<Scalar>(setup);
  Workspace<Scalar, dual> works[kReceivers];
  for (int64_t r = 0; r < together; ++r)
    works[r] = Workspace<Scalar, dual>(setup, memory + r * Workspace<Scalar, true>::size(setup));
  for (int64_t first = begin; first < end; first += together) {
    const int64_t count = end - first < together ? end - first : together;
    for (int64_t r = 0; r < count; ++r) {
      const int64_t i = visited(setup, first + r);
      prefetch_anew(setup, inputs.key, first + r, end);
      prefetch_inputs(setup, inputs, first + r, end);
      const Receiver<Scalar, dual>& receiver = works[r].receiver;
      if (!works[r].receiver.collect(setup, x.bias, i)) return false;
      for (int64_t t = 0; t < receiver.padded; t += lanes) {
        for (int64_t head = 0; head < setup.num_heads; ++head)
          works[r].weights_of(head).set_wide(
              t, dot_tile<Scalar, vectors, whole>(setup, x.query, i, x.key, receiver.row + t, head));
      }
      works[r].exponentiate(setup);
    }
    for (int64_t r = 0; r < count; ++r) {
      const Receiver<Scalar, dual>& receiver = works[r].receiver;
      prefetch_anew(setup, inputs.value, first + r, end);
      prefetch_result(setup, to, first + r, end);
      sum_rows<Scalar, vectors, whole>(
          setup, works[r].weights, works[r].stride, x.value, receiver.row, receiver.count, works[r].factors,
          to + visited(setup, first + r) * row);
    }
  }
  return true;
}

template <class Scalar, bool dual, int vectors, bool whole>
__attribute__((flatten)) bool receivers(
    const AttentionSetup& setup, const AttentionInputs<Scalar>& inputs, const AttentionInputs<Scalar>* directions,
    const Scalar* grad, Scalar* query, Scalar* bias, const AttentionTerms<Scalar>& terms, Scalar* memory,
    int64_t begin, int64_t end) {
  using Number = typename Types<Scalar, dual>::Number;
  constexpr int lanes = kLanes<Scalar>;
  const Arrays<Scalar, dual> x(inputs, directions);
  const Array<Scalar, false> upstream{grad, nullptr};
  const Buffer<Scalar, dual> to_terms{terms.values, terms.tangents};
  Workspace<Scalar, dual> work(setup, memory);
  Receiver<Scalar, dual>& receiver = work.receiver;
  const int64_t row = setup.num_heads * setup.head_width;
  for (int64_t at = begin; at < end; ++at) {
    const int64_t i = visited(setup, at);
    prefetch_anew(setup, inputs.key, at, end);
    prefetch_anew(setup, inputs.value, at, end);
    prefetch_inputs(setup, inputs, at, end);
    prefetch_result(setup, query, at, end);
    if (!receiver.collect(setup, x.bias, i)) return false;
    for (int64_t t = 0; t < receiver.padded; t += lanes) {
      const int64_t* rows = receiver.row + t;
      for (int64_t head = 0; head < setup.num_heads; ++head)
        work.weights_of(head).set_wide(t, dot_tile<Scalar, vectors, whole>(setup, x.query, i, x.key, rows, head));
      for (int64_t head = 0; head < setup.num_heads; ++head)
        work.gradients_of(head).set_wide(t, dot_tile<Scalar, vectors, whole>(setup, upstream, i, x.value, rows, head));
    }
    work.exponentiate(setup);
    work.normalize(setup);
    work.differentiate(setup);
    for (int64_t t = 0; t < receiver.count; ++t) {
      const int64_t edge = i * setup.num_neighbors + receiver.slot[t];
      for (int64_t head = 0; head < setup.num_heads; ++head) {
        to_terms.set((2 * edge) * setup.num_heads + head, work.weights_of(head).number(t));
        to_terms.set((2 * edge + 1) * setup.num_heads + head, work.gradients_of(head).number(t));
      }
    }
    sum_rows<Scalar, vectors, whole>(
        setup, work.gradients, work.stride, x.key, receiver.row, receiver.count, work.factors, query + i * row);
    if (!bias) continue;
    Scalar* to = bias + i * setup.num_neighbors;
    for (int64_t k = 0; k < setup.num_neighbors; ++k) to[k] = 0;
    for (int64_t t = 0; t < receiver.count; ++t) {
      Number sum{};
      for (int64_t head = 0; head < setup.num_heads; ++head) sum += work.gradients_of(head).number(t);
      to[receiver.slot[t]] = result(sum);
    }
  }
  return true;
}

// Some of a sender's edges, and the receivers they belong to.
struct SenderEdges {
  static constexpr int64_t kMost = 16;
  int64_t sender, count;
  bool add;  // to what earlier edges of this sender gave
  const uint32_t* edge;
  int32_t atom[kMost];
};

// Goes through the edges of the senders visited at [begin, end), a few of one sender at a time. A sender without
// edges gives one empty piece.
class SenderCursor {
 public:
  SenderCursor(const AttentionSetup& setup_, const AttentionEdges& edges_, int64_t begin, int64_t end_)
      : setup(setup_), edges(edges_), at(begin), end(end_), done(0) {}

  bool next(SenderEdges* piece) {
    if (at >= end) return false;
    const int64_t sender = visited(setup, at), first = edges.start[sender] + done;
    const int64_t left = edges.start[sender + 1] - first;
    piece->sender = sender;
    piece->add = done > 0;
    piece->count = left < SenderEdges::kMost ? left : SenderEdges::kMost;
    piece->edge = edges.edge + first;
    for (int64_t e = 0; e < piece->count; ++e)
      piece->atom[e] = int32_t(piece->edge[e] / uint32_t(setup.num_neighbors));
    done = left > piece->count ? done + piece->count : 0;
    at += done == 0;
    return true;
  }

 private:
  const AttentionSetup& setup;
  const AttentionEdges& edges;
  int64_t at, end, done;
};

// Adds up, over the edges of one sender, weight times the receiver's channels, `vectors` lane vectors of each of
// `heads` heads beginning at channel c: the gradients of its key (from queries) and value (from upstream).
template <class Scalar, bool dual, int vectors, int heads>
inline void sum_edges(
    const AttentionSetup& setup, const Array<Scalar, dual>& queries, const Array<Scalar, false>& upstream,
    const Buffer<Scalar, dual>& terms, const SenderEdges& edges, int64_t head, int64_t c, Scalar* key, Scalar* value) {
  using Wide = typename Types<Scalar, dual>::Wide;
  constexpr int lanes = kLanes<Scalar>, held = heads * vectors;
  const int64_t row = setup.num_heads * setup.head_width;
  Wide to_key[held] = {}, to_value[held] = {};
  for (int64_t e = 0; e < edges.count; ++e) {
    const int64_t from = int64_t(edges.atom[e]) * row + c, weights = 2 * int64_t(edges.edge[e]) * setup.num_heads + head;
#pragma GCC unroll 8
    for (int h = 0; h < heads; ++h) {
      const auto weight = terms.number(weights + h), gradient = terms.number(weights + setup.num_heads + h);
#pragma GCC unroll 8
      for (int x = h * vectors; x < (h + 1) * vectors; ++x) {
        to_value[x] += weight * upstream.wide(from + x * lanes);
        to_key[x] += gradient * queries.wide(from + x * lanes);
      }
    }
  }
#pragma GCC unroll 8
  for (int x = 0; x < held; ++x) {
    put<Scalar>(key + c + x * lanes, to_key[x], edges.add);
    put<Scalar>(value + c + x * lanes, to_value[x], edges.add);
  }
}

template <class Scalar, bool dual, int vectors, bool whole>
__attribute__((flatten)) void senders(
    const AttentionSetup& setup, const AttentionEdges& edges, const AttentionInputs<Scalar>& inputs,
    const AttentionInputs<Scalar>* directions, const Scalar* grad, const AttentionTerms<Scalar>& terms, Scalar* key,
    Scalar* value, int64_t begin, int64_t end) {
  constexpr int lanes = kLanes<Scalar>, together = 8 / vectors;
  const Arrays<Scalar, dual> x(inputs, directions);
  const Array<Scalar, false> upstream{grad, nullptr};
  const Buffer<Scalar, dual> from_terms{terms.values, terms.tangents};
  const int64_t width = setup.head_width, row = setup.num_heads * width;
  SenderCursor cursor(setup, edges, begin, end);
  SenderEdges pieces[2];
  bool more = cursor.next(&pieces[0]);
  for (int64_t turn = 0; more; ++turn) {
    const SenderEdges &piece = pieces[turn % 2], &ahead = pieces[(turn + 1) % 2];
    more = cursor.next(&pieces[(turn + 1) % 2]);
    for (int64_t e = 0; more && e < ahead.count; ++e) {
      prefetch(upstream.values + int64_t(ahead.atom[e]) * row, row);
      prefetch(x.query.values + int64_t(ahead.atom[e]) * row, row);
      prefetch(terms.values + 2 * int64_t(ahead.edge[e]) * setup.num_heads, 2 * setup.num_heads);
    }
    Scalar *to_key = key + piece.sender * row, *to_value = value + piece.sender * row;
    int64_t head = 0;
    if constexpr (whole)
      for (; head + together <= setup.num_heads; head += together)
        sum_edges<Scalar, dual, vectors, together>(
            setup, x.query, upstream, from_terms, piece, head, head * width, to_key, to_value);
    for (; head < setup.num_heads; ++head)
      for (int64_t c = 0; c < width; c += vectors * lanes)
        sum_edges<Scalar, dual, vectors, 1>(
            setup, x.query, upstream, from_terms, piece, head, head * width + c, to_key, to_value);
  }
}

// Calls the instance for the width of a head, which the registers hold whole or in parts.
template <class Scalar, template <class, bool, int, bool> class Kernel, class... Arguments>
auto dispatch(const AttentionSetup& setup, bool dual, const Arguments&... arguments) {
  const auto call = [&](auto vectors, auto whole) {
    return dual ? Kernel<Scalar, true, vectors, whole>::run(setup, arguments...)
                : Kernel<Scalar, false, vectors, whole>::run(setup, arguments...);
  };
  using One = std::integral_constant<int, 1>;
  using Two = std::integral_constant<int, 2>;
  using Four = std::integral_constant<int, 4>;
  const int64_t vectors = setup.head_width / kLanes<Scalar>;
  if (vectors == 1) return call(One{}, std::true_type{});
  if (vectors == 2) return call(Two{}, std::true_type{});
  if (vectors == 4) return call(Four{}, std::true_type{});
  if (vectors % 4 == 0) return call(Four{}, std::false_type{});
  return call(One{}, std::false_type{});
}

#define DKMP_KERNEL(NAME, FUNCTION)                            \
  template <class Scalar, bool dual, int vectors, bool whole>  \
  struct NAME {                                                \
    template <class... Arguments>                              \
    static auto run(const Arguments&... arguments) {           \
      return FUNCTION<Scalar, dual, vectors, whole>(arguments...); \
    }                                                          \
  };
DKMP_KERNEL(Forward, forward)
DKMP_KERNEL(Receivers, receivers)
DKMP_KERNEL(Senders, senders)
#undef DKMP_KERNEL

template <class Scalar>
AttentionKernels<Scalar> make_kernels() {
  AttentionKernels<Scalar> kernels;
  kernels.lanes = kLanes<Scalar>;
  kernels.workspace = [](const AttentionSetup& setup) {
    return receivers_together<Scalar>(setup) * Workspace<Scalar, true>::size(setup);
  };
  kernels.forward = [](const AttentionSetup& setup, const AttentionInputs<Scalar>& inputs,
                       const AttentionInputs<Scalar>* directions, Scalar* result, Scalar* workspace, int64_t begin,
                       int64_t end) {
    return dispatch<Scalar, Forward>(setup, directions != nullptr, inputs, directions, result, workspace, begin, end);
  };
  kernels.receivers = [](const AttentionSetup& setup, const AttentionInputs<Scalar>& inputs,
                         const AttentionInputs<Scalar>* directions, const Scalar* grad, Scalar* query, Scalar* bias,
                         const AttentionTerms<Scalar>& terms, Scalar* workspace, int64_t begin, int64_t end) {
    return dispatch<Scalar, Receivers>(
        setup, directions != nullptr, inputs, directions, grad, query, bias, terms, workspace, begin, end);
  };
  kernels.senders = [](const AttentionSetup& setup, const AttentionEdges& edges,
                       const AttentionInputs<Scalar>& inputs, const AttentionInputs<Scalar>* directions,
                       const Scalar* grad, const AttentionTerms<Scalar>& terms, Scalar* key, Scalar* value,
                       int64_t begin, int64_t end) {
    dispatch<Scalar, Senders>(
        setup, directions != nullptr, edges, inputs, directions, grad, terms, key, value, begin, end);
  };
  return kernels;
}

}  // namespace

AttentionKernels<float> attention_kernels_float() { return make_kernels<float>(); }
AttentionKernels<double> attention_kernels_double() { return make_kernels<double>(); }

}  // namespace DKMP_ISA
}  // namespace dkmp
