// Entries of a list of atom indices grouped by atom, on the device and without waiting for it.
#pragma once

#include <ATen/core/Tensor.h>

namespace dkmp {
namespace cuda {

struct EdgeGroups {
  at::Tensor start;  // (num_atoms + 1,) int64: atom a has the entries start[a]:start[a + 1]
  at::Tensor entry;  // (E,) int32 places in the list, in no particular order within an atom
};

// index: (E,) int64, contiguous, E < 2^31; entries outside [0, num_atoms) are left out.
EdgeGroups group_edges(const at::Tensor& index, int64_t num_atoms);

}  // namespace cuda
}  // namespace dkmp
