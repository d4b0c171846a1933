// What degree_maps.cpp (tensors, autograd, threads) hands to degree_maps.isa.cpp (inner loops).
#pragma once

#include <cstdint>

#include "../kernels/degree_maps_plan.cuh"

namespace dkmp {

// Atoms [begin, end) of a map. With directions (null for those that are zero) the results are directional derivatives.
template <class Scalar>
using RunDegreeMap = void (*)(
    DegreeMap map, const Scalar* const* inputs, const Scalar* const* directions, Scalar* const* results,
    int64_t num_channels, int64_t begin, int64_t end);

}  // namespace dkmp
