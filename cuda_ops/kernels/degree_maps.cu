// degree_map: what DKMP^C's layers compute for every atom and channel on its own; see degree_maps_plan.cuh.
//
// One thread per atom and channel; neighbouring threads read neighbouring channels. Every number is read and written
// once, so bytes are the compulsory ones.
//
// Macros: DKMP_DEGREE_MAP (the map's number), DKMP_SCALAR, DKMP_DUAL.
#include "common.cuh"
#include "degree_maps_plan.cuh"

#ifndef DKMP_DEGREE_MAP
#define DKMP_DEGREE_MAP 0
#endif

using namespace dkmp;

DKMP_INLINE float arc_tangent(float x) { return atanf(x); }
DKMP_INLINE double arc_tangent(double x) { return atan(x); }
template <class T>
DKMP_INLINE void add_arc_tangents(T& value, const T& beyond) {
  value += T(100) * arc_tangent(beyond);
}

#include "degree_maps_arithmetic.cuh"

constexpr DegreeMap kMap = DegreeMap(DKMP_DEGREE_MAP);

constexpr int kNumInputs = kDegreeMaps[kMap].num_inputs, kNumResults = kDegreeMaps[kMap].num_results;
constexpr int kNeeded = num_needed(kMap);

// Numbers of the k-th tensor and those behind it. Recursive: only what is indexed by constants stays in registers.
template <int k = 0, int at = 0>
DKMP_INLINE void load_inputs(
    const Scalar* const (&inputs)[kMaxTensors], const Scalar* const (&directions)[kMaxTensors], Offset atom,
    int channel, int num_channels, Number* in) {
  if constexpr (k < kNumInputs) {
    constexpr int components = kDegreeMaps[kMap].inputs[k];
    const Offset first = atom * components * num_channels + channel;
    const bool absent = k >= kNeeded && !inputs[k];
    const Scalar* const values = absent ? nullptr : inputs[k] + first;
    const Scalar* const direction = directions[k] ? directions[k] + first : nullptr;
#pragma unroll
    for (int m = 0; m < components; ++m)
      in[at + m] = absent ? Number{} : load_number(values, direction, m * num_channels);
    load_inputs<k + 1, at + components>(inputs, directions, atom, channel, num_channels, in);
  }
}

template <int k = 0, int at = 0>
DKMP_INLINE void store_results(
    Scalar* const (&results)[kMaxTensors], Offset atom, int channel, int num_channels, const Number* out) {
  if constexpr (k < kNumResults) {
    constexpr int components = kDegreeMaps[kMap].results[k];
    Scalar* to = results[k] + (atom * components * num_channels + channel);
#pragma unroll
    for (int m = 0; m < components; ++m) to[m * (Offset)num_channels] = result(out[at + m]);
    store_results<k + 1, at + components>(results, atom, channel, num_channels, out);
  }
}

#define DKMP_TENSORS(type, name) \
  type name##0, type name##1, type name##2, type name##3, type name##4, type name##5, type name##6, type name##7
#define DKMP_LIST(name) {name##0, name##1, name##2, name##3, name##4, name##5, name##6, name##7}

// x: inputs, (N, components d) each, null from the first on that is absent. p: their directions; null is zero.
extern "C" __global__ void __launch_bounds__(64, 4) degree_map(
    DKMP_TENSORS(const Scalar*, x), DKMP_TENSORS(const Scalar*, p), DKMP_TENSORS(Scalar*, y), long long num_atoms,
    int num_channels) {
  const Offset item = (Offset)blockIdx.x * blockDim.x + threadIdx.x;
  const Offset atom = item / num_channels;
  const int channel = (int)(item % num_channels);
  if (atom >= num_atoms) return;
  const Scalar* const inputs[kMaxTensors] = DKMP_LIST(x);
  const Scalar* const directions[kMaxTensors] = DKMP_LIST(p);
  Scalar* const results[kMaxTensors] = DKMP_LIST(y);
  Number in[sum_of(kDegreeMaps[kMap].inputs, kNumInputs)], out[sum_of(kDegreeMaps[kMap].results, kNumResults)];
  load_inputs(inputs, directions, atom, channel, num_channels, in);
  Map<kMap>::template run<Scalar>(in, out);
  store_results(results, atom, channel, num_channels, out);
}
