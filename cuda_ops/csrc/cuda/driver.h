// The CUDA driver and torch's current stream, found at run time: the library links nothing of CUDA and loads on
// machines without a GPU. Handles are opaque pointers, results are CUresult codes (0 is success).
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace dkmp {
namespace cuda {

// Opens the first library that exists; null when none does, `tried` then says what was looked for.
void* open_library(const std::vector<std::string>& names, std::string* tried);

struct Driver {
  int (*cuInit)(unsigned);
  int (*cuDriverGetVersion)(int*);
  int (*cuGetErrorName)(int, const char**);
  int (*cuGetErrorString)(int, const char**);
  int (*cuDeviceGetCount)(int*);
  int (*cuDeviceGet)(int*, int);
  int (*cuDeviceGetAttribute)(int*, int, int);
  int (*cuDevicePrimaryCtxRetain)(void**, int);
  int (*cuCtxPushCurrent)(void*);
  int (*cuCtxPopCurrent)(void**);
  int (*cuModuleLoadData)(void**, const void*);
  int (*cuModuleGetFunction)(void**, void*, const char*);
  int (*cuFuncSetAttribute)(void*, int, int);
  int (*cuFuncGetParamInfo)(void*, size_t, size_t*, size_t*);  // null before CUDA 12.4
  int (*cuStreamIsCapturing)(void*, int*);
  int (*cuLaunchKernel)(
      void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**);
  int (*current_stream)(int, void**);  // torch's, by device
};

// The driver; throws with the reason where there is none.
const Driver& driver();
// Why CUDA kernels cannot run in this process; empty when they can.
std::string why_no_driver();

// Throws unless `result` is success; `what` names the call.
void check_result(int result, const std::string& what);

// Values of CUdevice_attribute.
enum class Attribute { kMultiprocessors = 16, kMaxSharedBytes = 97, kMajor = 75, kMinor = 76 };
int device_attribute(int device, Attribute attribute);

// Index of the tensor's device.
int device_of(const at::Tensor& tensor);

// Torch's current stream on the device.
void* current_stream(int device);

// Makes the device's primary context, the one torch uses, current for its lifetime. OpenMM's own context may be
// current in the calling thread; it is current again afterwards.
class PrimaryContext {
 public:
  explicit PrimaryContext(int device);
  ~PrimaryContext();
  PrimaryContext(const PrimaryContext&) = delete;
  PrimaryContext& operator=(const PrimaryContext&) = delete;
  void* handle() const { return handle_; }

 private:
  void* handle_;
};

}  // namespace cuda
}  // namespace dkmp
