// dilated_message on CUDA, backward: gradient of each receiver's query.
//
// One block per receiver, laid out as in the forward kernel. Attention and its gradient are computed once more
// instead of being stored per edge by the backward of the senders (E x heads numbers); where the gradient of the
// spline table is wanted, they are stored for it. Per edge and channel 2 features are gathered (key, value), 8 bytes.
#include "dilated_message.cuh"

constexpr dkmp::MessagePlan kPlan = dkmp::message_query_plan(kWidth, DKMP_HEADS, sizeof(Number));
constexpr int kChannels = kPlan.lane_channels, kThreads = kPlan.warps * kWarp, kSpan = kPlan.slots / kHeads;
constexpr int kBlocks = dkmp::message_blocks(kPlan, sizeof(Number));

struct Shared {
  Edge edges[kPlan.edges];
  Number score[kPlan.edges * kPlan.slots], gradient[kPlan.edges * kPlan.slots];
};
static_assert(sizeof(Shared) == kPlan.edges_bytes, "the launcher reserves what the plan says");

constexpr int kResults = 1;
typedef TeamMemory<Shared, kResults, kThreads, kChannels> Memory;
static_assert(sizeof(Memory) <= kPlan.team_bytes, "the launcher reserves what the plan says");

// Leaves (edge, head, 2) numbers, attention and gradient of its score, for the gradient of the table.
DKMP_INLINE void store_scores(const Shared& shared, int count, int pass, int thread, Scalar* scores) {
  constexpr int heads = kSpan > 1 ? kHeads : kHeads / kPlan.passes;
  for (int at = thread; at < count * heads; at += kThreads) {
    const int e = at / heads, head = (kSpan > 1 ? 0 : pass * heads) + at % heads, slot = e * kPlan.slots + head * kSpan;
    Number* out = reinterpret_cast<Number*>(scores) + 2 * (Offset(shared.edges[e].index) * kHeads + head);
    out[0] = shared.score[slot];
    out[1] = shared.gradient[slot];
  }
}

extern "C" __global__ void __launch_bounds__(kThreads* kPlan.most_teams, kBlocks) dilated_message_query(
    const int* starts, const int* list, const int* broken, const long long* senders, MESSAGE_ARGUMENTS,
    const Scalar* grad_scalar, Scalar* to_query, Scalar* scores) {
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
    Wide<kChannels> to{};
    for (int first = part.begin; first < part.stop; first += kPlan.edges) {
      const int count = smaller(kPlan.edges, part.end - first);
      sync_team<kPlan.warps>();
      for (int e = place.thread; e < count; e += kThreads) {
        EdgeSlopes unused;
        const int edge = list[first + e];
        set_edge(shell, x.edge_vector, edge, int(senders[edge]), -1, shared->edges[e], unused);
      }
      sync_team<kPlan.warps>();
      weigh_edges<kChannels, kPlan.warps, kPlan.passes, kPlan.slots, true>(
          x, grad_scalar, shared->edges, count, row, true, pass, place.thread, shared->score, shared->gradient);
      if (scores) store_scores(*shared, count, pass, place.thread, scores);
      for (int e = 0; e < count; ++e) {
        const Edge& g = shared->edges[e];
        const Number by_score = shared->gradient[e * kPlan.slots + c / kHeadWidth * kSpan];
        const Wide<kChannels> k = load_wide<kChannels>(x.key, Offset(g.other) * kWidth + c);
        Wide<kChannels> f;
        blend<kChannels>(x.table, g, nullptr, c, f, nullptr);
#pragma unroll
        for (int i = 0; i < kChannels; ++i) to.at[i] += by_score * (k.at[i] * f.at[i]);
      }
    }
    if (place.teams == 1) {
      store_wide<kChannels>(to_query + row * kWidth + c, to, poison);
      continue;
    }
    sync_team<kPlan.warps>();
    memory[place.team].parts[place.thread] = pack_results(to);
    __syncthreads();
    add_teams<kResults, kThreads, kChannels>(
        memory, place.teams, poison, [&](int) { return to_query + row * kWidth + first_channel; });
    if (kPlan.passes > 1) __syncthreads();
  }
}
