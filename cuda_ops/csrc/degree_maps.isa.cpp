// Inner loops of degree_invariants, degree_products, degree_gates, degree_features and degree_update, compiled once per
// instruction-set level into the namespace DKMP_ISA. Nothing here includes ATen or standard containers (see
// dilated_message.isa.cpp). What is computed is in ../kernels/degree_maps_arithmetic.cuh.
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "degree_maps.h"

namespace dkmp {
namespace DKMP_ISA {
namespace {

#include "dual.h"
#include "lanes.h"
#include "dual_arrays.h"

#define DKMP_INLINE __attribute__((always_inline)) inline

inline float arc_tangent(float x) { return __builtin_atanf(x); }
inline double arc_tangent(double x) { return __builtin_atan(x); }

template <class Scalar>
DKMP_INLINE void add_arc_tangents(Lane<Scalar>& value, const Lane<Scalar>& beyond) {
  // The sum tells in one number whether any lane is beyond, a NaN included.
  if (sum_lanes(beyond * beyond) != Scalar(0))
    for (int k = 0; k < kLanes<Scalar>; ++k) value[k] += Scalar(100) * arc_tangent(beyond[k]);
}

#include "../kernels/degree_maps_arithmetic.cuh"

// As `result` of numbers: the value of a plain kernel, the derivative of a dual one.
template <class Scalar>
DKMP_INLINE Lane<Scalar> result_lane(const Lane<Scalar>& x) {
  return x;
}
template <class Scalar>
DKMP_INLINE Lane<Scalar> result_lane(const Dual<Lane<Scalar>>& x) {
  return x.t;
}

template <class Scalar, bool dual, DegreeMap map, bool whole>
DKMP_INLINE void run_lanes(
    const Scalar* const* inputs, const Scalar* const* directions, Scalar* const* results, int64_t num_channels,
    int64_t atom, int64_t channel, int64_t count) {
  using Wide = typename Types<Scalar, dual>::Wide;
  constexpr DegreeMapShape shape = kDegreeMaps[map];
  Wide in[sum_of(shape.inputs, shape.num_inputs)], out[sum_of(shape.results, shape.num_results)];
  int at = 0;
#pragma GCC unroll 7
  for (int k = 0; k < shape.num_inputs; ++k) {
    const int64_t first = atom * shape.inputs[k] * num_channels + channel;
#pragma GCC unroll 10
    for (int m = 0; m < shape.inputs[k]; ++m, ++at) {
      const int64_t from = first + m * num_channels;
      const Lane<Scalar> value = k >= num_needed(map) && !inputs[k] ? Lane<Scalar>{}
                                 : whole                            ? load(inputs[k] + from)
                                                                    : load_part(inputs[k] + from, count);
      if constexpr (dual) {
        in[at].v = value;
        in[at].t = !directions[k] ? Lane<Scalar>{}
                   : whole        ? load(directions[k] + from)
                                  : load_part(directions[k] + from, count);
      } else {
        in[at] = value;
      }
    }
  }
  Map<map>::template run<Scalar>(in, out);
  at = 0;
#pragma GCC unroll 7
  for (int k = 0; k < shape.num_results; ++k) {
    const int64_t first = atom * shape.results[k] * num_channels + channel;
#pragma GCC unroll 10
    for (int m = 0; m < shape.results[k]; ++m, ++at) {
      const Lane<Scalar> lane = result_lane<Scalar>(out[at]);
      std::memcpy(results[k] + first + m * num_channels, &lane, whole ? sizeof(lane) : count * sizeof(Scalar));
    }
  }
}

// Asks for what an atom's lane vector of channels reads: lines of so many rows that no processor foresees them.
template <class Scalar, DegreeMap map>
DKMP_INLINE void prefetch_lanes(const Scalar* const* inputs, int64_t num_channels, int64_t atom, int64_t channel) {
  constexpr DegreeMapShape shape = kDegreeMaps[map];
#pragma GCC unroll 7
  for (int k = 0; k < shape.num_inputs && inputs[k]; ++k) {
    const Scalar* const first = inputs[k] + atom * shape.inputs[k] * num_channels + channel;
#pragma GCC unroll 10
    for (int m = 0; m < shape.inputs[k]; ++m) __builtin_prefetch(first + m * num_channels);
  }
}

template <class Scalar, bool dual, DegreeMap map>
void run_map(
    const Scalar* const* inputs, const Scalar* const* directions, Scalar* const* results, int64_t num_channels,
    int64_t begin, int64_t end) {
  constexpr int64_t lanes = kLanes<Scalar>;
  for (int64_t atom = begin; atom < end; ++atom) {
    int64_t c = 0;
    for (; c + lanes <= num_channels; c += lanes) {
      if (atom + 1 < end) prefetch_lanes<Scalar, map>(inputs, num_channels, atom + 1, c);
      run_lanes<Scalar, dual, map, true>(inputs, directions, results, num_channels, atom, c, lanes);
    }
    if (c < num_channels)
      run_lanes<Scalar, dual, map, false>(inputs, directions, results, num_channels, atom, c, num_channels - c);
  }
}

template <class Scalar>
void run(
    DegreeMap map, const Scalar* const* inputs, const Scalar* const* directions, Scalar* const* results,
    int64_t num_channels, int64_t begin, int64_t end) {
#define DKMP_RUN(MAP)                                                                                             \
  if (map == MAP)                                                                                                 \
    return (directions ? run_map<Scalar, true, MAP> : run_map<Scalar, false, MAP>)(                               \
        inputs, directions, results, num_channels, begin, end);
  DKMP_RUN(kInvariants)
  DKMP_RUN(kInvariantsBackward)
  DKMP_RUN(kGates)
  DKMP_RUN(kGatesBackward)
  DKMP_RUN(kProducts)
  DKMP_RUN(kProductsBackward)
  DKMP_RUN(kProductGates)
  DKMP_RUN(kProductGatesBackward)
  DKMP_RUN(kFeatures)
  DKMP_RUN(kFeaturesBackward)
  DKMP_RUN(kUpdate)
  DKMP_RUN(kUpdateBackward)
#undef DKMP_RUN
}

}  // namespace

RunDegreeMap<float> degree_kernels_float() { return run<float>; }
RunDegreeMap<double> degree_kernels_double() { return run<double>; }

}  // namespace DKMP_ISA
}  // namespace dkmp
