// Compiles the embedded kernel texts with NVRTC, once per device, file and set of options.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace dkmp {
namespace cuda {

// A file of cuda_ops/kernels; the builder generates the table.
struct KernelSource {
  const char *name, *text;
};
extern const KernelSource kKernelSources[];
extern const int kNumKernelSources;

// A kernel: its file in cuda_ops/kernels, its name there, and NVRTC options such as "-DDKMP_SCALAR=float".
struct Kernel {
  const char *file, *name;
  std::vector<std::string> options;
};

// What cuModuleLoadData takes: machine code where this NVRTC knows the device, else PTX of the newest older one.
struct Image {
  std::string bytes;
  int architecture;  // 90 for compute capability 9.0
  bool machine_code;
};

// Compiles for a compute capability such as 90; throws with the compiler's log.
Image compile(const Kernel& kernel, int architecture);

// Why nothing can be compiled; empty when NVRTC is there.
std::string why_no_compiler();

// The function on the device, compiled and loaded at first use. The device's primary context must be current.
struct Function {
  void* handle;
  int64_t shared_bytes;  // dynamic shared memory it may use so far
};
Function& find_function(const Kernel& kernel, int device, void* context, void* stream, const size_t* sizes, size_t count);

}  // namespace cuda
}  // namespace dkmp
