#include "driver.h"

#include <c10/util/Exception.h>
#include <dlfcn.h>

#include <map>
#include <mutex>

// The driver, and the library that knows torch's current stream; in tests the mock driver is both.
#ifndef DKMP_CUDA_DRIVER_LIBRARY
#define DKMP_CUDA_DRIVER_LIBRARY "libcuda.so.1"
#endif
#ifndef DKMP_TORCH_CUDA_LIBRARY
#define DKMP_TORCH_CUDA_LIBRARY "libtorch_cuda.so"
#endif

namespace dkmp {
namespace cuda {
namespace {

struct Loaded {
  Driver functions{};
  std::string why_not;
};

template <class Function>
void find(void* library, const char* symbol, Function* function, std::string* why_not) {
  *function = reinterpret_cast<Function>(dlsym(library, symbol));
  if (!*function && why_not && why_not->empty())
    *why_not = std::string("the CUDA driver is too old: it has no ") + symbol + "; update the NVIDIA driver";
}

Loaded load() {
  Loaded loaded;
  Driver& f = loaded.functions;
  std::string* why = &loaded.why_not;
  std::string tried;
  void* library = open_library({DKMP_CUDA_DRIVER_LIBRARY}, &tried);
  if (!library) {
    *why = "the CUDA driver is not installed (" + tried + ")";
    return loaded;
  }
  find(library, "cuInit", &f.cuInit, why);
  find(library, "cuDriverGetVersion", &f.cuDriverGetVersion, why);
  find(library, "cuGetErrorName", &f.cuGetErrorName, why);
  find(library, "cuGetErrorString", &f.cuGetErrorString, why);
  find(library, "cuDeviceGetCount", &f.cuDeviceGetCount, why);
  find(library, "cuDeviceGet", &f.cuDeviceGet, why);
  find(library, "cuDeviceGetAttribute", &f.cuDeviceGetAttribute, why);
  find(library, "cuDevicePrimaryCtxRetain", &f.cuDevicePrimaryCtxRetain, why);
  find(library, "cuCtxPushCurrent_v2", &f.cuCtxPushCurrent, why);
  find(library, "cuCtxPopCurrent_v2", &f.cuCtxPopCurrent, why);
  find(library, "cuModuleLoadData", &f.cuModuleLoadData, why);
  find(library, "cuModuleGetFunction", &f.cuModuleGetFunction, why);
  find(library, "cuFuncSetAttribute", &f.cuFuncSetAttribute, why);
  find(library, "cuFuncGetParamInfo", &f.cuFuncGetParamInfo, nullptr);
  find(library, "cuStreamIsCapturing", &f.cuStreamIsCapturing, why);
  find(library, "cuLaunchKernel", &f.cuLaunchKernel, why);
  if (!why->empty()) return loaded;
  // Only torch's own copy knows the stream: whoever holds a CUDA tensor has loaded it.
  void* torch = dlopen(DKMP_TORCH_CUDA_LIBRARY, RTLD_NOW | RTLD_NOLOAD);
  if (torch) f.current_stream = reinterpret_cast<int (*)(int, void**)>(dlsym(torch, "aoti_torch_get_current_cuda_stream"));
  if (!f.current_stream) *why = "torch was built without CUDA; install a CUDA build of torch";
  return loaded;
}

const Loaded& loaded() {
  static const Loaded once = load();
  return once;
}

void* primary_context(int device) {
  static std::mutex mutex;
  static std::map<int, void*> contexts;
  std::lock_guard<std::mutex> lock(mutex);
  void*& context = contexts[device];
  if (!context) {
    int handle = 0;
    check_result(driver().cuDeviceGet(&handle, device), "cuDeviceGet");
    // Kept until the process ends, as torch keeps it.
    check_result(driver().cuDevicePrimaryCtxRetain(&context, handle), "cuDevicePrimaryCtxRetain");
  }
  return context;
}

}  // namespace

void* open_library(const std::vector<std::string>& names, std::string* tried) {
  for (const std::string& name : names) {
    if (void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
    const char* error = dlerror();
    *tried += (tried->empty() ? "" : "; ") + std::string(error ? error : name);
  }
  return nullptr;
}

std::string why_no_driver() {
  if (!loaded().why_not.empty()) return loaded().why_not;
  const Driver& f = loaded().functions;
  int count = 0, result = f.cuInit(0);
  if (!result) result = f.cuDeviceGetCount(&count);
  const char* name = nullptr;
  if (result && f.cuGetErrorName(result, &name) == 0 && name) return std::string("the CUDA driver reports ") + name;
  if (result) return "the CUDA driver reports error " + std::to_string(result);
  return count == 0 ? "the CUDA driver sees no GPU" : "";
}

const Driver& driver() {
  TORCH_CHECK(
      loaded().why_not.empty(), "dkmp_plugin: a CUDA tensor was given, but CUDA kernels cannot run: ",
      loaded().why_not);
  return loaded().functions;
}

void check_result(int result, const std::string& what) {
  if (result == 0) return;
  const char *name = nullptr, *text = nullptr;
  driver().cuGetErrorName(result, &name);
  driver().cuGetErrorString(result, &text);
  TORCH_CHECK(
      false, "dkmp_plugin: ", what, " failed with ", name ? name : "an unknown error", " (", result, "): ",
      text ? text : "no description");
}

int device_attribute(int device, Attribute attribute) {
  int handle = 0, value = 0;
  check_result(driver().cuDeviceGet(&handle, device), "cuDeviceGet");
  check_result(driver().cuDeviceGetAttribute(&value, int(attribute), handle), "cuDeviceGetAttribute");
  return value;
}

int device_of(const at::Tensor& tensor) {
#ifdef DKMP_TEST_DEVICE
  // CPU tensors stand in for CUDA tensors of the device that the test names.
  (void)tensor;
  static const auto device = reinterpret_cast<int (*)()>(dlsym(dlopen(DKMP_CUDA_DRIVER_LIBRARY, RTLD_NOW), "mock_device"));
  return device ? device() : 0;
#else
  return tensor.get_device();
#endif
}

void* current_stream(int device) {
  void* stream = nullptr;
  TORCH_CHECK(driver().current_stream(device, &stream) == 0, "dkmp_plugin: torch has no stream on device ", device);
  return stream;
}

PrimaryContext::PrimaryContext(int device) : handle_(primary_context(device)) {
  check_result(driver().cuCtxPushCurrent(handle_), "cuCtxPushCurrent");
}

PrimaryContext::~PrimaryContext() {
  void* popped = nullptr;
  driver().cuCtxPopCurrent(&popped);
}

}  // namespace cuda
}  // namespace dkmp
