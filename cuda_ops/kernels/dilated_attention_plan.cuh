// How dilated_attention lays heads out over a warp. Plain C++: kernels and launcher read this text.
#pragma once

#include "common_plan.cuh"

namespace dkmp {

constexpr int kAttentionThreads = 128;
// The widest load; arrays must be aligned to it.
constexpr int kAttentionPackBytes = 16;
// Wider heads take more registers than a thread has.
constexpr int kWidestHead = 256;

// Channels that are read at once: the widest pack that divides a head.
DKMP_PLAN int attention_pack(int head_width, int scalar_bytes) {
  const int widest = kAttentionPackBytes / scalar_bytes;
  return head_width % widest == 0 ? widest : head_width % 2 == 0 ? 2 : 1;
}

// Lanes of a warp that hold one head: as many as it has packs, rounded up to a power of two.
DKMP_PLAN int attention_head_lanes(int head_width, int scalar_bytes) {
  const int packs = head_width / attention_pack(head_width, scalar_bytes);
  int lanes = 1;
  while (lanes < packs && lanes < 32) lanes *= 2;
  return lanes;
}

// Numbers per atom and head that receivers leave for senders: largest logit, 1 / sum of exponentials, mean gradient,
// and the tangents of the last two.
DKMP_PLAN int attention_statistics(bool dual) { return dual ? 5 : 3; }

}  // namespace dkmp
