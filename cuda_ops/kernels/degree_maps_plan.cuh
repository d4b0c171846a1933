// The degree maps and their tensors. Plain C++: kernels, launcher, CPU loops and tests read this text.
//
// A map computes, for every atom and channel on its own, some components from others. Its tensors are (N, C, d) in
// memory: C components of d channels. Every map is followed by its backward, J^T u for the map's Jacobian J, whose
// inputs are those of the map and u, and whose results are the gradients of the map's inputs.
//
// Inputs of a map beyond those that its backward gives gradients of, and of a backward beyond u, are added to the first
// results: one pass over memory instead of three. They may be absent.
#pragma once

#include "common_plan.cuh"

namespace dkmp {

enum DegreeMap : long long {
  kInvariants,
  kInvariantsBackward,
  kGates,
  kGatesBackward,
  kProducts,
  kProductsBackward,
  kProductGates,
  kProductGatesBackward,
  kFeatures,
  kFeaturesBackward,
  kUpdate,
  kUpdateBackward,
  kNumMaps
};

constexpr int kMaxTensors = 8;

struct DegreeMapShape {
  const char* name;
  int num_inputs, num_results;
  int inputs[kMaxTensors], results[kMaxTensors];  // components of each
};

// kInvariants: pairs of features of degree 1 and of degree 2 -> their invariants.
// kGates: gates, invariants, pairs -> change of the scalars, change of the spherical features.
// kProducts: pairs -> their products (degrees 1 and 2), invariants of pairs and products.
// kProductGates: gates, invariants, pairs, products -> changes.
// kFeatures: pairs; gates of messages, messages, scalars -> gated messages, invariants of pairs and products, scalars.
// kUpdate: gates, pairs; scalars and spherical features -> these with the changes of kProductGates.
DKMP_PLAN DegreeMapShape kDegreeMaps[kNumMaps] = {
    {"degree_invariants", 2, 1, {6, 10}, {2}},
    {"degree_invariants", 3, 2, {6, 10, 2}, {6, 10}},
    {"degree_gates", 4, 2, {5, 2, 6, 10}, {1, 8}},
    {"degree_gates", 6, 4, {5, 2, 6, 10, 1, 8}, {5, 2, 6, 10}},
    {"degree_products", 2, 2, {6, 10}, {8, 4}},
    {"degree_products", 4, 2, {6, 10, 8, 4}, {6, 10}},
    {"degree_gates", 5, 2, {9, 4, 6, 10, 8}, {1, 8}},
    {"degree_gates", 7, 5, {9, 4, 6, 10, 8, 1, 8}, {9, 4, 6, 10, 8}},
    {"degree_features", 5, 1, {6, 10, 1, 1, 1}, {6}},
    {"degree_features", 8, 5, {6, 10, 1, 1, 1, 6, 6, 10}, {6, 10, 1, 1, 1}},
    {"degree_update", 5, 2, {9, 6, 10, 1, 8}, {1, 8}},
    {"degree_update", 5, 3, {9, 6, 10, 1, 8}, {9, 6, 10}},
};

DKMP_PLAN bool is_backward(long long map) { return map % 2 == 1; }

// Inputs of a map that have gradients, and how many of a map's or backward's inputs are not there to be added.
DKMP_PLAN int num_primal(long long map) { return kDegreeMaps[is_backward(map) ? map : map + 1].num_results; }
DKMP_PLAN int num_needed(long long map) {
  return num_primal(map) + (is_backward(map) ? kDegreeMaps[map - 1].num_results : 0);
}

DKMP_PLAN int sum_of(const int* numbers, int count) {
  int sum = 0;
  for (int k = 0; k < count; ++k) sum += numbers[k];
  return sum;
}

}  // namespace dkmp
