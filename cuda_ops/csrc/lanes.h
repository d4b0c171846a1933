// SIMD lanes as compiler vectors: DKMP_LANE_BYTES wide, plain or dual.
// Include inside the namespace of the instruction-set level, after dual.h.

template <class Scalar>
struct LaneOf;
template <>
struct LaneOf<float> {
  typedef float type __attribute__((vector_size(DKMP_LANE_BYTES)));
  typedef int32_t bits __attribute__((vector_size(DKMP_LANE_BYTES)));
};
template <>
struct LaneOf<double> {
  typedef double type __attribute__((vector_size(DKMP_LANE_BYTES)));
  typedef int64_t bits __attribute__((vector_size(DKMP_LANE_BYTES)));
};
template <class Scalar>
using Lane = typename LaneOf<Scalar>::type;
template <class Scalar>
constexpr int kLanes = DKMP_LANE_BYTES / int(sizeof(Scalar));

template <class Scalar>
inline Lane<Scalar> load(const Scalar* from) {
  Lane<Scalar> lane;
  __builtin_memcpy(&lane, from, sizeof(lane));
  return lane;
}
template <class Scalar>
inline void store(Scalar* to, const Lane<Scalar>& lane) {
  __builtin_memcpy(to, &lane, sizeof(lane));
}

// The first `count` lanes; the rest are zero.
template <class Scalar>
inline Lane<Scalar> load_part(const Scalar* from, int64_t count) {
  Lane<Scalar> lane{};
  __builtin_memcpy(&lane, from, count * sizeof(Scalar));
  return lane;
}

inline Lane<float> plain(const Lane<float>& x) { return x; }
inline Lane<double> plain(const Lane<double>& x) { return x; }

// v with its lanes rotated by `shift`.
template <int shift, class Vector, int... lane>
inline Vector rotate(const Vector& v, std::integer_sequence<int, lane...>) {
  constexpr int count = sizeof...(lane);
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(v, v, ((lane + shift) % count)...);
#else
  using Index = decltype(v < v);
  return __builtin_shuffle(v, Index{((lane + shift) % count)...});
#endif
}

// Sum over lanes by halving, in registers; the order is fixed, so results depend on nothing but the level.
template <int count, int shift = count / 2, class Vector>
inline auto sum_rotated(const Vector& v) {
  if constexpr (shift == 0) {
    return v[0];
  } else {
    return sum_rotated<count, shift / 2>(Vector(v + rotate<shift>(v, std::make_integer_sequence<int, count>())));
  }
}
inline float sum_lanes(const Lane<float>& lane) { return sum_rotated<kLanes<float>>(lane); }
inline double sum_lanes(const Lane<double>& lane) { return sum_rotated<kLanes<double>>(lane); }
template <class T>
inline auto sum_lanes(const Dual<T>& lane) -> Dual<decltype(sum_lanes(lane.v))> {
  return {sum_lanes(lane.v), sum_lanes(lane.t)};
}

template <class Scalar>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  static constexpr float limit = 87.0f, round = 12582912.0f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr int terms = 7, shift = 23;
  static constexpr float inverse_factorials[] = {1.0f,       1.0f,        1.0f / 2,   1.0f / 6,
                                                 1.0f / 24,  1.0f / 120,  1.0f / 720, 1.0f / 5040};
};
template <>
struct ExpConstants<double> {
  static constexpr double limit = 708.0, round = 6755399441055744.0, ln2_high = 0.693145751953125,
                          ln2_low = 1.42860682030941723212e-6;
  static constexpr int terms = 13, shift = 52;
  static constexpr double inverse_factorials[] = {
      1.0,        1.0,         1.0 / 2,       1.0 / 6,        1.0 / 24,        1.0 / 120,        1.0 / 720,
      1.0 / 5040, 1.0 / 40320, 1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};
};

// e^x to a few units in the last place, for |x| up to the limit. NaN stays NaN.
template <class Scalar>
inline Lane<Scalar> exponential_within_limit(const Lane<Scalar>& x) {
  using K = ExpConstants<Scalar>;
  using Bits = typename LaneOf<Scalar>::bits;
  // Adding and removing a large constant rounds to an integer; its low bits then are that integer.
  const Lane<Scalar> shifted = x * Scalar(1.44269504088896340736) + K::round;
  const Lane<Scalar> n = shifted - K::round;
  const Lane<Scalar> rest = (x - n * K::ln2_high) - n * K::ln2_low;
  Lane<Scalar> sum = Lane<Scalar>{} + K::inverse_factorials[K::terms];
#pragma GCC unroll 16
  for (int k = K::terms - 1; k >= 0; --k) sum = K::inverse_factorials[k] + sum * rest;
  // Casts between vectors of equal size keep the bits: the integer is added to the exponent. The bits of a NaN could
  // become a number's by that.
  return x == x ? (Lane<Scalar>)((Bits)sum + ((Bits)shifted << K::shift)) : x;
}

// The same for any x, which is brought into the range without overflow.
template <class Scalar>
inline Lane<Scalar> exponential(Lane<Scalar> x) {
  const Lane<Scalar> limit = Lane<Scalar>{} + ExpConstants<Scalar>::limit;
  x = x > limit ? limit : x;
  x = x < -limit ? -limit : x;
  return exponential_within_limit<Scalar>(x);
}

template <class Scalar>
inline Lane<Scalar> sigmoid_lane(const Lane<Scalar>& x) {
  return Scalar(1) / (Scalar(1) + exponential<Scalar>(-x));
}

// Square root and reciprocal, lane by lane.
template <class Scalar>
inline Lane<Scalar> root_lane(const Lane<Scalar>& x) {
  Lane<Scalar> root;
  for (int k = 0; k < kLanes<Scalar>; ++k) root[k] = square_root(Scalar(x[k]));
  return root;
}
template <class Scalar>
inline Dual<Lane<Scalar>> root_lane(const Dual<Lane<Scalar>>& x) {
  const Lane<Scalar> root = root_lane<Scalar>(x.v);
  return {root, x.t / (root + root)};
}
template <class Scalar>
inline Lane<Scalar> reciprocal_lane(const Lane<Scalar>& x) {
  return Scalar(1) / x;
}
template <class Scalar>
inline Dual<Lane<Scalar>> reciprocal_lane(const Dual<Lane<Scalar>>& x) {
  const Lane<Scalar> inverse = Scalar(1) / x.v;
  return {inverse, -(inverse * inverse * x.t)};
}

// One of two numbers by the mask that a comparison of lanes gives.
template <class Mask, class Vector>
inline Vector choose(const Mask& mask, const Vector& yes, const Vector& no) {
  return mask ? yes : no;
}
template <class Mask, class Vector>
inline Dual<Vector> choose(const Mask& mask, const Dual<Vector>& yes, const Dual<Vector>& no) {
  return {mask ? yes.v : no.v, mask ? yes.t : no.t};
}

// x where lane numbers are below `count`, zero in the others.
template <class Scalar>
inline Lane<Scalar> first_lanes(const Lane<Scalar>& x, int64_t count) {
  constexpr Scalar kNumbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return load(kNumbers) < Lane<Scalar>{} + Scalar(count) ? x : Lane<Scalar>{};
}
template <class Scalar>
inline Dual<Lane<Scalar>> first_lanes(const Dual<Lane<Scalar>>& x, int64_t count) {
  return {first_lanes<Scalar>(x.v, count), first_lanes<Scalar>(x.t, count)};
}
