// The entries of a list of atom indices grouped by atom: counting sort whose groups are in no particular order.
// Bytes per entry: 8 read twice, 4 written; one integer atomic in each of the two kernels.
#include "common.cuh"

// Entries below zero, which pad a graph, belong to no atom; nor do those beyond the last atom, whose vectors are
// NaN. counts has one element per atom, all zero before.
extern "C" __global__ void edge_groups_count(
    const long long* index, long long num_entries, long long num_atoms, int* counts) {
  const Offset e = (Offset)blockIdx.x * blockDim.x + threadIdx.x;
  if (e < num_entries && is_index(index[e], num_atoms)) atomicAdd(counts + index[e], 1);
}

// left: the counts, which this kernel uses up. start[a]: where the entries of atom a begin.
extern "C" __global__ void edge_groups_fill(
    const long long* index, long long num_entries, long long num_atoms, const long long* start, int* left,
    int* entries) {
  const Offset e = (Offset)blockIdx.x * blockDim.x + threadIdx.x;
  if (e >= num_entries || !is_index(index[e], num_atoms)) return;
  entries[start[index[e]] + atomicAdd(left + index[e], -1) - 1] = (int)e;
}
