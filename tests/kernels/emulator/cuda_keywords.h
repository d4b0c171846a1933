// CUDA's keywords and device functions for g++, so that the text of a kernel runs on the CPU: one fiber per thread.
// Included before the kernel; implemented by scheduler.cpp. Only what the kernels use exists: anything else does
// not compile. Static __shared__ arrays are left out on purpose: dynamic ones are poisoned and bounds-checked.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)
#define DYN_SHARED(type, name) type* name = static_cast<type*>(emulator_shared_memory())

struct EmulatorIndex {
  unsigned x, y, z;
};

extern "C" {
extern EmulatorIndex threadIdx, blockIdx, blockDim, gridDim;
void* emulator_shared_memory();
unsigned emulator_lane();
void emulator_barrier(int line);
// Number of threads of the block whose predicate holds.
int emulator_counting_barrier(int predicate, int line);
// Waits for all lanes of the mask at the same place; the values they brought are at result[lane].
const uint64_t* emulator_collective(unsigned mask, uint64_t value, const char* kind, int line);
void emulator_warp_barrier(unsigned mask, int line);
[[noreturn]] void emulator_fail(const char* message, int line);
}

constexpr int warpSize = 32;

// ---- barriers and fences -----------------------------------------------------------------------------------------

inline void __syncthreads(int line = __builtin_LINE()) { emulator_barrier(line); }
inline int __syncthreads_count(int predicate, int line = __builtin_LINE()) {
  return emulator_counting_barrier(predicate, line);
}
inline int __syncthreads_or(int predicate, int line = __builtin_LINE()) {
  return emulator_counting_barrier(predicate, line) > 0;
}
inline int __syncthreads_and(int predicate, int line = __builtin_LINE()) {
  return emulator_counting_barrier(!predicate, line) == 0;
}
inline void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE()) { emulator_warp_barrier(mask, line); }
inline void __threadfence() {}
inline void __threadfence_block() {}

// ---- shuffles and votes --------------------------------------------------------------------------------------------

template <class T>
inline T emulator_shuffle(unsigned mask, T value, int source, const char* kind, int line) {
  static_assert(sizeof(T) <= 8, "shuffles move at most 8 bytes");
  if (source < 0 || source >= 32 || !(mask >> source & 1)) emulator_fail("shuffle from a lane outside the mask", line);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = emulator_collective(mask, bits, kind, line)[source];
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}
template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, int line = __builtin_LINE()) {
  const int lane = emulator_lane();
  return emulator_shuffle(mask, value, (lane & ~(width - 1)) | (source & (width - 1)), "__shfl_sync", line);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int distance, int width = 32, int line = __builtin_LINE()) {
  const int lane = emulator_lane(), source = lane ^ distance;
  return emulator_shuffle(mask, value, source / width <= lane / width ? source : lane, "__shfl_xor_sync", line);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32, int line = __builtin_LINE()) {
  const int lane = emulator_lane(), source = lane - int(distance);
  return emulator_shuffle(mask, value, source >= (lane & ~(width - 1)) ? source : lane, "__shfl_up_sync", line);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32, int line = __builtin_LINE()) {
  const int lane = emulator_lane(), source = lane + int(distance);
  return emulator_shuffle(mask, value, source <= (lane | (width - 1)) ? source : lane, "__shfl_down_sync", line);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  const uint64_t* votes = emulator_collective(mask, predicate != 0, "__ballot_sync", line);
  unsigned result = 0;
  for (int lane = 0; lane < 32; ++lane)
    if (mask >> lane & 1) result |= unsigned(votes[lane]) << lane;
  return result;
}
inline int __any_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  return __ballot_sync(mask, predicate, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  return __ballot_sync(mask, !predicate, line) == 0;
}

// ---- atomics -------------------------------------------------------------------------------------------------------

template <class T, class Bits, class Update>
inline T emulator_atomic(T* at, const Update& update) {
  Bits* bits = reinterpret_cast<Bits*>(at);
  Bits before = __atomic_load_n(bits, __ATOMIC_RELAXED), after;
  T old;
  do {
    std::memcpy(&old, &before, sizeof(T));
    const T updated = update(old);
    std::memcpy(&after, &updated, sizeof(T));
  } while (!__atomic_compare_exchange_n(bits, &before, after, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old;
}
#define DKMP_EMULATE_ATOMIC(name, type, bits, expression)                                      \
  inline type name(type* at, type given) {                                                   \
    return emulator_atomic<type, bits>(at, [&](type old) -> type { return expression; });         \
  }
#define DKMP_EMULATE_INTEGER_ATOMICS(type, bits)                       \
  DKMP_EMULATE_ATOMIC(atomicAdd, type, bits, old + given)              \
  DKMP_EMULATE_ATOMIC(atomicMax, type, bits, old > given ? old : given) \
  DKMP_EMULATE_ATOMIC(atomicMin, type, bits, old < given ? old : given) \
  DKMP_EMULATE_ATOMIC(atomicOr, type, bits, old | given)               \
  DKMP_EMULATE_ATOMIC(atomicAnd, type, bits, old & given)              \
  DKMP_EMULATE_ATOMIC(atomicExch, type, bits, given)
DKMP_EMULATE_INTEGER_ATOMICS(int, uint32_t)
DKMP_EMULATE_INTEGER_ATOMICS(unsigned, uint32_t)
DKMP_EMULATE_INTEGER_ATOMICS(unsigned long long, uint64_t)
DKMP_EMULATE_ATOMIC(atomicAdd, float, uint32_t, old + given)
DKMP_EMULATE_ATOMIC(atomicAdd, double, uint64_t, old + given)
#undef DKMP_EMULATE_INTEGER_ATOMICS
#undef DKMP_EMULATE_ATOMIC
template <class T>
inline T atomicCAS(T* at, T expected, T desired) {
  __atomic_compare_exchange_n(at, &expected, desired, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return expected;
}

// ---- arithmetic ------------------------------------------------------------------------------------------------------

template <class To, class From>
inline To emulator_bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}
inline float __int_as_float(int x) { return emulator_bits<float>(x); }
inline int __float_as_int(float x) { return emulator_bits<int>(x); }
inline float __uint_as_float(unsigned x) { return emulator_bits<float>(x); }
inline unsigned __float_as_uint(float x) { return emulator_bits<unsigned>(x); }
inline double __longlong_as_double(long long x) { return emulator_bits<double>(x); }
inline long long __double_as_longlong(double x) { return emulator_bits<long long>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(x); }
inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll(x); }
template <class T>
inline T __ldg(const T* from) {
  return *from;
}
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
template <class T>
inline T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
inline T max(T a, T b) {
  return a < b ? b : a;
}
