// What the neighbour searches and their launchers agree on. Plain C++: both read this text.
#pragma once

#include "common_plan.cuh"

namespace dkmp {

// What can be wrong with the input: bits of the status word.
constexpr unsigned long long kBadPositions = 1, kBadBatch = 2, kBadBox = 4, kTooManyImages = 8, kTooManyEdges = 16,
                             kMissingBox = 32, kFlatBox = 64;

constexpr int kCellsPerAtom = 8;
constexpr int kRecordWords = 36;  // of 4 bytes, in the record of a system

// Shells of which radius_shells counts a receiver's edges in shared memory; of more, in global memory.
constexpr int kSharedShells = 128;

// Cell offset of an edge of a graph that cannot be trusted: edge_vectors makes it NaN.
constexpr int kBrokenOffset = -2147483647 - 1;

// Shared bytes of one warp of distance_ranks: `capacity` distances, as many atoms, and their number.
DKMP_PLAN long long rank_list_bytes(long long capacity, int scalar_bytes) {
  return capacity * scalar_bytes + (capacity + 2) / 2 * 8;
}

}  // namespace dkmp
