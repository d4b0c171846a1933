#include "compiler.h"

#include <c10/util/Exception.h>
#include <dlfcn.h>

#include <algorithm>
#include <mutex>
#include <unordered_map>

#include "driver.h"

// Major version of the CUDA that torch was built for.
#ifndef DKMP_CUDA_MAJOR
#define DKMP_CUDA_MAJOR 12
#endif

namespace dkmp {
namespace cuda {
namespace {

struct Nvrtc {
  int (*nvrtcVersion)(int*, int*);
  int (*nvrtcGetNumSupportedArchs)(int*);
  int (*nvrtcGetSupportedArchs)(int*);
  int (*nvrtcCreateProgram)(void**, const char*, const char*, int, const char* const*, const char* const*);
  int (*nvrtcCompileProgram)(void*, int, const char* const*);
  int (*nvrtcGetProgramLogSize)(void*, size_t*);
  int (*nvrtcGetProgramLog)(void*, char*);
  int (*nvrtcGetCUBINSize)(void*, size_t*);
  int (*nvrtcGetCUBIN)(void*, char*);
  int (*nvrtcGetPTXSize)(void*, size_t*);
  int (*nvrtcGetPTX)(void*, char*);
  int (*nvrtcDestroyProgram)(void**);
  const char* (*nvrtcGetErrorString)(int);
  std::string why_not;
};

// torch's wheels bring NVRTC as a package beside torch.
std::vector<std::string> nvrtc_candidates() {
  std::string packages;
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&c10::GetExceptionString), &info) && info.dli_fname) {
    const std::string library = info.dli_fname;
    packages = library.substr(0, library.rfind('/')) + "/../../nvidia/";
  }
  std::vector<std::string> names;
  for (int major : {DKMP_CUDA_MAJOR, DKMP_CUDA_MAJOR == 12 ? 13 : 12}) {
    const std::string file = "libnvrtc.so." + std::to_string(major);
    if (!packages.empty())
      names.push_back(packages + (major == 12 ? "cuda_nvrtc" : "cu" + std::to_string(major)) + "/lib/" + file);
    names.push_back(file);
  }
  return names;
}

Nvrtc load_nvrtc() {
  Nvrtc n{};
  std::string tried;
  void* library = open_library(nvrtc_candidates(), &tried);
  if (!library) {
    n.why_not = "CUDA's run-time compiler NVRTC was not found (" + tried +
                "); install it with 'pip install nvidia-cuda-nvrtc-cu12' (or the CUDA version of your torch)";
    return n;
  }
  const auto find = [&](const char* symbol, auto* function) {
    *function = reinterpret_cast<std::decay_t<decltype(*function)>>(dlsym(library, symbol));
    if (!*function) n.why_not = std::string("CUDA's run-time compiler NVRTC is too old: it has no ") + symbol;
  };
  find("nvrtcVersion", &n.nvrtcVersion);
  find("nvrtcGetNumSupportedArchs", &n.nvrtcGetNumSupportedArchs);
  find("nvrtcGetSupportedArchs", &n.nvrtcGetSupportedArchs);
  find("nvrtcCreateProgram", &n.nvrtcCreateProgram);
  find("nvrtcCompileProgram", &n.nvrtcCompileProgram);
  find("nvrtcGetProgramLogSize", &n.nvrtcGetProgramLogSize);
  find("nvrtcGetProgramLog", &n.nvrtcGetProgramLog);
  find("nvrtcGetCUBINSize", &n.nvrtcGetCUBINSize);
  find("nvrtcGetCUBIN", &n.nvrtcGetCUBIN);
  find("nvrtcGetPTXSize", &n.nvrtcGetPTXSize);
  find("nvrtcGetPTX", &n.nvrtcGetPTX);
  find("nvrtcDestroyProgram", &n.nvrtcDestroyProgram);
  find("nvrtcGetErrorString", &n.nvrtcGetErrorString);
  return n;
}

const Nvrtc& nvrtc_or_reason() {
  static const Nvrtc once = load_nvrtc();
  return once;
}

const Nvrtc& nvrtc() {
  const Nvrtc& n = nvrtc_or_reason();
  TORCH_CHECK(n.why_not.empty(), "dkmp_plugin: CUDA kernels cannot be compiled: ", n.why_not);
  return n;
}

void check_nvrtc(int result, const char* what) {
  TORCH_CHECK(result == 0, "dkmp_plugin: ", what, " failed: ", nvrtc().nvrtcGetErrorString(result));
}

const char* text_of(const std::string& file) {
  for (int k = 0; k < kNumKernelSources; ++k)
    if (file == kKernelSources[k].name) return kKernelSources[k].text;
  TORCH_CHECK(false, "dkmp_plugin: there is no kernel file ", file);
}

// Kernel files may include every header of their folder by its name.
void* create_program(const Kernel& kernel, const std::string& source) {
  std::vector<const char*> texts, names;
  for (int k = 0; k < kNumKernelSources; ++k) {
    const std::string name = kKernelSources[k].name;
    if (name.size() < 4 || name.substr(name.size() - 4) != ".cuh") continue;
    texts.push_back(kKernelSources[k].text);
    names.push_back(kKernelSources[k].name);
  }
  void* program = nullptr;
  check_nvrtc(
      nvrtc().nvrtcCreateProgram(&program, source.c_str(), kernel.file, int(texts.size()), texts.data(), names.data()),
      "nvrtcCreateProgram");
  return program;
}

std::string program_log(void* program) {
  size_t size = 0;
  nvrtc().nvrtcGetProgramLogSize(program, &size);
  std::string log(size, '\0');
  if (size > 0) nvrtc().nvrtcGetProgramLog(program, &log[0]);
  return log.c_str();
}

std::string joined(const Kernel& kernel) {
  std::string text = kernel.file;
  for (const std::string& given : kernel.options) text += " " + given;
  return text;
}

// Machine code for exactly this device where possible, since it needs no compiler in the driver.
std::string architecture_option(int wanted, Image* image) {
  int count = 0;
  check_nvrtc(nvrtc().nvrtcGetNumSupportedArchs(&count), "nvrtcGetNumSupportedArchs");
  std::vector<int> known(count);
  check_nvrtc(nvrtc().nvrtcGetSupportedArchs(known.data()), "nvrtcGetSupportedArchs");
  image->machine_code = std::find(known.begin(), known.end(), wanted) != known.end();
  image->architecture = 0;
  for (int each : known)
    if (each <= wanted) image->architecture = std::max(image->architecture, each);
  TORCH_CHECK(
      image->architecture > 0, "dkmp_plugin: a GPU of compute capability ", wanted / 10, ".", wanted % 10,
      " is older than what this CUDA version supports (", known.empty() ? 0 : known.front() / 10,
      ".x and newer); use an older CUDA build of torch or device='cpu'");
  return std::string("--gpu-architecture=") + (image->machine_code ? "sm_" : "compute_") +
         std::to_string(image->architecture);
}

void check_versions() {
  int compiler_major = 0, compiler_minor = 0, version = 0;
  check_nvrtc(nvrtc().nvrtcVersion(&compiler_major, &compiler_minor), "nvrtcVersion");
  check_result(driver().cuDriverGetVersion(&version), "cuDriverGetVersion");
  TORCH_CHECK(
      version / 1000 >= compiler_major, "dkmp_plugin: the NVIDIA driver supports CUDA ", version / 1000, ".",
      version % 1000 / 10, ", but kernels are compiled by CUDA ", compiler_major, ".", compiler_minor,
      "; update the driver, or install a torch built for CUDA ", version / 1000);
}

void* load_module(const Kernel& kernel, int device, void* stream) {
  int capturing = 0;
  check_result(driver().cuStreamIsCapturing(stream, &capturing), "cuStreamIsCapturing");
  TORCH_CHECK(
      capturing == 0, "dkmp_plugin: ", kernel.name,
      " is needed for the first time while a CUDA graph is captured; run the model once before capturing it");
  check_versions();
  const int architecture =
      10 * device_attribute(device, Attribute::kMajor) + device_attribute(device, Attribute::kMinor);
  const Image image = compile(kernel, architecture);
  void* module = nullptr;
  check_result(driver().cuModuleLoadData(&module, image.bytes.data()), "loading " + joined(kernel));
  return module;
}

// A mismatch of argument types would otherwise read past an argument, silently.
void check_parameters(const Kernel& kernel, void* function, const size_t* sizes, size_t count) {
  if (!driver().cuFuncGetParamInfo) return;
  size_t offset = 0, size = 0, k = 0;
  for (; driver().cuFuncGetParamInfo(function, k, &offset, &size) == 0; ++k)
    TORCH_CHECK(
        k < count && sizes[k] == size, "dkmp_plugin: parameter ", k, " of kernel ", kernel.name, " has ", size,
        " bytes, but the launch gives ", k < count ? sizes[k] : 0);
  TORCH_CHECK(k == count, "dkmp_plugin: kernel ", kernel.name, " has ", k, " parameters, but the launch gives ", count);
}

struct Cache {
  std::mutex mutex;
  std::unordered_map<std::string, void*> modules;
  std::unordered_map<std::string, Function> functions;
};

Cache& cache() {
  static Cache* once = new Cache;  // never destroyed: the driver may be gone before static objects
  return *once;
}

}  // namespace

std::string why_no_compiler() { return nvrtc_or_reason().why_not; }

Image compile(const Kernel& kernel, int architecture) {
  Image image{};
  std::vector<std::string> options = kernel.options;
  options.push_back(architecture_option(architecture, &image));
  options.push_back("--std=c++17");
  // The module says what it is: to profilers, debuggers and the mock driver.
  const std::string label = "extern \"C\" { extern __device__ const char dkmp_kernel[]; __device__ const char "
                            "dkmp_kernel[] = \"dkmp-kernel " + joined(kernel) + "\"; }\n#line 1\n";
  void* program = create_program(kernel, label + text_of(kernel.file));
  std::vector<const char*> pointers;
  for (const std::string& each : options) pointers.push_back(each.c_str());
  const int result = nvrtc().nvrtcCompileProgram(program, int(pointers.size()), pointers.data());
  const std::string log = program_log(program);
  size_t size = 0;
  if (result == 0) {
    const auto& size_of = image.machine_code ? nvrtc().nvrtcGetCUBINSize : nvrtc().nvrtcGetPTXSize;
    const auto& copy = image.machine_code ? nvrtc().nvrtcGetCUBIN : nvrtc().nvrtcGetPTX;
    size_of(program, &size);
    image.bytes.resize(size);
    if (size > 0) copy(program, &image.bytes[0]);
  }
  nvrtc().nvrtcDestroyProgram(&program);
  TORCH_CHECK(
      result == 0 && size > 0, "dkmp_plugin: NVRTC could not compile ", joined(kernel), " (",
      nvrtc().nvrtcGetErrorString(result), "):\n", log);
  return image;
}

Function& find_function(
    const Kernel& kernel, int device, void* context, void* stream, const size_t* sizes, size_t count) {
  std::string key = std::to_string(device) + "@" + std::to_string(reinterpret_cast<uintptr_t>(context)) + " ";
  key += joined(kernel);
  const std::string function_key = key + " " + kernel.name;
  Cache& all = cache();
  std::lock_guard<std::mutex> lock(all.mutex);
  const auto found = all.functions.find(function_key);
  if (found != all.functions.end()) return found->second;
  auto module = all.modules.find(key);
  if (module == all.modules.end()) module = all.modules.emplace(key, load_module(kernel, device, stream)).first;
  void* handle = nullptr;
  check_result(
      driver().cuModuleGetFunction(&handle, module->second, kernel.name),
      std::string("finding kernel ") + kernel.name);
  check_parameters(kernel, handle, sizes, count);
  return all.functions.emplace(function_key, Function{handle, 0}).first->second;
}

}  // namespace cuda
}  // namespace dkmp
