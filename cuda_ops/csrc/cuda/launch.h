// Launches a kernel of cuda_ops/kernels on torch's current stream:
//
//   const Kernel kernel{"edge_vectors.cu", "edge_vectors_forward", {scalar_option(pos)}};
//   launch(pos, kernel, {blocks_for(num_edges, 128), 128}, pos.const_data_ptr<float>(), int(num_edges), ...);
//
// Arguments must have exactly the types of the kernel's parameters; sizes are checked against the compiled kernel
// at first use where the driver can tell them (CUDA 12.4 and newer). Nothing here waits for the device. The first
// launch of a kernel compiles and loads it; this is refused while a CUDA graph is captured, so run once before.
#pragma once

#include <ATen/core/Tensor.h>

#include <initializer_list>
#include <string>
#include <type_traits>

#include "compiler.h"

namespace dkmp {
namespace cuda {

// One-dimensional; shared_bytes is dynamic shared memory per block.
struct Shape {
  int64_t blocks;
  int threads;
  int64_t shared_bytes = 0;
};

inline int64_t blocks_for(int64_t items, int64_t per_block) { return (items + per_block - 1) / per_block; }

// Contiguous, and aligned for loads of 16 bytes: a view into a larger tensor may begin anywhere. Undefined stays so.
at::Tensor aligned(const at::Tensor& tensor);

// Address of the first element; null for an undefined tensor.
template <class Scalar>
const Scalar* pointer(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<Scalar>() : nullptr;
}

// The option that compiles a kernel for the tensor's dtype: -DDKMP_SCALAR=float or double.
std::string scalar_option(const at::Tensor& tensor);
// -DNAME=value
std::string option(const char* name, int64_t value);

// Largest dynamic shared memory a block may have on the tensor's device, in bytes.
int64_t max_shared_bytes(const at::Tensor& tensor);

// Multiprocessors of the tensor's device, asked once.
int multiprocessors(const at::Tensor& tensor);

// True while torch's current stream on the tensor's device records a CUDA graph: values cannot be read then.
bool is_capturing(const at::Tensor& tensor);

// Refuses tensors on different devices, of which a kernel would read addresses that are not there. Undefined ones
// are left out. For every op that users call.
void check_devices(const char* op, std::initializer_list<at::Tensor> tensors);

void launch_untyped(
    const at::Tensor& on, const Kernel& kernel, const Shape& shape, void** arguments, const size_t* sizes,
    size_t count);

// Launches on the device of tensor `on`. No blocks, no launch.
template <class... Arguments>
void launch(const at::Tensor& on, const Kernel& kernel, const Shape& shape, Arguments... arguments) {
  static_assert(
      ((std::is_arithmetic_v<Arguments> || std::is_pointer_v<Arguments>)&&...),
      "kernels take pointers and numbers");
  void* pointers[] = {const_cast<void*>(static_cast<const void*>(&arguments))...};
  constexpr size_t sizes[] = {sizeof(Arguments)...};
  launch_untyped(on, kernel, shape, pointers, sizes, sizeof...(Arguments));
}

}  // namespace cuda
}  // namespace dkmp
