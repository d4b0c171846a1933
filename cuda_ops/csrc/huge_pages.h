// Large results in large pages.
#pragma once

#include <ATen/core/Tensor.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <cstdint>

namespace dkmp {

// Asks the kernel to back a large, not yet written tensor with 2 MiB pages: the first write to each of thousands of
// 4 KiB pages otherwise takes a sixth of a backward pass over 40,000 atoms. Only a hint; failing is no error.
inline at::Tensor in_huge_pages(const at::Tensor& tensor) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = uintptr_t(2) << 20;
  const uintptr_t start = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
  const uintptr_t first = (start + kPage - 1) / kPage * kPage, last = (start + tensor.nbytes()) / kPage * kPage;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
  return tensor;
}

}  // namespace dkmp
