// Included after a kernel's text: makes its kernels callable by name with the arguments of cuLaunchKernel.
#pragma once

#include "scheduler.h"

namespace emulator {

template <int... at>
struct Places {};
template <int count, int... at>
struct PlacesUpTo : PlacesUpTo<count - 1, count - 1, at...> {};
template <int... at>
struct PlacesUpTo<0, at...> {
  typedef Places<at...> type;
};

// Calls kernel(*arguments[0], *arguments[1], ...), each pointer taken as that parameter's type.
template <class... Parameters, int... at>
inline void call(void (*kernel)(Parameters...), void** arguments, Places<at...>) {
  kernel(*static_cast<Parameters*>(arguments[at])...);
}
template <class... Parameters>
inline void call(void (*kernel)(Parameters...), void** arguments) {
  call(kernel, arguments, typename PlacesUpTo<sizeof...(Parameters)>::type());
}

// Type of every parameter: p(ointer), f(loat), d(ouble), or the number of bytes of an integer.
template <class T>
constexpr char type_letter(T*) {
  return sizeof(T) == 8 ? '8' : sizeof(T) == 4 ? '4' : sizeof(T) == 2 ? '2' : '1';
}
constexpr char type_letter(float*) { return 'f'; }
constexpr char type_letter(double*) { return 'd'; }
template <class T>
constexpr char type_letter(T**) {
  return 'p';
}
template <class... Parameters>
inline const char* signature(void (*)(Parameters...)) {
  static const char letters[] = {type_letter(static_cast<Parameters*>(nullptr))..., '\0'};
  return letters;
}

struct Kernel {
  const char* name;
  void (*run)(void**);
  const char* signature;
};

}  // namespace emulator

#define EMULATED_KERNEL(name) \
  { #name, [](void** arguments) { emulator::call(&name, arguments); }, emulator::signature(&name) }

// EMULATED_KERNELS(EMULATED_KERNEL(a), EMULATED_KERNEL(b)) once per library.
#define EMULATED_KERNELS(...)                                                                              \
  static const emulator::Kernel emulated_kernels[] = {__VA_ARGS__};                                         \
  static const emulator::Kernel* emulated_kernel(const char* name) {                                        \
    for (const emulator::Kernel& kernel : emulated_kernels)                                                  \
      if (std::strcmp(kernel.name, name) == 0) return &kernel;                                               \
    return nullptr;                                                                                         \
  }                                                                                                         \
  extern "C" const char* emulator_signature(const char* name) {                                             \
    const emulator::Kernel* kernel = emulated_kernel(name);                                                 \
    return kernel ? kernel->signature : nullptr;                                                            \
  }                                                                                                         \
  extern "C" int emulator_launch(                                                                           \
      const char* name, void** arguments, unsigned blocks, unsigned threads, size_t shared_bytes,           \
      uint64_t seed, char* message, size_t message_size) {                                                  \
    struct Call {                                                                                           \
      const emulator::Kernel* kernel;                                                                       \
      void** arguments;                                                                                     \
    } call{emulated_kernel(name), arguments};                                                               \
    const EmulatorLaunch launch{                                                                            \
        [](void* given) { static_cast<Call*>(given)->kernel->run(static_cast<Call*>(given)->arguments); },  \
        &call, blocks, threads, shared_bytes, seed};                                                        \
    return emulator_run(&launch, message, message_size);                                                    \
  }
