// How a row's channels and edges are laid out over a block. Plain C++: kernels, launcher and tests read this text.
#pragma once

#include "common_plan.cuh"
#include "spline_plan.cuh"

namespace dkmp {

// A block handles one row (receiver or sender). A team of `warps` holds the row's channels, `lane_channels` neighbours
// per lane; `passes` over the row are made where a team is too small for all channels. The row's edges are divided
// among one to `most_teams` teams, which take theirs `edges` at a time.
struct MessagePlan {
  int lane_channels, warps, passes;
  int slots;  // partial scores per edge: one per head, more where a head is wider than a warp
  int edges, edges_bytes;
  int most_teams, team_bytes;  // shared memory of one team among several
};

// Shared bytes of a team that leave room for at least two blocks on every multiprocessor; the most that all teams may
// have on every GPU; warps that a block needs at most.
constexpr int kMessageSharedBytes = 32 * 1024, kTeamsSharedBytes = 64 * 1024;
constexpr int kMostWarps = 8;
// Warps per multiprocessor below which rows are divided among more teams.
constexpr int kBusyWarps = 16;

// Largest power of two up to `most` that divides head and warp-wise width.
DKMP_PLAN int message_lane_channels(int width, int head_width, int most) {
  int channels = most;
  while (channels > 1 && (width % (32 * channels) != 0 || head_width % channels != 0)) channels /= 2;
  return channels;
}

DKMP_PLAN int most_warps(int chunks) {
  int warps = kMostWarps;
  while (chunks % warps != 0) --warps;
  return warps;
}

// number_bytes: of a scalar, doubled for dual numbers. per_edge: numbers of shared memory per edge; per_slot: per
// edge and slot; per_warp: per edge and warp. results: numbers per channel that teams add up.
DKMP_PLAN MessagePlan message_plan(
    int width, int heads, int number_bytes, int most_channels, int per_edge, int per_slot, int per_warp,
    int results) {
  MessagePlan plan{};
  const int head_width = heads > 0 ? width / heads : width;
  plan.lane_channels = message_lane_channels(width, head_width, most_channels);
  const int chunk = 32 * plan.lane_channels, chunks = width / chunk;
  plan.warps = most_warps(chunks);
  plan.passes = chunks / plan.warps;
  plan.slots = heads == 0 ? 1 : heads * (head_width > chunk ? head_width / chunk : 1);
  const int bytes = 16 + number_bytes * (per_edge + per_slot * plan.slots + per_warp * plan.warps);
  plan.edges = 32;
  while (plan.edges > 1 && plan.edges * bytes > kMessageSharedBytes) plan.edges /= 2;
  plan.edges_bytes = plan.edges * bytes;
  const int result_bytes = results * chunk * plan.warps * number_bytes;
  plan.team_bytes = ((plan.edges_bytes > result_bytes ? plan.edges_bytes : result_bytes) + 15) / 16 * 16;
  plan.most_teams = results == 0 ? 1 : kMostWarps;
  while (plan.most_teams > 1 && (plan.most_teams * plan.warps > kMostWarps ||
                                 plan.most_teams * plan.team_bytes > kTeamsSharedBytes))
    plan.most_teams /= 2;
  return plan;
}

// Teams per row that give every multiprocessor enough warps to wait for memory with.
DKMP_PLAN int message_teams(const MessagePlan& plan, long long rows, int multiprocessors) {
  int teams = plan.most_teams;
  while (teams > 1 && rows * plan.warps * teams > (long long)multiprocessors * kBusyWarps) teams /= 2;
  return teams;
}

DKMP_PLAN int message_shared_bytes(const MessagePlan& plan, int teams) {
  return teams == 1 ? plan.edges_bytes : teams * plan.team_bytes;
}

// Of the kernels' Edge (window, taps, harmonics) and EdgeSlopes (their slopes, direction, inverse distance).
constexpr int kEdgeNumbers = 2 + kSplineTaps + 8, kEdgeSlopeNumbers = 2 + kSplineTaps + 4;

// More channels per lane load wider; fewer leave registers for the sums of the backward kernels.
DKMP_PLAN MessagePlan message_forward_plan(int width, int heads, int number_bytes) {
  return message_plan(width, heads, number_bytes, 16 / number_bytes, kEdgeNumbers, 1, 0, 9);
}
DKMP_PLAN MessagePlan message_backward_plan(int width, int heads, int number_bytes) {
  return message_plan(
      width, heads, number_bytes, number_bytes == 4 ? 2 : 1, kEdgeNumbers + kEdgeSlopeNumbers, 2, 9, 12);
}
DKMP_PLAN MessagePlan message_query_plan(int width, int heads, int number_bytes) {
  return message_plan(width, heads, number_bytes, 16 / number_bytes, kEdgeNumbers, 2, 0, 1);
}
DKMP_PLAN MessagePlan message_table_plan(int width, int number_bytes) {
  return message_plan(width, 0, number_bytes, 1, kEdgeNumbers, 1, 0, 0);
}

// Blocks that a multiprocessor must hold, for __launch_bounds__: leaves a thread 128 registers, 255 where the numbers
// take 16 bytes. Left alone, ptxas spills on some architectures to hold more blocks.
DKMP_PLAN int message_blocks(const MessagePlan& plan, int number_bytes) {
  const int blocks = 65536 / (plan.most_teams * plan.warps * 32 * (number_bytes == 16 ? 256 : 128));
  return blocks > 16 ? 16 : blocks < 1 ? 1 : blocks;
}

// Heads are padded to a power of two of channels such that the width is a multiple of a warp.
DKMP_PLAN int message_head_width(int head_width, int heads) {
  int padded = 1;
  while (padded < head_width || padded * heads % 32 != 0) padded *= 2;
  return padded;
}

}  // namespace dkmp
