// dilated_message on CUDA, forward: sums of scalar and vector messages over each receiver's edges.
//
// One block per receiver, whose edges are divided among the block's teams. A team's threads first compute one edge's
// geometry each (shared memory), then hold channels and go over the edges, so sums stay in registers and are added in
// the order of the edges, in the end in the order of the teams. Per edge and channel 12 features are gathered (key, 3
// values, 8 vectors; 48 bytes in float32) and 24 table entries read, which stay in L1 and L2.
#include "dilated_message.cuh"

constexpr dkmp::MessagePlan kPlan = dkmp::message_forward_plan(kWidth, DKMP_HEADS, sizeof(Number));
constexpr int kChannels = kPlan.lane_channels, kThreads = kPlan.warps * kWarp;
constexpr int kBlocks = dkmp::message_blocks(kPlan, sizeof(Number));

struct Shared {
  Edge edges[kPlan.edges];
  Number score[kPlan.edges * kPlan.slots];
};
static_assert(sizeof(Shared) == kPlan.edges_bytes, "the launcher reserves what the plan says");

constexpr int kResults = 1 + kHarmonics;
typedef TeamMemory<Shared, kResults, kThreads, kChannels> Memory;
static_assert(sizeof(Memory) <= kPlan.team_bytes, "the launcher reserves what the plan says");

typedef Wide<kChannels> Lane;

// Adds one edge's messages to the lane's channels.
DKMP_INLINE void add_messages(
    const Inputs& x, const Edge& g, const Number& scalar_weight, int c, Lane& to_scalar, Lane (&to_vector)[kHarmonics]) {
  const Offset sent = Offset(g.other) * 3 * kWidth + c, from = Offset(g.other) * kHarmonics * kWidth + c;
  Lane f;
  blend<kChannels>(x.table, g, nullptr, kWidth + c, f, nullptr);
  Lane v = load_wide<kChannels>(x.value, sent);
#pragma unroll
  for (int i = 0; i < kChannels; ++i) to_scalar.at[i] += scalar_weight * (v.at[i] * f.at[i]);
  blend<kChannels>(x.table, g, nullptr, 3 * kWidth + c, f, nullptr);
  v = load_wide<kChannels>(x.value, sent + 2 * kWidth);
#pragma unroll
  for (int i = 0; i < kChannels; ++i) {
    const Number turned = g.weight * (v.at[i] * f.at[i]);
#pragma unroll
    for (int m = 0; m < kHarmonics; ++m) to_vector[m].at[i] += g.harmonic[m] * turned;
  }
  if (!kCarriesVector) return;
  blend<kChannels>(x.table, g, nullptr, 2 * kWidth + c, f, nullptr);
  v = load_wide<kChannels>(x.value, sent + kWidth);
#pragma unroll
  for (int i = 0; i < kChannels; ++i) v.at[i] = g.weight * (v.at[i] * f.at[i]);
#pragma unroll
  for (int m = 0; m < kHarmonics; ++m) {
    const Lane carried = load_wide<kChannels>(x.vector, from + m * kWidth);
#pragma unroll
    for (int i = 0; i < kChannels; ++i) to_vector[m].at[i] += carried.at[i] * v.at[i];
  }
}

extern "C" __global__ void __launch_bounds__(kThreads* kPlan.most_teams, kBlocks) dilated_message_forward(
    const int* starts, const int* list, const int* broken, const long long* senders, MESSAGE_ARGUMENTS,
    Scalar* scalar, Scalar* vector_sum) {
  DYN_SHARED(Memory, memory);
  const Inputs x = MESSAGE_INPUTS;
  const Shell shell = MESSAGE_SHELL;
  const Offset row = blockIdx.x;
  const Place place = find_place<kPlan.warps>();
  const Part part = part_of<kPlan.warps>(starts, row, place);
  Shared* const shared = &memory[place.team].shared;
  const Scalar poison = *broken ? Scalar(NAN) : Scalar(0);
  for (int pass = 0; pass < kPlan.passes; ++pass) {
    const int first_channel = pass * kThreads * kChannels, c = first_channel + place.thread * kChannels;
    Lane to_scalar{}, to_vector[kHarmonics]{};
    for (int first = part.begin; first < part.stop; first += kPlan.edges) {
      const int count = smaller(kPlan.edges, part.end - first);
      sync_team<kPlan.warps>();
      for (int e = place.thread; e < count; e += kThreads) {
        EdgeSlopes unused;
        const int edge = list[first + e];
        set_edge(shell, x.edge_vector, edge, int(senders[edge]), -1, shared->edges[e], unused);
      }
      sync_team<kPlan.warps>();
      if (kAttention)
        weigh_edges<kChannels, kPlan.warps, kPlan.passes, kPlan.slots, false>(
            x, nullptr, shared->edges, count, row, true, pass, place.thread, shared->score, nullptr);
      for (int e = 0; e < count; ++e) {
        const Edge& g = shared->edges[e];
        Number scalar_weight = g.weight;
        if (kAttention)
          scalar_weight = g.weight * shared->score[e * kPlan.slots + c / kHeadWidth * (kPlan.slots / kHeads)];
        add_messages(x, g, scalar_weight, c, to_scalar, to_vector);
      }
    }
    if (place.teams == 1) {
      store_wide<kChannels>(scalar + row * kWidth + c, to_scalar, poison);
#pragma unroll
      for (int m = 0; m < kHarmonics; ++m)
        store_wide<kChannels>(vector_sum + (row * kHarmonics + m) * kWidth + c, to_vector[m], poison);
      continue;
    }
    sync_team<kPlan.warps>();
    auto& parts = memory[place.team].parts;
    parts[place.thread] = pack_results(to_scalar);
#pragma unroll
    for (int m = 0; m < kHarmonics; ++m) parts[(1 + m) * kThreads + place.thread] = pack_results(to_vector[m]);
    __syncthreads();
    add_teams<kResults, kThreads, kChannels>(memory, place.teams, poison, [&](int r) {
      return first_channel + (r == 0 ? scalar + row * kWidth : vector_sum + (row * kHarmonics + r - 1) * kWidth);
    });
    if (kPlan.passes > 1) __syncthreads();
  }
}
