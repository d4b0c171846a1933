// What degree_maps.cpp (tensors, autograd, threads) hands to degree_maps.isa.cpp (inner loops).
//
// A map computes, for every atom and channel on its own, some components from others. Its tensors are (N, C, d) in
// memory: C components of d channels. Every map is followed by its backward, J^T u for the map's Jacobian J, whose
// inputs are those of the map and u, and whose results are the gradients of the map's inputs. Further inputs are other
// gradients of these, which are added: one pass over memory instead of three.
#pragma once

#include <cstdint>

namespace dkmp {

enum DegreeMap : int64_t {
  kInvariants,
  kInvariantsBackward,
  kGates,
  kGatesBackward,
  kProducts,
  kProductsBackward,
  kProductGates,
  kProductGatesBackward,
  kProductInvariants,
  kProductInvariantsBackward,
  kUpdate,
  kUpdateBackward,
  kNumMaps
};

constexpr int kMaxTensors = 7;

struct DegreeMapShape {
  const char* name;
  int num_inputs, num_results;
  int inputs[kMaxTensors], results[kMaxTensors];  // components of each
};

// kInvariants: pairs of features of degree 1 and of degree 2 -> their invariants.
// kGates: gates, invariants, pairs -> change of the scalars, change of the spherical features.
// kProducts: pairs -> their products (degrees 1 and 2), invariants of pairs and products.
// kProductGates: gates, invariants, pairs, products -> changes.
// kProductInvariants: pairs -> invariants of pairs and products.
// kUpdate: as kProductGates, computing the products itself.
constexpr DegreeMapShape kDegreeMaps[kNumMaps] = {
    {"degree_invariants", 2, 1, {6, 10}, {2}},
    {"degree_invariants", 3, 2, {6, 10, 2}, {6, 10}},
    {"degree_gates", 4, 2, {5, 2, 6, 10}, {1, 8}},
    {"degree_gates", 6, 4, {5, 2, 6, 10, 1, 8}, {5, 2, 6, 10}},
    {"degree_products", 2, 2, {6, 10}, {8, 4}},
    {"degree_products", 4, 2, {6, 10, 8, 4}, {6, 10}},
    {"degree_gates", 5, 2, {9, 4, 6, 10, 8}, {1, 8}},
    {"degree_gates", 7, 5, {9, 4, 6, 10, 8, 1, 8}, {9, 4, 6, 10, 8}},
    {"degree_product_invariants", 2, 1, {6, 10}, {4}},
    {"degree_product_invariants", 5, 2, {6, 10, 4, 6, 10}, {6, 10}},
    {"degree_update", 4, 2, {9, 4, 6, 10}, {1, 8}},
    {"degree_update", 6, 4, {9, 4, 6, 10, 1, 8}, {9, 4, 6, 10}},
};

// Atoms [begin, end) of a map. With directions (null for those that are zero) the results are directional derivatives.
template <class Scalar>
using RunDegreeMap = void (*)(
    DegreeMap map, const Scalar* const* inputs, const Scalar* const* directions, Scalar* const* results,
    int64_t num_channels, int64_t begin, int64_t end);

}  // namespace dkmp
