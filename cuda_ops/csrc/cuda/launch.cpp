#include "launch.h"

#include <torch/library.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <limits>
#include <mutex>

#include "driver.h"

namespace dkmp {
namespace cuda {
namespace {

constexpr int64_t kSharedBytesOfAnyKernel = 48 * 1024;  // more has to be asked for
constexpr int kMaxDynamicSharedBytes = 8;               // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES

void allow_shared_bytes(const at::Tensor& on, const Kernel& kernel, Function& function, int64_t bytes) {
  static std::mutex mutex;
  std::lock_guard<std::mutex> lock(mutex);
  if (bytes <= std::max(kSharedBytesOfAnyKernel, function.shared_bytes)) return;
  TORCH_CHECK(
      bytes <= max_shared_bytes(on), "dkmp_plugin: kernel ", kernel.name, " needs ", bytes,
      " bytes of shared memory per block, more than the ", max_shared_bytes(on), " this GPU has");
  check_result(
      driver().cuFuncSetAttribute(function.handle, kMaxDynamicSharedBytes, int(bytes)), "cuFuncSetAttribute");
  function.shared_bytes = bytes;
}

}  // namespace

at::Tensor aligned(const at::Tensor& tensor) {
  if (!tensor.defined()) return tensor;
  const at::Tensor dense = tensor.contiguous();
  return reinterpret_cast<uintptr_t>(dense.const_data_ptr()) % 16 == 0 ? dense : dense.clone();
}

std::string scalar_option(const at::Tensor& tensor) {
  TORCH_CHECK_TYPE(
      tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kDouble, "dkmp_plugin: a tensor is ",
      tensor.scalar_type(), ", expected float32 or float64");
  return tensor.scalar_type() == at::kDouble ? "-DDKMP_SCALAR=double" : "-DDKMP_SCALAR=float";
}

std::string option(const char* name, int64_t value) { return std::string("-D") + name + "=" + std::to_string(value); }

int64_t max_shared_bytes(const at::Tensor& tensor) {
  return device_attribute(device_of(tensor), Attribute::kMaxSharedBytes);
}

int multiprocessors(const at::Tensor& tensor) {
  static std::array<std::atomic<int>, 64> known{};
  const int device = device_of(tensor);
  if (size_t(device) >= known.size()) return device_attribute(device, Attribute::kMultiprocessors);
  int count = known[device].load();
  if (count == 0) known[device].store(count = device_attribute(device, Attribute::kMultiprocessors));
  return count;
}

bool is_capturing(const at::Tensor& tensor) {
  const int device = device_of(tensor);
  PrimaryContext context(device);
  int capturing = 0;
  check_result(driver().cuStreamIsCapturing(current_stream(device), &capturing), "cuStreamIsCapturing");
  return capturing != 0;
}

void check_devices(const char* op, std::initializer_list<at::Tensor> tensors) {
  const at::Tensor* first = nullptr;
  for (const at::Tensor& each : tensors) {
    if (!each.defined()) continue;
    if (!first) first = &each;
    TORCH_CHECK_VALUE(
        each.device() == first->device(), op, ": tensors are on ", first->device(), " and on ", each.device(),
        "; move them to one device with .to()");
  }
}

void launch_untyped(
    const at::Tensor& on, const Kernel& kernel, const Shape& shape, void** arguments, const size_t* sizes,
    size_t count) {
  if (shape.blocks <= 0) return;
  TORCH_CHECK_VALUE(
      shape.blocks <= std::numeric_limits<int>::max(), "dkmp_plugin: kernel ", kernel.name, " would need ",
      shape.blocks, " blocks, more than a GPU takes at once; use a smaller system");
  const int device = device_of(on);
  PrimaryContext context(device);
  void* stream = current_stream(device);
  Function& function = find_function(kernel, device, context.handle(), stream, sizes, count);
  if (shape.shared_bytes > kSharedBytesOfAnyKernel) allow_shared_bytes(on, kernel, function, shape.shared_bytes);
  const int result = driver().cuLaunchKernel(
      function.handle, unsigned(shape.blocks), 1, 1, unsigned(shape.threads), 1, 1, unsigned(shape.shared_bytes),
      stream, arguments, nullptr);
  if (result != 0)
    check_result(
        result, std::string("launching ") + kernel.name + " with " + std::to_string(shape.blocks) + " blocks of " +
                    std::to_string(shape.threads) + " threads and " + std::to_string(shape.shared_bytes) +
                    " bytes of shared memory");
}

}  // namespace cuda

TORCH_LIBRARY_FRAGMENT(dkmp_plugin, library) {
  // Empty when CUDA kernels can run here, else why not.
  library.def("why_no_cuda() -> str", []() {
    const std::string driver = cuda::why_no_driver();
    return driver.empty() ? cuda::why_no_compiler() : driver;
  });
  // Size in bytes of the image of a kernel file compiled for a compute capability (90 for 9.0): needs no GPU.
  library.def(
      "compile_kernels(str file, str[] options, int architecture) -> int",
      [](std::string file, std::vector<std::string> options, int64_t architecture) -> int64_t {
        return int64_t(cuda::compile({file.c_str(), "", options}, int(architecture)).bytes.size());
      });
}

}  // namespace dkmp
