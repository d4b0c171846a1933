// The CUDA driver for tests: contexts, modules and streams are bookkeeping that refuses misuse as the real driver
// does; a launch runs the emulator's build of the kernel text that the loaded module names. Every call is logged.
#include <dlfcn.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

namespace {

enum Result { kSuccess = 0, kInvalidValue = 1, kNoDevice = 100, kInvalidImage = 200, kInvalidContext = 201,
              kInvalidHandle = 400, kNotFound = 500, kLaunchFailed = 719 };

struct Context {
  std::string name;
  int device;  // -1: not a primary context
};
struct Module {
  Context* context;
  std::string label;
  void* emulated;
};
struct Function {
  Module* module;
  std::string name, signature;
  int shared_bytes = 48 * 1024;
};

std::recursive_mutex mutex;
std::string journal, emulator_message;
std::map<std::string, int> settings = {{"devices", 2}, {"device", 0}, {"driver_version", 12080}, {"architecture", 80},
                                       {"capturing", 0}, {"fail_launch", 0}, {"stream", 7}, {"seed", 0}};
std::map<int, std::unique_ptr<Context>> primary;
std::vector<std::unique_ptr<Context>> foreign;
std::vector<std::unique_ptr<Module>> modules;
std::vector<std::unique_ptr<Function>> functions;
thread_local std::vector<Context*> stack;

int note(const std::string& line, int result = kSuccess) {
  journal += line + (result ? " -> " + std::to_string(result) : "") + "\n";
  return result;
}
Context* current() { return stack.empty() ? nullptr : stack.back(); }
std::string name_of(Context* context) { return context ? context->name : "none"; }

// The text "dkmp-kernel FILE OPTIONS": as it is in machine code, as a list of byte values in PTX.
std::string label_of(const char* image) {
  std::string text;
  if (std::memcmp(image, "\177ELF", 4) == 0) {
    uint64_t sections;
    uint16_t size, count;
    std::memcpy(&sections, image + 0x28, 8);
    std::memcpy(&size, image + 0x3a, 2);
    std::memcpy(&count, image + 0x3c, 2);
    text.assign(image, sections + size_t(size) * count);
  } else {
    const std::string ptx = image;
    const size_t name = ptx.find("dkmp_kernel["), open = ptx.find('{', name), close = ptx.find('}', open);
    if (name == std::string::npos || close == std::string::npos) return "";
    for (size_t at = open + 1; at < close; at = ptx.find_first_of(",}", at) + 1)
      text += char(std::atoi(ptx.c_str() + at));
  }
  const size_t at = text.find("dkmp-kernel ");
  return at == std::string::npos ? "" : std::string(text.c_str() + at + std::strlen("dkmp-kernel "));
}

// Path of the emulator's build, made by Python, which takes seconds to start: paths are kept in MOCK_INDEX.
std::string build(const std::string& label) {
  const char* index = std::getenv("MOCK_INDEX");
  const std::string note = (index ? index : ".") + ("/" + std::to_string(std::hash<std::string>()(label)));
  std::string known;
  if (index && std::getline(std::ifstream(note), known) && !known.empty()) return known;
  const char* python = std::getenv("MOCK_PYTHON");
  const std::string command = std::string("DKMP_PLUGIN_NATIVE=0 ") + (python ? python : "python") +
                              " -m tests.kernels.mock_driver.emulated " + label;
  FILE* pipe = popen(command.c_str(), "r");
  if (!pipe) return "";
  std::string path;
  for (int c; (c = std::fgetc(pipe)) != EOF;) path += char(c);
  while (!path.empty() && path.back() == '\n') path.pop_back();
  if (pclose(pipe) != 0) return "";
  if (index) {
    const std::string unfinished = note + "." + std::to_string(getpid());
    std::ofstream(unfinished) << path << "\n";
    std::rename(unfinished.c_str(), note.c_str());
  }
  return path;
}

size_t size_of(char letter) { return letter == 'f' || letter == '4' ? 4 : letter == '2' ? 2 : letter == '1' ? 1 : 8; }

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT void mock_set(const char* name, int value) {
  std::lock_guard<std::recursive_mutex> lock(mutex);
  settings[name] = value;
}
EXPORT int mock_device() { return settings["device"]; }
EXPORT const char* mock_log() { return journal.c_str(); }
EXPORT void mock_clear_log() { journal.clear(); }
// Makes a context of somebody else (OpenMM's) current in this thread; null for none.
EXPORT void mock_enter_foreign_context(const char* name) {
  std::lock_guard<std::recursive_mutex> lock(mutex);
  foreign.push_back(std::make_unique<Context>(Context{name, -1}));
  stack.push_back(foreign.back().get());
}
EXPORT const char* mock_current_context() {
  static thread_local std::string name;
  name = name_of(current());
  return name.c_str();
}

// ---- torch ---------------------------------------------------------------------------------------------------------

// Streams are numbers: 1000 x device + the setting.
EXPORT int aoti_torch_get_current_cuda_stream(int device, void** stream) {
  *stream = reinterpret_cast<void*>(intptr_t(1000 * device + settings["stream"]));
  return 0;
}

// ---- the driver ----------------------------------------------------------------------------------------------------

EXPORT int cuInit(unsigned) { return settings["devices"] > 0 ? kSuccess : kNoDevice; }
EXPORT int cuDriverGetVersion(int* version) { *version = settings["driver_version"]; return kSuccess; }
EXPORT int cuDeviceGetCount(int* count) { *count = settings["devices"]; return kSuccess; }
EXPORT int cuGetErrorName(int error, const char** name) {
  static const std::map<int, const char*> names = {
      {kInvalidValue, "CUDA_ERROR_INVALID_VALUE"},   {kNoDevice, "CUDA_ERROR_NO_DEVICE"},
      {kInvalidImage, "CUDA_ERROR_INVALID_IMAGE"},   {kInvalidContext, "CUDA_ERROR_INVALID_CONTEXT"},
      {kInvalidHandle, "CUDA_ERROR_INVALID_HANDLE"}, {kNotFound, "CUDA_ERROR_NOT_FOUND"},
      {kLaunchFailed, "CUDA_ERROR_LAUNCH_FAILED"}};
  const auto found = names.find(error);
  *name = found == names.end() ? nullptr : found->second;
  return found == names.end() ? kInvalidValue : kSuccess;
}
EXPORT int cuGetErrorString(int error, const char** text) {
  *text = error == kLaunchFailed ? emulator_message.c_str() : "told by the mock driver";
  return kSuccess;
}
EXPORT int cuDeviceGet(int* device, int ordinal) {
  if (ordinal < 0 || ordinal >= settings["devices"]) return note("cuDeviceGet", 101);
  *device = 100 + ordinal;  // a handle is not an ordinal
  return kSuccess;
}
EXPORT int cuDeviceGetAttribute(int* value, int attribute, int device) {
  if (device < 100) return note("cuDeviceGetAttribute", 101);
  if (attribute == 75) *value = settings["architecture"] / 10;
  else if (attribute == 76) *value = settings["architecture"] % 10;
  else if (attribute == 97) *value = 99 * 1024;
  else if (attribute == 16) *value = 1;
  else return note("cuDeviceGetAttribute " + std::to_string(attribute), kInvalidValue);
  return kSuccess;
}
EXPORT int cuDevicePrimaryCtxRetain(void** context, int device) {
  std::lock_guard<std::recursive_mutex> lock(mutex);
  if (device < 100) return note("cuDevicePrimaryCtxRetain", 101);
  auto& made = primary[device - 100];
  if (!made) made = std::make_unique<Context>(Context{"primary" + std::to_string(device - 100), device - 100});
  *context = made.get();
  return note("cuDevicePrimaryCtxRetain " + made->name);
}
EXPORT int cuCtxPushCurrent_v2(void* context) {
  if (!context) return note("cuCtxPushCurrent", kInvalidContext);
  stack.push_back(static_cast<Context*>(context));
  return kSuccess;
}
EXPORT int cuCtxPopCurrent_v2(void** context) {
  if (stack.empty()) return note("cuCtxPopCurrent", kInvalidContext);
  *context = stack.back();
  stack.pop_back();
  return kSuccess;
}
EXPORT int cuStreamIsCapturing(void* stream, int* capturing) {
  if (!current()) return note("cuStreamIsCapturing", kInvalidContext);
  *capturing = settings["capturing"];
  return kSuccess;
}
EXPORT int cuModuleLoadData(void** module, const void* image) {
  std::lock_guard<std::recursive_mutex> lock(mutex);
  if (!current()) return note("cuModuleLoadData", kInvalidContext);
  const std::string label = label_of(static_cast<const char*>(image));
  const bool machine_code = std::memcmp(image, "\177ELF", 4) == 0;
  note("cuModuleLoadData " + name_of(current()) + (machine_code ? " cubin " : " ptx ") + label);
  const std::string path = label.empty() ? "" : build(label);
  void* emulated = path.empty() ? nullptr : dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!emulated) return note("no emulator build of '" + label + "'", kInvalidImage);
  modules.push_back(std::make_unique<Module>(Module{current(), label, emulated}));
  *module = modules.back().get();
  return kSuccess;
}
EXPORT int cuModuleGetFunction(void** function, void* module, const char* name) {
  std::lock_guard<std::recursive_mutex> lock(mutex);
  Module* of = static_cast<Module*>(module);
  if (current() != of->context) return note("cuModuleGetFunction", kInvalidContext);
  const auto signature = reinterpret_cast<const char* (*)(const char*)>(dlsym(of->emulated, "emulator_signature"));
  const char* letters = signature(name);
  if (!letters) return note(std::string("cuModuleGetFunction ") + name, kNotFound);
  functions.push_back(std::make_unique<Function>(Function{of, name, letters}));
  *function = functions.back().get();
  return note(std::string("cuModuleGetFunction ") + name);
}
EXPORT int cuFuncGetParamInfo(void* function, size_t index, size_t* offset, size_t* size) {
  const std::string& letters = static_cast<Function*>(function)->signature;
  if (index >= letters.size()) return kInvalidValue;
  *offset = 0;
  *size = size_of(letters[index]);
  return kSuccess;
}
EXPORT int cuFuncSetAttribute(void* function, int attribute, int value) {
  std::lock_guard<std::recursive_mutex> lock(mutex);
  if (attribute != 8 || value > 99 * 1024) return note("cuFuncSetAttribute", kInvalidValue);
  static_cast<Function*>(function)->shared_bytes = value;
  return note("cuFuncSetAttribute " + static_cast<Function*>(function)->name + " " + std::to_string(value));
}
EXPORT int cuLaunchKernel(
    void* function, unsigned blocks, unsigned blocks_y, unsigned blocks_z, unsigned threads, unsigned threads_y,
    unsigned threads_z, unsigned shared, void* stream, void** arguments, void** extra) {
  std::lock_guard<std::recursive_mutex> lock(mutex);
  Function* f = static_cast<Function*>(function);
  const std::string line = "cuLaunchKernel " + f->name + " context " + name_of(current()) + " stream " +
                           std::to_string(reinterpret_cast<intptr_t>(stream)) + " blocks " + std::to_string(blocks) +
                           " threads " + std::to_string(threads) + " shared " + std::to_string(shared);
  if (current() != f->module->context) return note(line, kInvalidContext);
  if (reinterpret_cast<intptr_t>(stream) / 1000 != current()->device) return note(line, kInvalidHandle);
  if (blocks == 0 || threads == 0 || threads > 1024 || extra || blocks_y != 1 || blocks_z != 1 || threads_y != 1 ||
      threads_z != 1 || int(shared) > f->shared_bytes)
    return note(line, kInvalidValue);
  if (settings["fail_launch"]) {
    emulator_message = "unspecified launch failure";
    return note(line, kLaunchFailed);
  }
  typedef int (*Launch)(const char*, void**, unsigned, unsigned, size_t, uint64_t, char*, size_t);
  char message[1000] = "";
  if (reinterpret_cast<Launch>(dlsym(f->module->emulated, "emulator_launch"))(
          f->name.c_str(), arguments, blocks, threads, shared, uint64_t(settings["seed"]), message, sizeof(message))) {
    emulator_message = message;
    return note(line, kLaunchFailed);
  }
  return note(line);
}
