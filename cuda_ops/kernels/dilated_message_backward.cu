// dilated_message on CUDA, backward: gradients of each sender's key, values, vectors and edges.
//
// One block per sender, laid out as in the forward kernel; the sender's own features stay in registers, its
// receivers' gradients are gathered: 10 numbers per edge and channel (40 bytes in float32), and the table.
#define DKMP_MOST_TAPS (sizeof(Scalar) == 4 && (DKMP_DUAL || kWidth > 64) ? 3 : kTaps)
#include "dilated_message.cuh"

constexpr dkmp::MessagePlan kPlan = dkmp::message_backward_plan(kWidth, DKMP_HEADS, sizeof(Number));
constexpr int kChannels = kPlan.lane_channels, kThreads = kPlan.warps * kWarp;

// Derivatives with respect to an edge's harmonics and, through weight and filters, its distance.
struct EdgeSums {
  Number harmonic[kHarmonics], radial;
};
constexpr int kBlocks = dkmp::message_blocks(kPlan, sizeof(Number));

struct Shared {
  Edge edges[kPlan.edges];
  EdgeSlopes slopes[kPlan.edges];
  Number score[kPlan.edges * kPlan.slots], gradient[kPlan.edges * kPlan.slots];
  EdgeSums sums[kPlan.warps * kPlan.edges];
};
static_assert(sizeof(Shared) == kPlan.edges_bytes, "the launcher reserves what the plan says");

constexpr int kResults = 4 + kHarmonics;
typedef TeamMemory<Shared, kResults, kThreads, kChannels> Memory;
static_assert(sizeof(Memory) <= kPlan.team_bytes, "the launcher reserves what the plan says");

typedef Wide<kChannels> Lane;

// A sender's features and their gradients, for the lane's channels.
struct Sender {
  Lane key, value[3], vector[kHarmonics];
};

DKMP_INLINE Sender load_sender(const Inputs& x, Offset row, int c) {
  Sender s{};
  if (kAttention) s.key = load_wide<kChannels>(x.key, row * kWidth + c);
#pragma unroll
  for (int part = 0; part < 3; ++part) s.value[part] = load_wide<kChannels>(x.value, (row * 3 + part) * kWidth + c);
#pragma unroll
  for (int m = 0; kCarriesVector && m < kHarmonics; ++m)
    s.vector[m] = load_wide<kChannels>(x.vector, (row * kHarmonics + m) * kWidth + c);
  return s;
}

// Sums eight numbers over the warp at once; lane l gets the sum of number l / 4.
DKMP_INLINE Number sum_eight(Number (&x)[8], int lane) {
#pragma unroll
  for (int half = 4; half >= 1; half /= 2) {
    const bool upper = lane & (4 * half);
#pragma unroll
    for (int k = 0; k < half; ++k) {
      const Number keep = upper ? x[k + half] : x[k], give = upper ? x[k] : x[k + half];
      x[k] = keep + from_lane_xor(give, 4 * half);
    }
  }
  return group_sum<4>(x[0]);
}

// One edge's part of the sender's gradients, and the lane's part of the edge's sums. Filters are taken one after the
// other, so that few are held at once.
DKMP_INLINE void differentiate_edge(
    const Inputs& x, const Scalar* grad_scalar, const Scalar* grad_vector, const Edge& g, const EdgeSlopes& slopes,
    const Number& attention, const Number& score_gradient, const Sender& s, int c, Sender& to, EdgeSums& sums) {
  const Offset receiver = g.other;
  const Pack<Scalar, kChannels> grad = load_pack<kChannels>(grad_scalar + receiver * kWidth + c);
  Lane f, slope, projected{}, along{};
  Number by_weight{}, by_filters{};
  blend<kChannels>(x.table, g, &slopes, kWidth + c, f, &slope);
#pragma unroll
  for (int i = 0; i < kChannels; ++i) {
    const Number heard = attention * (grad.at[i] * s.value[0].at[i]);
    to.value[0].at[i] += (g.weight * attention) * (grad.at[i] * f.at[i]);
    by_weight += heard * f.at[i];
    by_filters += (g.weight * heard) * slope.at[i];
  }
  blend<kChannels>(x.table, g, &slopes, 3 * kWidth + c, f, &slope);
  Lane carried;
  if (kCarriesVector) {
    Lane slope2;
    blend<kChannels>(x.table, g, &slopes, 2 * kWidth + c, carried, &slope2);
    // Kept for `along`, which is known only after the harmonics.
#pragma unroll
    for (int m = 0; m < kHarmonics; ++m) {
      const Pack<Scalar, kChannels> grad_m =
          load_pack<kChannels>(grad_vector + (receiver * kHarmonics + m) * kWidth + c);
      sums.harmonic[m] = Number{};
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
        along.at[i] += grad_m.at[i] * s.vector[m].at[i];
        projected.at[i] += grad_m.at[i] * g.harmonic[m];
        to.vector[m].at[i] += grad_m.at[i] * (g.weight * (s.value[1].at[i] * carried.at[i]));
        sums.harmonic[m] += grad_m.at[i] * (g.weight * (s.value[2].at[i] * f.at[i]));
      }
    }
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      const Number v1_along = s.value[1].at[i] * along.at[i];
      to.value[1].at[i] += g.weight * (along.at[i] * carried.at[i]);
      by_weight += v1_along * carried.at[i];
      by_filters += (g.weight * v1_along) * slope2.at[i];
    }
  } else {
#pragma unroll
    for (int m = 0; m < kHarmonics; ++m) {
      const Pack<Scalar, kChannels> grad_m =
          load_pack<kChannels>(grad_vector + (receiver * kHarmonics + m) * kWidth + c);
      sums.harmonic[m] = Number{};
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
        projected.at[i] += grad_m.at[i] * g.harmonic[m];
        sums.harmonic[m] += grad_m.at[i] * (g.weight * (s.value[2].at[i] * f.at[i]));
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kChannels; ++i) {
    const Number v2_projected = s.value[2].at[i] * projected.at[i];
    to.value[2].at[i] += g.weight * (projected.at[i] * f.at[i]);
    by_weight += v2_projected * f.at[i];
    by_filters += (g.weight * v2_projected) * slope.at[i];
  }
  if (kAttention) {
    const Lane q = load_wide<kChannels>(x.query, receiver * kWidth + c);
    blend<kChannels>(x.table, g, &slopes, c, f, &slope);
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      const Number by_query = score_gradient * q.at[i];
      to.key.at[i] += by_query * f.at[i];
      by_filters += (by_query * s.key.at[i]) * slope.at[i];
    }
  }
  sums.radial = by_weight * slopes.weight_slope + by_filters;
}

// Chain rule from the radial sum and the harmonics back to the edge vector; adds to `out` in later passes.
DKMP_INLINE void put_edge_gradient(const EdgeSlopes& g, const EdgeSums& sums, bool add, Scalar poison, Scalar* out) {
  const Number(&h)[kHarmonics] = sums.harmonic;
  const Scalar root3 = Scalar(1.7320508075688772935);
  const Number ux = g.unit[0], uy = g.unit[1], uz = g.unit[2];
  const Number gx = h[0] + root3 * (h[3] * uz + h[4] * uy) - (h[5] + root3 * h[7]) * ux;
  const Number gy = h[1] + root3 * (h[4] * ux + h[6] * uz) + Scalar(2) * (h[5] * uy);
  const Number gz = h[2] + root3 * (h[3] * ux + h[6] * uy) + (root3 * h[7] - h[5]) * uz;
  const Number along = sums.radial - (gx * ux + gy * uy + gz * uz) * g.inverse_distance;
  const Number gradient[3] = {
      gx * g.inverse_distance + along * ux, gy * g.inverse_distance + along * uy, gz * g.inverse_distance + along * uz};
#pragma unroll
  for (int k = 0; k < 3; ++k) out[k] = (add ? out[k] : poison) + result(gradient[k]);
}

extern "C" __global__ void __launch_bounds__(kThreads* kPlan.most_teams, kBlocks) dilated_message_backward(
    const int* starts, const int* list, const int* broken, const long long* receivers, MESSAGE_ARGUMENTS,
    const Scalar* grad_scalar, const Scalar* grad_vector, Scalar* to_edge_vector, Scalar* to_key, Scalar* to_value,
    Scalar* to_vector) {
  DYN_SHARED(Memory, memory);
  const Inputs x = MESSAGE_INPUTS;
  const Shell shell = MESSAGE_SHELL;
  const Offset row = blockIdx.x;
  const Place place = find_place<kPlan.warps>();
  const Part part = part_of<kPlan.warps>(starts, row, place);
  const int lane = place.thread % kWarp, warp = place.thread / kWarp;
  Shared* const shared = &memory[place.team].shared;
  const Scalar poison = *broken ? Scalar(NAN) : Scalar(0);
  for (int pass = 0; pass < kPlan.passes; ++pass) {
    const int first_channel = pass * kThreads * kChannels, c = first_channel + place.thread * kChannels;
    const Sender s = load_sender(x, row, c);
    Sender to{};
    for (int first = part.begin; first < part.stop; first += kPlan.edges) {
      const int count = smaller(kPlan.edges, part.end - first);
      // No barrier: a thread replaces the edges that itself was the last to read.
      for (int e = place.thread; e < count; e += kThreads) {
        const int edge = list[first + e];
        set_edge(shell, x.edge_vector, edge, int(receivers[edge]), -1, shared->edges[e], shared->slopes[e]);
      }
      sync_team<kPlan.warps>();
      if (kAttention)
        weigh_edges<kChannels, kPlan.warps, kPlan.passes, kPlan.slots, true>(
            x, grad_scalar, shared->edges, count, row, false, pass, place.thread, shared->score, shared->gradient);
      for (int e = 0; e < count; ++e) {
        const int slot = e * kPlan.slots + c / kHeadWidth * (kPlan.slots / kHeads);
        Number attention{}, score_gradient{};
        EdgeSums sums;
        attention = attention + Scalar(1);
        if (kAttention) attention = shared->score[slot], score_gradient = shared->gradient[slot];
        differentiate_edge(
            x, grad_scalar, grad_vector, shared->edges[e], shared->slopes[e], attention, score_gradient, s, c, to, sums);
        EdgeSums& out = shared->sums[warp * kPlan.edges + e];
        const Number radial = warp_sum(sums.radial), harmonic = sum_eight(sums.harmonic, lane);
        if (lane == 0) out.radial = radial;
        if (lane % 4 == 0) out.harmonic[lane / 4] = harmonic;
      }
      sync_team<kPlan.warps>();
      for (int e = place.thread; e < count; e += kThreads) {
        EdgeSums sums = shared->sums[e];
        for (int w = 1; w < kPlan.warps; ++w) {
          const EdgeSums& more = shared->sums[w * kPlan.edges + e];
          for (int m = 0; m < kHarmonics; ++m) sums.harmonic[m] += more.harmonic[m];
          sums.radial += more.radial;
        }
        put_edge_gradient(
            shared->slopes[e], sums, pass > 0, poison, to_edge_vector + 3 * Offset(shared->edges[e].index));
      }
    }
    if (place.teams == 1) {
      if (kAttention) store_wide<kChannels>(to_key + row * kWidth + c, to.key, poison);
#pragma unroll
      for (int k = 0; k < 3; ++k) store_wide<kChannels>(to_value + (row * 3 + k) * kWidth + c, to.value[k], poison);
#pragma unroll
      for (int m = 0; kCarriesVector && m < kHarmonics; ++m)
        store_wide<kChannels>(to_vector + (row * kHarmonics + m) * kWidth + c, to.vector[m], poison);
      continue;
    }
    sync_team<kPlan.warps>();
    auto& parts = memory[place.team].parts;
#pragma unroll
    for (int k = 0; k < 3; ++k) parts[k * kThreads + place.thread] = pack_results(to.value[k]);
    if (kAttention) parts[3 * kThreads + place.thread] = pack_results(to.key);
#pragma unroll
    for (int m = 0; kCarriesVector && m < kHarmonics; ++m)
      parts[(4 + m) * kThreads + place.thread] = pack_results(to.vector[m]);
    __syncthreads();
    add_teams<kCarriesVector ? kResults : 4, kThreads, kChannels>(memory, place.teams, poison, [&](int r) -> Scalar* {
      if (r == 3) return kAttention ? to_key + row * kWidth + first_channel : nullptr;
      return first_channel +
             (r < 3 ? to_value + (row * 3 + r) * kWidth : to_vector + (row * kHarmonics + r - 4) * kWidth);
    });
    if (kPlan.passes > 1) __syncthreads();
  }
}
