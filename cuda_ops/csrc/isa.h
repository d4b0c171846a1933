// Instruction-set levels the *.isa.cpp files are compiled for, and the one this machine runs.
#pragma once

#include <cstdlib>
#include <cstring>

#ifdef DKMP_X86_LEVELS
#define DKMP_FOR_EACH_LEVEL(DO) DO(isa_v2) DO(isa_v3) DO(isa_v4)
#else
#define DKMP_FOR_EACH_LEVEL(DO) DO(isa_v2)
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
