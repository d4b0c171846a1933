// What the kernels share. The same text is compiled by NVRTC for a GPU and by g++ with the keywords of
// tests/kernels/emulator, so nothing here includes a system header.
//
// Macros that choose an instance: DKMP_SCALAR (float or double) and DKMP_DUAL (1: inputs carry directions, results
// are directional derivatives). Shared memory is dynamic only: DYN_SHARED(type, name).
#pragma once

#ifdef __CUDACC_RTC__
// One symbol for all kernels of a file: its type may not differ between them, so it is bytes.
extern __shared__ __align__(16) unsigned char dkmp_shared_memory[];
#define DYN_SHARED(type, name) type* name = reinterpret_cast<type*>(dkmp_shared_memory)
#define INFINITY __int_as_float(0x7f800000)
#define NAN __int_as_float(0x7fffffff)
#endif

#ifndef DKMP_SCALAR
#define DKMP_SCALAR float
#endif
#ifndef DKMP_DUAL
#define DKMP_DUAL 0
#endif

#define DKMP_INLINE __device__ __forceinline__

typedef DKMP_SCALAR Scalar;
// N K and N H D pass 2^31 in systems that fit a GPU: positions in arrays are always 64 bits wide.
typedef long long Offset;

DKMP_INLINE bool is_index(Offset index, Offset size) { return index >= 0 && index < size; }

constexpr int kWarp = 32;
constexpr unsigned kWholeWarp = 0xffffffffu;

// ---- dual numbers v + eps t (eps^2 = 0), as in csrc/dual.h -----------------------------------------------------

template <class T>
struct Dual {
  T v, t;
};
template <class T>
struct IsDual {
  static constexpr bool value = false;
};
template <class T>
struct IsDual<Dual<T>> {
  static constexpr bool value = true;
};
template <bool condition>
struct RequireImpl {};
template <>
struct RequireImpl<true> {
  typedef int type;
};
template <class T>
using RequirePlain = typename RequireImpl<!IsDual<T>::value>::type;
template <bool condition, class A, class B>
struct Choose {
  typedef A type;
};
template <class A, class B>
struct Choose<false, A, B> {
  typedef B type;
};

// What a kernel computes with: Scalar, or Dual<Scalar> where DKMP_DUAL is 1.
typedef typename Choose<DKMP_DUAL != 0, Dual<Scalar>, Scalar>::type Number;

template <class T>
DKMP_INLINE Dual<T> operator+(const Dual<T>& a, const Dual<T>& b) {
  return {a.v + b.v, a.t + b.t};
}
template <class T>
DKMP_INLINE Dual<T> operator-(const Dual<T>& a, const Dual<T>& b) {
  return {a.v - b.v, a.t - b.t};
}
template <class T>
DKMP_INLINE Dual<T> operator*(const Dual<T>& a, const Dual<T>& b) {
  return {a.v * b.v, a.t * b.v + a.v * b.t};
}
template <class A, class T, RequirePlain<A> = 0>
DKMP_INLINE Dual<T> operator*(const A& a, const Dual<T>& b) {
  return {T(a) * b.v, T(a) * b.t};
}
template <class A, class T, RequirePlain<A> = 0>
DKMP_INLINE Dual<T> operator*(const Dual<T>& a, const A& b) {
  return {a.v * T(b), a.t * T(b)};
}
template <class A, class T, RequirePlain<A> = 0>
DKMP_INLINE Dual<T> operator+(const A& a, const Dual<T>& b) {
  return {T(a) + b.v, b.t};
}
template <class A, class T, RequirePlain<A> = 0>
DKMP_INLINE Dual<T> operator+(const Dual<T>& a, const A& b) {
  return {a.v + T(b), a.t};
}
template <class A, class T, RequirePlain<A> = 0>
DKMP_INLINE Dual<T> operator-(const A& a, const Dual<T>& b) {
  return {T(a) - b.v, -b.t};
}
template <class A, class T, RequirePlain<A> = 0>
DKMP_INLINE Dual<T> operator-(const Dual<T>& a, const A& b) {
  return {a.v - T(b), a.t};
}
template <class T>
DKMP_INLINE Dual<T> operator-(const Dual<T>& a) {
  return {-a.v, -a.t};
}
template <class T, class B>
DKMP_INLINE Dual<T>& operator+=(Dual<T>& a, const B& b) {
  a = a + b;
  return a;
}

DKMP_INLINE float plain(float x) { return x; }
DKMP_INLINE double plain(double x) { return x; }
template <class T>
DKMP_INLINE T plain(const Dual<T>& x) {
  return x.v;
}
// The result of a plain kernel is the value, of a dual kernel the derivative.
DKMP_INLINE float result(float x) { return x; }
DKMP_INLINE double result(double x) { return x; }
template <class T>
DKMP_INLINE T result(const Dual<T>& x) {
  return x.t;
}

// ---- functions -----------------------------------------------------------------------------------------------

DKMP_INLINE float exponential(float x) { return expf(x); }
DKMP_INLINE double exponential(double x) { return exp(x); }
template <class T>
DKMP_INLINE Dual<T> exponential(const Dual<T>& x) {
  const T value = exponential(x.v);
  return {value, value * x.t};
}
DKMP_INLINE float square_root(float x) { return sqrtf(x); }
DKMP_INLINE double square_root(double x) { return sqrt(x); }
template <class T>
DKMP_INLINE Dual<T> square_root(const Dual<T>& x) {
  const T root = square_root(x.v);
  return {root, x.t * (T(0.5) / root)};
}
DKMP_INLINE float reciprocal(float x) { return 1.0f / x; }
DKMP_INLINE double reciprocal(double x) { return 1.0 / x; }
template <class T>
DKMP_INLINE Dual<T> reciprocal(const Dual<T>& x) {
  const T inverse = T(1) / x.v;
  return {inverse, -(inverse * inverse * x.t)};
}
template <class T>
DKMP_INLINE T larger(T a, T b) {
  return a > b ? a : b;
}
template <class T>
DKMP_INLINE T smaller(T a, T b) {
  return a < b ? a : b;
}

// ---- vector loads --------------------------------------------------------------------------------------------

// `width` scalars that one instruction loads; their address must be a multiple of their size, at most 16 bytes.
template <class T, int width>
struct alignas(sizeof(T) * width) Pack {
  T at[width];
};
template <int width, class T>
DKMP_INLINE Pack<T, width> load_pack(const T* from) {
  static_assert(sizeof(T) * width <= 16, "a thread loads at most 16 bytes at once");
  return *reinterpret_cast<const Pack<T, width>*>(from);
}
template <int width, class T>
DKMP_INLINE void store_pack(T* to, const Pack<T, width>& pack) {
  static_assert(sizeof(T) * width <= 16, "a thread stores at most 16 bytes at once");
  *reinterpret_cast<Pack<T, width>*>(to) = pack;
}

// Number at `at` of an array with an optional direction (null = zero), which plain kernels ignore.
DKMP_INLINE Number load_number(const Scalar* values, const Scalar* direction, Offset at) {
#if DKMP_DUAL
  return {values[at], direction ? direction[at] : Scalar(0)};
#else
  return values[at];
#endif
}

// ---- warps ---------------------------------------------------------------------------------------------------

DKMP_INLINE float from_lane_xor(float x, int mask) { return __shfl_xor_sync(kWholeWarp, x, mask); }
DKMP_INLINE double from_lane_xor(double x, int mask) { return __shfl_xor_sync(kWholeWarp, x, mask); }
DKMP_INLINE int from_lane_xor(int x, int mask) { return __shfl_xor_sync(kWholeWarp, x, mask); }
template <class T>
DKMP_INLINE Dual<T> from_lane_xor(const Dual<T>& x, int mask) {
  return {from_lane_xor(x.v, mask), from_lane_xor(x.t, mask)};
}

// Sum over each aligned group of `lanes` lanes (a power of two), in every lane of it; all 32 lanes must call.
template <int lanes = kWarp, class T>
DKMP_INLINE T group_sum(T x) {
  static_assert(lanes >= 1 && lanes <= kWarp && (lanes & (lanes - 1)) == 0, "groups are powers of two");
#pragma unroll
  for (int distance = lanes / 2; distance > 0; distance /= 2) x = x + from_lane_xor(x, distance);
  return x;
}
template <class T>
DKMP_INLINE T warp_sum(T x) {
  return group_sum<kWarp>(x);
}
