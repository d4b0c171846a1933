// Inner loops of degree_norm, compiled once per instruction-set level into the namespace DKMP_ISA. Nothing here
// includes ATen or standard containers (see dilated_message.isa.cpp).
#include <cstdint>
#include <type_traits>
#include <utility>

#include "degree_norm.h"

namespace dkmp {
namespace DKMP_ISA {
namespace {

#include "dual.h"
#include "lanes.h"
#include "dual_arrays.h"

// One lane vector of an array's numbers, from place `at` on; zeros behind the first `count`.
template <class Scalar, bool dual>
inline typename Types<Scalar, dual>::Wide read(const Array<Scalar, dual>& array, int64_t at, int64_t count) {
  if (count >= kLanes<Scalar>) return array.wide(at);
  const Lane<Scalar> value = load_part(array.values + at, count);
  if constexpr (dual) {
    return {value, array.direction ? load_part(array.direction + at, count) : Lane<Scalar>{}};
  } else {
    return value;
  }
}

// The result of a plain kernel is the value, of a dual kernel the derivative.
template <class Scalar>
inline void write(Scalar* to, const Lane<Scalar>& x, int64_t count) {
  if (count >= kLanes<Scalar>) return store<Scalar>(to, x);
  __builtin_memcpy(to, &x, count * sizeof(Scalar));
}
template <class Scalar>
inline void write(Scalar* to, const Dual<Lane<Scalar>>& x, int64_t count) {
  write(to, x.t, count);
}

template <class Scalar, bool dual>
struct Norm {
  using Number = typename Types<Scalar, dual>::Number;
  using Wide = typename Types<Scalar, dual>::Wide;
  using Numbers = Array<Scalar, dual>;
  static constexpr int64_t lanes = kLanes<Scalar>;

  const DegreeNormCall<Scalar>& call;
  int64_t d = call.num_channels;

  Numbers vector(int64_t atom, int degree) const {
    return Numbers{call.vector, call.vector_direction}.from((atom * kNumComponents + kDegreeStart[degree]) * d);
  }
  Numbers weight(int degree) const { return Numbers{call.weight, call.weight_direction}.from(degree * d); }
  // A plain array also of dual kernels: backward is linear in it, and its own direction is the values' kernel.
  const Scalar* upstream(int64_t atom, int degree) const {
    return call.upstream.start[degree] + atom * call.upstream.stride[degree];
  }

  Number factor(const Numbers& x, int degree) const {
    const int64_t size = kDegreeSize[degree] * d;
    Wide sum{};
    for (int64_t at = 0; at < size; at += lanes) {
      const Wide value = read(x, at, size - at);
      sum += value * value;
    }
    return reciprocal(square_root(Scalar(1) / Scalar(d) * sum_lanes(sum) + call.offset));
  }

  // Sum over a degree's components of upstream times features, at channels from c on.
  Wide contract(const Numbers& x, const Scalar* up, int degree, int64_t c) const {
    Wide sum{};
    for (int m = 0; m < kDegreeSize[degree]; ++m)
      sum += read(Array<Scalar, false>{up, nullptr}, m * d + c, d - c) * read(x, m * d + c, d - c);
    return sum;
  }

  void values(int64_t begin, int64_t end) const {
    for (int64_t atom = begin; atom < end; ++atom)
      for (int degree = 0; degree < kNumDegrees; ++degree) {
        const Numbers x = vector(atom, degree), w = weight(degree);
        Scalar* to = call.values.start[degree] + atom * call.values.stride[degree];
        const Wide f = spread(factor(x, degree));
        for (int64_t c = 0; c < d; c += lanes) {
          const Wide scale = f * read(w, c, d - c);
          for (int m = 0; m < kDegreeSize[degree]; ++m)
            write(to + m * d + c, scale * read(x, m * d + c, d - c), d - c);
        }
      }
  }

  void to_vector(int64_t begin, int64_t end) const {
    for (int64_t atom = begin; atom < end; ++atom)
      for (int degree = 0; degree < kNumDegrees; ++degree) {
        const Numbers x = vector(atom, degree), w = weight(degree);
        const Scalar* up = upstream(atom, degree);
        const Number f = factor(x, degree);
        Wide sum{};
        for (int64_t c = 0; c < d; c += lanes) sum += read(w, c, d - c) * contract(x, up, degree, c);
        // df/dx = -f^3 x / d.
        const Wide scale = spread(f), along = spread(Scalar(-1) / Scalar(d) * (f * f * f * sum_lanes(sum)));
        const int64_t start = (atom * kNumComponents + kDegreeStart[degree]) * d;
        Scalar* to = call.to_vector + start;
        for (int64_t c = 0; c < d; c += lanes) {
          const Wide by_upstream = scale * read(w, c, d - c);
          for (int m = 0; m < kDegreeSize[degree]; ++m) {
            const int64_t at = m * d + c;
            if (atom + 1 < end) {
              // Lines of so many rows that the processor does not foresee them.
              __builtin_prefetch(x.values + at + kNumComponents * d);
              __builtin_prefetch(up + at + call.upstream.stride[degree]);
              if (call.added) __builtin_prefetch(call.added + start + at + kNumComponents * d);
            }
            const Lane<Scalar> u = read(Array<Scalar, false>{up, nullptr}, at, d - c);
            Wide gradient = by_upstream * u + along * read(x, at, d - c);
            // Has no derivative by the features.
            if constexpr (!dual)
              if (call.added) gradient += read(Array<Scalar, false>{call.added, nullptr}, start + at, d - c);
            write(to + at, gradient, d - c);
          }
        }
        if (call.factors) Buffer<Scalar, dual>{call.factors, call.factor_tangents}.set(atom * kNumDegrees + degree, f);
      }
  }

  void to_weight(int64_t begin, int64_t end) const {
    const Buffer<Scalar, dual> factors{call.factors, call.factor_tangents};
    for (int degree = 0; degree < kNumDegrees; ++degree)
      for (int64_t c = begin; c < end; c += lanes) {
        Wide sum{};
        for (int64_t atom = 0; atom < call.num_atoms; ++atom)
          sum += spread(factors.number(atom * kNumDegrees + degree)) *
              contract(vector(atom, degree), upstream(atom, degree), degree, c);
        write(call.to_weight + degree * d + c, sum, end - c);
      }
  }
};

template <class Scalar>
void values(const DegreeNormCall<Scalar>& call, int64_t begin, int64_t end) {
  call.dual ? Norm<Scalar, true>{call}.values(begin, end) : Norm<Scalar, false>{call}.values(begin, end);
}
template <class Scalar>
void to_vector(const DegreeNormCall<Scalar>& call, int64_t begin, int64_t end) {
  call.dual ? Norm<Scalar, true>{call}.to_vector(begin, end) : Norm<Scalar, false>{call}.to_vector(begin, end);
}
template <class Scalar>
void to_weight(const DegreeNormCall<Scalar>& call, int64_t begin, int64_t end) {
  call.dual ? Norm<Scalar, true>{call}.to_weight(begin, end) : Norm<Scalar, false>{call}.to_weight(begin, end);
}

}  // namespace

DegreeNormKernels<float> degree_norm_kernels_float() { return {values<float>, to_vector<float>, to_weight<float>}; }
DegreeNormKernels<double> degree_norm_kernels_double() {
  return {values<double>, to_vector<double>, to_weight<double>};
}

}  // namespace DKMP_ISA
}  // namespace dkmp
