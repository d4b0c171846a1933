// Sums that do not depend on the order of their terms: terms become integers relative to the largest one.
//
// A sum of up to 2^31 terms keeps at least 30 bits below the largest term for 2^31 terms and 60 - log2(terms) in
// general: more than float32 has, and about as many as a float64 sum in any order keeps.
#pragma once

#include "common.cuh"

// Largest exponent e with |x| < 2^e for a finite x; 0 for zero.
DKMP_INLINE int exponent_above(float x) { return (int)((__float_as_uint(x) >> 23) & 255u) - 126; }
DKMP_INLINE int exponent_above(double x) {
  return (int)(((unsigned long long)__double_as_longlong(x) >> 52) & 2047ull) - 1022;
}
DKMP_INLINE float power_of_two(float, int e) { return __int_as_float((e + 127) << 23); }
DKMP_INLINE double power_of_two(double, int e) { return __longlong_as_double((long long)(e + 1023) << 52); }
DKMP_INLINE float largest_finite(float) { return 3.4028234663852886e38f; }
DKMP_INLINE double largest_finite(double) { return 1.7976931348623157e308; }
DKMP_INLINE int largest_exponent(float) { return 126; }
DKMP_INLINE int largest_exponent(double) { return 1022; }

// Turns terms of magnitude up to `largest` into integers whose sum of `count` terms fits into 63 bits.
template <class T>
struct FixedPoint {
  T scale, inverse;

  DKMP_INLINE FixedPoint(T largest, int count) {
    int bits = 0;
    while (((long long)1 << bits) < count) ++bits;
    int e = 61 - bits - exponent_above(largest);
    const int most = largest_exponent(T(0));
    e = e > most ? most : (e < -most ? -most : e);
    scale = power_of_two(T(0), e);
    inverse = power_of_two(T(0), -e);
  }
  DKMP_INLINE long long integer(T x) const { return (long long)(x * scale); }
  DKMP_INLINE T number(long long x) const { return (T)x * inverse; }
};

DKMP_INLINE long long warp_sum_integer(long long x) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(kWholeWarp, x, distance);
  return x;
}
template <class T>
DKMP_INLINE T warp_largest(T x) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) x = larger(x, from_lane_xor(x, distance));
  return x;
}
