// dilated_message on CUDA, backward: gradient of the spline table (training only).
//
// Edges are sorted by spline interval; an interval's edges all change the same rows of the table, so a block
// that takes a piece of them keeps its sums in registers, without atomics. message_table_sum then adds the pieces in
// order. Per edge and channel 22 numbers are gathered (88 bytes in float32); the table itself is not read.
#include "dilated_message.cuh"

constexpr dkmp::MessagePlan kPlan = dkmp::message_table_plan(kWidth, sizeof(Number));
constexpr int kThreads = kPlan.warps * kWarp;
constexpr int kBlocks = dkmp::message_blocks(kPlan, sizeof(Number));

struct Shared {
  Edge edges[kPlan.edges];
  Number unused[kPlan.edges];
};
static_assert(sizeof(Shared) == kPlan.edges_bytes, "the launcher reserves what the plan says");

// Interval of each of the shell's edges; one more than the last for edges outside the shell or joining no atoms.
extern "C" __global__ void __launch_bounds__(256) message_intervals(
    const long long* edge_index, const long long* ptr, int shell_index, int num_edges, int num_atoms,
    MESSAGE_ARGUMENTS, int* intervals) {
  const Shell shell = MESSAGE_SHELL;
  const Offset e = Offset(blockIdx.x) * blockDim.x + threadIdx.x;
  if (e >= num_edges) return;
  const long long receiver = edge_index[e], sender = edge_index[num_edges + e];
  int interval = num_intervals;
  if (e >= ptr[shell_index] && e < ptr[shell_index + 1] && receiver >= 0 && receiver < num_atoms && sender >= 0 &&
      sender < num_atoms) {
    const Scalar a = edge_vector[3 * e], b = edge_vector[3 * e + 1], c = edge_vector[3 * e + 2];
    interval = spline_interval(shell, square_root(a * a + b * b + c * c));
  }
  intervals[e] = interval;
}

// What one edge adds to the table at one channel, per filter, before the taps.
DKMP_INLINE void filter_gradients(
    const Inputs& x, const Scalar* grad_scalar, const Scalar* grad_vector, const Scalar* scores, const Edge& g,
    Offset receiver, Offset sender, int c, Number (&by)[4]) {
  Number attention{}, score_gradient{};
  attention = attention + Scalar(1);
  if (kAttention) {
    const Number* stored =
        reinterpret_cast<const Number*>(scores) + 2 * (Offset(g.index) * kHeads + c / kHeadWidth);
    attention = stored[0];
    score_gradient = stored[1];
    by[0] = score_gradient * (load_number(x.query.values, x.query.direction, receiver * kWidth + c) *
                              load_number(x.key.values, x.key.direction, sender * kWidth + c));
  }
  Number along{}, projected{}, v[3];
#pragma unroll
  for (int part = 0; part < 3; ++part)
    v[part] = load_number(x.value.values, x.value.direction, (sender * 3 + part) * kWidth + c);
#pragma unroll
  for (int m = 0; m < kHarmonics; ++m) {
    const Scalar grad = grad_vector[(receiver * kHarmonics + m) * kWidth + c];
    projected += grad * g.harmonic[m];
    if (kCarriesVector)
      along += grad * load_number(x.vector.values, x.vector.direction, (sender * kHarmonics + m) * kWidth + c);
  }
  by[1] = (g.weight * attention) * (grad_scalar[receiver * kWidth + c] * v[0]);
  by[2] = g.weight * (v[1] * along);
  by[3] = g.weight * (v[2] * projected);
}

// Block (interval, piece) leaves (rows, 4 filters, d) sums. order: edges sorted by interval; starts: of intervals.
extern "C" __global__ void __launch_bounds__(kThreads, kBlocks) message_table_pieces(
    const long long* starts, const long long* order, const long long* edge_index, int num_edges, int pieces,
    MESSAGE_ARGUMENTS, const Scalar* grad_scalar, const Scalar* grad_vector, const Scalar* scores, Scalar* parts) {
  DYN_SHARED(Shared, shared);
  const Inputs x = MESSAGE_INPUTS;
  const Shell shell = MESSAGE_SHELL;
  const int interval = int(blockIdx.x) / pieces, piece = int(blockIdx.x) % pieces;
  const long long all = starts[interval + 1] - starts[interval];
  const long long begin = starts[interval] + all * piece / pieces, end = starts[interval] + all * (piece + 1) / pieces;
  for (int pass = 0; pass < kPlan.passes; ++pass) {
    const int c = pass * kThreads + int(threadIdx.x);
    Number sums[kTaps][4]{};
    for (long long first = begin; first < end; first += kPlan.edges) {
      const int count = int(smaller((long long)kPlan.edges, end - first));
      __syncthreads();
      for (int e = threadIdx.x; e < count; e += kThreads) {
        EdgeSlopes unused;
        set_edge(shell, x.edge_vector, int(order[first + e]), 0, interval, shared->edges[e], unused);
      }
      __syncthreads();
      for (int e = 0; e < count; ++e) {
        const Edge& g = shared->edges[e];
        Number by[4]{};
        filter_gradients(
            x, grad_scalar, grad_vector, scores, g, edge_index[g.index], edge_index[num_edges + Offset(g.index)], c, by);
#pragma unroll
        for (int m = 0; m < kTaps; ++m)
#pragma unroll
          for (int f = 0; f < 4; ++f) sums[m][f] += g.tap[m] * by[f];
      }
    }
#pragma unroll
    for (int m = 0; m < kTaps; ++m)
#pragma unroll
      for (int f = 0; f < 4; ++f)
        parts[(Offset(blockIdx.x) * kTaps + m) * kTableStride + f * kWidth + c] = result(sums[m][f]);
  }
}

// Row r of the table is row m of interval r - m.
extern "C" __global__ void __launch_bounds__(256) message_table_sum(
    const Scalar* parts, const int* broken, int num_intervals, int pieces, Scalar* to_table) {
  const Offset at = Offset(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= Offset(num_intervals + kTaps - 1) * kTableStride) return;
  const int row = int(at / kTableStride), column = int(at % kTableStride);
  Scalar sum = *broken ? Scalar(NAN) : Scalar(0);
  for (int m = 0; m < kTaps; ++m) {
    const int interval = row - m;
    if (interval < 0 || interval >= num_intervals) continue;
    for (int piece = 0; piece < pieces; ++piece)
      sum += parts[((Offset(interval) * pieces + piece) * kTaps + m) * kTableStride + column];
  }
  to_table[at] = sum;
}
