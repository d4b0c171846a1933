// Instruction-set levels the *.isa.cpp files are compiled for, and the one this machine runs.
#pragma once

#include <cstdlib>
#include <cstring>
#include <type_traits>

#define DKMP_DECLARE_KERNELS(LEVEL, KERNELS, NAME) \
  namespace LEVEL {                                \
  KERNELS<float> NAME##_float();                   \
  KERNELS<double> NAME##_double();                 \
  }

// Declares what the *.isa.cpp file of an op defines once per level, NAME_float() and NAME_double(), and defines
// NAME_of<Scalar>(level), which returns those of one level. For namespace dkmp.
#ifdef DKMP_X86_LEVELS
#define DKMP_KERNELS_OF_LEVELS(KERNELS, NAME)                                 \
  DKMP_DECLARE_KERNELS(isa_v2, KERNELS, NAME)                                 \
  DKMP_DECLARE_KERNELS(isa_v3, KERNELS, NAME)                                 \
  DKMP_DECLARE_KERNELS(isa_v4, KERNELS, NAME)                                 \
  template <class Scalar>                                                     \
  KERNELS<Scalar> NAME##_of(int level) {                                      \
    if constexpr (std::is_same<Scalar, float>::value) {                       \
      if (level == 4) return isa_v4::NAME##_float();                          \
      return level == 3 ? isa_v3::NAME##_float() : isa_v2::NAME##_float();    \
    } else {                                                                  \
      if (level == 4) return isa_v4::NAME##_double();                         \
      return level == 3 ? isa_v3::NAME##_double() : isa_v2::NAME##_double();  \
    }                                                                         \
  }
#else
#define DKMP_KERNELS_OF_LEVELS(KERNELS, NAME)           \
  DKMP_DECLARE_KERNELS(isa_v2, KERNELS, NAME)           \
  template <class Scalar>                               \
  KERNELS<Scalar> NAME##_of(int) {                      \
    if constexpr (std::is_same<Scalar, float>::value) { \
      return isa_v2::NAME##_float();                    \
    } else {                                            \
      return isa_v2::NAME##_double();                   \
    }                                                   \
  }
#endif

namespace dkmp {

// 2, 3 or 4 for x86-64-v2 (baseline), v3 (AVX2) and v4 (AVX-512); DKMP_PLUGIN_ISA=v2|v3|v4 lowers it.
inline int isa_level() {
  static const int level = [] {
    int supported = 2;
#ifdef DKMP_X86_LEVELS
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) {
      supported = 3;
      if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw"))
        supported = 4;
    }
#endif
    const char* wish = std::getenv("DKMP_PLUGIN_ISA");
    if (wish && std::strlen(wish) == 2 && wish[0] == 'v' && wish[1] >= '2' && wish[1] < '0' + supported)
      supported = wish[1] - '0';
    return supported;
  }();
  return level;
}

}  // namespace dkmp
