// What a degree map computes for one atom and channel (one lane vector of channels on CPUs): the text that the CPU's
// loops (csrc/degree_maps.isa.cpp) and the GPU's kernel (degree_maps.cu) share.
//
// Whoever includes this has Dual<T>, DKMP_INLINE, and add_arc_tangents<Scalar>(value, beyond), which adds
// 100 arctan(beyond). Scalar is float or double; Wide is what is computed with: Scalar, a lane vector, or Dual of one.
//
// Components of degree 2, in the order of the harmonics, stand for symmetric traceless matrices of the same length:
// T(c) = sum_k c_k B_k with orthonormal B_k (dkmp_plugin/ops/reference/degrees.py). The way back, components_of, is the
// transpose of T and keeps the symmetric traceless part of any matrix.
#pragma once

#include "degree_maps_plan.cuh"

#define DKMP_PRAGMA(text) _Pragma(#text)
#ifdef __CUDACC_RTC__
#define DKMP_UNROLL(count) DKMP_PRAGMA(unroll)
#else
#define DKMP_UNROLL(count) DKMP_PRAGMA(GCC unroll count)
#endif

constexpr double kRootHalf = 0.70710678118654752440, kRootSixth = 0.40824829046386301637;

template <class Wide>
struct Matrix {
  Wide at[3][3];
};

template <class Scalar, class Wide>
DKMP_INLINE Matrix<Wide> matrix_of(const Wide* c) {
  const Wide xz = Scalar(kRootHalf) * c[0], xy = Scalar(kRootHalf) * c[1], yy = Scalar(kRootSixth) * c[2],
             yz = Scalar(kRootHalf) * c[3], difference = Scalar(kRootHalf) * c[4];
  return {{{Scalar(-1) * yy - difference, xy, xz}, {xy, Scalar(2) * yy, yz}, {xz, yz, difference - yy}}};
}

template <class Scalar, class Wide>
DKMP_INLINE void components_of(const Matrix<Wide>& m, Wide* c) {
  c[0] = Scalar(kRootHalf) * (m.at[0][2] + m.at[2][0]);
  c[1] = Scalar(kRootHalf) * (m.at[0][1] + m.at[1][0]);
  c[2] = Scalar(kRootSixth) * (Scalar(2) * m.at[1][1] - (m.at[0][0] + m.at[2][2]));
  c[3] = Scalar(kRootHalf) * (m.at[1][2] + m.at[2][1]);
  c[4] = Scalar(kRootHalf) * (m.at[2][2] - m.at[0][0]);
}

// a_i b_j added to m_ij.
template <class Wide>
DKMP_INLINE void add_outer(Matrix<Wide>& m, const Wide* a, const Wide* b) {
DKMP_UNROLL(3)
  for (int i = 0; i < 3; ++i)
DKMP_UNROLL(3)
    for (int j = 0; j < 3; ++j) m.at[i][j] += a[i] * b[j];
}

template <class Wide>
DKMP_INLINE Matrix<Wide> multiply(const Matrix<Wide>& a, const Matrix<Wide>& b) {
  Matrix<Wide> m;
DKMP_UNROLL(3)
  for (int i = 0; i < 3; ++i)
DKMP_UNROLL(3)
    for (int j = 0; j < 3; ++j)
      m.at[i][j] = a.at[i][0] * b.at[0][j] + a.at[i][1] * b.at[1][j] + a.at[i][2] * b.at[2][j];
  return m;
}

// m b added to c; for symmetric m also its transpose times b.
template <class Wide>
DKMP_INLINE void add_applied(const Matrix<Wide>& m, const Wide* b, Wide* c) {
DKMP_UNROLL(3)
  for (int i = 0; i < 3; ++i) c[i] += m.at[i][0] * b[0] + m.at[i][1] * b[1] + m.at[i][2] * b[2];
}

// Left and right features: components stand as left, right, left, right, ... in memory.
template <class Wide>
struct Pair {
  Wide left[5], right[5];
};

template <int size, class Wide>
DKMP_INLINE Pair<Wide> unzip(const Wide* components) {
  Pair<Wide> pair;
DKMP_UNROLL(5)
  for (int m = 0; m < size; ++m) {
    pair.left[m] = components[2 * m];
    pair.right[m] = components[2 * m + 1];
  }
  return pair;
}

template <int size, class Wide>
DKMP_INLINE void zip(const Pair<Wide>& pair, Wide* components) {
DKMP_UNROLL(5)
  for (int m = 0; m < size; ++m) {
    components[2 * m] = pair.left[m];
    components[2 * m + 1] = pair.right[m];
  }
}

template <int size, class Wide>
DKMP_INLINE Wide dot(const Wide* a, const Wide* b) {
  Wide sum = a[0] * b[0];
DKMP_UNROLL(5)
  for (int m = 1; m < size; ++m) sum += a[m] * b[m];
  return sum;
}

template <class Scalar, class Wide>
DKMP_INLINE void multiply_degrees(const Pair<Wide>& first, const Pair<Wide>& second, Wide* product) {
  const Matrix<Wide> a = matrix_of<Scalar>(second.left);
  Matrix<Wide> m = multiply(a, matrix_of<Scalar>(second.right));
  add_outer(m, first.left, first.right);
  product[0] = product[1] = product[2] = Wide{};
  add_applied(a, first.right, product);
  components_of<Scalar>(m, product + 3);
}

// An invariant up to the limit, levelling off beyond it (dkmp_plugin/ops/reference/degrees.py), with its derivatives.
template <class Value>
struct Bend {
  Value value, slope, curvature;
};

template <class Scalar, class Value>
DKMP_INLINE Bend<Value> bend(const Value& x) {
  const Value limit = Value{} + Scalar(100);
  Value value = x > limit ? limit : x;
  value = value < -limit ? -limit : value;
  const Value beyond = (x - value) * Scalar(0.01);
  add_arc_tangents<Scalar>(value, beyond);
  const Value slope = Scalar(1) / (Scalar(1) + beyond * beyond);
  return {value, slope, Scalar(-0.02) * beyond * slope * slope};
}

// The bounded invariant and its slope, as plain or dual numbers.
template <class Wide>
struct Bounded {
  Wide value, slope;
};

template <class Scalar, class Value>
DKMP_INLINE Bounded<Value> bounded(const Value& x) {
  const Bend<Value> b = bend<Scalar>(x);
  return {b.value, b.slope};
}
template <class Scalar, class Value>
DKMP_INLINE Bounded<Dual<Value>> bounded(const Dual<Value>& x) {
  const Bend<Value> b = bend<Scalar>(x.v);
  return {{b.value, b.slope * x.t}, {b.slope, b.curvature * x.t}};
}

template <DegreeMap map>
struct Map;

template <>
struct Map<kInvariants> {
  template <class Scalar, class Wide>
  DKMP_INLINE static void run(const Wide* in, Wide* out) {
    const Pair<Wide> first = unzip<3>(in), second = unzip<5>(in + 6);
    out[0] = bounded<Scalar>(dot<3>(first.left, first.right)).value;
    out[1] = bounded<Scalar>(dot<5>(second.left, second.right)).value;
  }
};

template <>
struct Map<kInvariantsBackward> {
  template <class Scalar, class Wide>
  DKMP_INLINE static void run(const Wide* in, Wide* out) {
    const Pair<Wide> first = unzip<3>(in), second = unzip<5>(in + 6);
    const Wide by_first = in[16] * bounded<Scalar>(dot<3>(first.left, first.right)).slope,
               by_second = in[17] * bounded<Scalar>(dot<5>(second.left, second.right)).slope;
DKMP_UNROLL(3)
    for (int m = 0; m < 3; ++m) {
      out[2 * m] = by_first * first.right[m];
      out[2 * m + 1] = by_first * first.left[m];
    }
DKMP_UNROLL(5)
    for (int m = 0; m < 5; ++m) {
      out[6 + 2 * m] = by_second * second.right[m];
      out[6 + 2 * m + 1] = by_second * second.left[m];
    }
  }
};

// Of pairs and their products.
template <class Wide>
DKMP_INLINE void product_invariants(
    const Pair<Wide>& first, const Pair<Wide>& second, const Wide* product, Wide* invariants) {
  invariants[0] = dot<3>(first.left, first.right);
  invariants[1] = dot<5>(second.left, second.right);
  invariants[2] = dot<3>(product, first.left);
  invariants[3] = dot<5>(product + 3, second.left);
}

// Gradients of pairs, from those of their products, added to what is there.
template <class Scalar, class Wide>
DKMP_INLINE void multiply_degrees_backward(
    const Pair<Wide>& first, const Pair<Wide>& second, const Wide* by_product, Pair<Wide>& to_first,
    Pair<Wide>& to_second) {
  // The products are A b and the components of A B + a b^T.
  const Matrix<Wide> a = matrix_of<Scalar>(second.left), b = matrix_of<Scalar>(second.right),
                     by_matrix = matrix_of<Scalar>(by_product + 3);
  Matrix<Wide> to_a = multiply(by_matrix, b);
  const Matrix<Wide> to_b = multiply(a, by_matrix);
  add_outer(to_a, by_product, first.right);
  add_applied(a, by_product, to_first.right);
  add_applied(by_matrix, first.right, to_first.left);
  add_applied(by_matrix, first.left, to_first.right);
  Wide left[5], right[5];
  components_of<Scalar>(to_a, left);
  components_of<Scalar>(to_b, right);
DKMP_UNROLL(5)
  for (int m = 0; m < 5; ++m) {
    to_second.left[m] += left[m];
    to_second.right[m] += right[m];
  }
}

// The same from those of products (null for none) and invariants.
template <class Scalar, class Wide>
DKMP_INLINE void product_invariants_backward(
    const Pair<Wide>& first, const Pair<Wide>& second, const Wide* product, const Wide* by_product,
    const Wide* by_invariant, Pair<Wide>& to_first, Pair<Wide>& to_second) {
  Wide through[8];
DKMP_UNROLL(3)
  for (int m = 0; m < 3; ++m) {
    through[m] = by_invariant[2] * first.left[m];
    if (by_product) through[m] += by_product[m];
    to_first.left[m] += by_invariant[0] * first.right[m] + by_invariant[2] * product[m];
    to_first.right[m] += by_invariant[0] * first.left[m];
  }
DKMP_UNROLL(5)
  for (int m = 0; m < 5; ++m) {
    through[3 + m] = by_invariant[3] * second.left[m];
    if (by_product) through[3 + m] += by_product[3 + m];
    to_second.left[m] += by_invariant[1] * second.right[m] + by_invariant[3] * product[3 + m];
    to_second.right[m] += by_invariant[1] * second.left[m];
  }
  multiply_degrees_backward<Scalar>(first, second, through, to_first, to_second);
}

template <>
struct Map<kProducts> {
  template <class Scalar, class Wide>
  DKMP_INLINE static void run(const Wide* in, Wide* out) {
    const Pair<Wide> first = unzip<3>(in), second = unzip<5>(in + 6);
    multiply_degrees<Scalar>(first, second, out);
    product_invariants(first, second, out, out + 8);
  }
};

template <>
struct Map<kProductsBackward> {
  template <class Scalar, class Wide>
  DKMP_INLINE static void run(const Wide* in, Wide* out) {
    const Pair<Wide> first = unzip<3>(in), second = unzip<5>(in + 6);
    Pair<Wide> to_first{}, to_second{};
    Wide product[8];
    multiply_degrees<Scalar>(first, second, product);
    product_invariants_backward<Scalar>(first, second, product, in + 16, in + 24, to_first, to_second);
    zip<3>(to_first, out);
    zip<5>(to_second, out + 6);
  }
};

template <>
struct Map<kFeatures> {
  template <class Scalar, class Wide>
  DKMP_INLINE static void run(const Wide* in, Wide* out) {
    const Pair<Wide> first = unzip<3>(in), second = unzip<5>(in + 6);
    Wide product[8];
    multiply_degrees<Scalar>(first, second, product);
    out[0] = in[16] * in[17];
    product_invariants(first, second, product, out + 1);
    out[5] = in[18];
  }
};

template <>
struct Map<kFeaturesBackward> {
  template <class Scalar, class Wide>
  DKMP_INLINE static void run(const Wide* in, Wide* out) {
    const Pair<Wide> first = unzip<3>(in), second = unzip<5>(in + 6);
    const Wide &gate = in[16], &message = in[17], *upstream = in + 19, *added = in + 25;
    Pair<Wide> to_first = unzip<3>(added), to_second = unzip<5>(added + 6);
    Wide product[8];
    multiply_degrees<Scalar>(first, second, product);
    product_invariants_backward<Scalar, Wide>(first, second, product, nullptr, upstream + 1, to_first, to_second);
    zip<3>(to_first, out);
    zip<5>(to_second, out + 6);
    out[16] = upstream[0] * message;
    out[17] = upstream[0] * gate;
    out[18] = upstream[5];
  }
};

// Gates: shift; scales of the invariants; factors of left first and left second and, with products, of theirs.
template <bool products>
struct GateMap {
  static constexpr int invariants = products ? 4 : 2, factors = 1 + invariants, gates = factors + invariants;
  static constexpr int first_at = gates + invariants, second_at = first_at + 6, product_at = second_at + 10;

  template <class Scalar, class Wide>
  DKMP_INLINE static void run(const Wide* in, Wide* out) {
    const Wide *gate = in, *factor = in + factors, *first = in + first_at, *second = in + second_at,
               *product = in + product_at;
    out[0] = gate[0] + dot<invariants>(gate + 1, in + gates);
DKMP_UNROLL(3)
    for (int m = 0; m < 3; ++m) {
      out[1 + m] = factor[0] * first[2 * m];
      if constexpr (products) out[1 + m] += factor[2] * product[m];
    }
DKMP_UNROLL(5)
    for (int m = 0; m < 5; ++m) {
      out[4 + m] = factor[1] * second[2 * m];
      if constexpr (products) out[4 + m] += factor[3] * product[3 + m];
    }
  }
};

template <bool products>
struct GateBackwardMap {
  using Forward = GateMap<products>;

  template <class Scalar, class Wide>
  DKMP_INLINE static void run(const Wide* in, Wide* out) {
    constexpr int invariants = Forward::invariants, upstream = Forward::product_at + (products ? 8 : 0);
    const Wide *gate = in, *factor = in + Forward::factors, *invariant = in + Forward::gates,
               *first = in + Forward::first_at, *second = in + Forward::second_at,
               *product = in + Forward::product_at, *by_vector = in + upstream + 1;
    const Wide& by_scalar = in[upstream];
    Wide *to_gate = out, *to_factor = out + Forward::factors, *to_invariant = out + Forward::gates,
         *to_first = out + Forward::first_at, *to_second = out + Forward::second_at,
         *to_product = out + Forward::product_at;
    to_gate[0] = by_scalar;
DKMP_UNROLL(4)
    for (int k = 0; k < invariants; ++k) {
      to_gate[1 + k] = by_scalar * invariant[k];
      to_invariant[k] = by_scalar * gate[1 + k];
      to_factor[k] = Wide{};
    }
DKMP_UNROLL(3)
    for (int m = 0; m < 3; ++m) {
      to_factor[0] += by_vector[m] * first[2 * m];
      to_first[2 * m] = factor[0] * by_vector[m];
      to_first[2 * m + 1] = Wide{};
      if constexpr (products) {
        to_factor[2] += by_vector[m] * product[m];
        to_product[m] = factor[2] * by_vector[m];
      }
    }
DKMP_UNROLL(5)
    for (int m = 0; m < 5; ++m) {
      to_factor[1] += by_vector[3 + m] * second[2 * m];
      to_second[2 * m] = factor[1] * by_vector[3 + m];
      to_second[2 * m + 1] = Wide{};
      if constexpr (products) {
        to_factor[3] += by_vector[3 + m] * product[3 + m];
        to_product[3 + m] = factor[3] * by_vector[3 + m];
      }
    }
  }
};

template <>
struct Map<kGates> : GateMap<false> {};
template <>
struct Map<kGatesBackward> : GateBackwardMap<false> {};
template <>
struct Map<kProductGates> : GateMap<true> {};
template <>
struct Map<kProductGatesBackward> : GateBackwardMap<true> {};

// Where an update's inputs begin that stand behind its gates and pairs.
constexpr int kBehindPairs = GateMap<true>::gates + 16;

// Inputs of the gates of products, with the products and invariants of an update's pairs, which are not in memory.
template <class Scalar, class Wide>
DKMP_INLINE void gate_inputs(const Wide* in, Wide* inputs) {
  using Gates = GateMap<true>;
DKMP_UNROLL(9)
  for (int k = 0; k < Gates::gates; ++k) inputs[k] = in[k];
DKMP_UNROLL(16)
  for (int k = 0; k < 16; ++k) inputs[Gates::first_at + k] = in[Gates::gates + k];
  const Pair<Wide> first = unzip<3>(in + Gates::gates), second = unzip<5>(in + Gates::gates + 6);
  multiply_degrees<Scalar>(first, second, inputs + Gates::product_at);
  product_invariants(first, second, inputs + Gates::product_at, inputs + Gates::gates);
}

template <>
struct Map<kUpdate> {
  template <class Scalar, class Wide>
  DKMP_INLINE static void run(const Wide* in, Wide* out) {
    Wide inputs[GateMap<true>::product_at + 8];
    gate_inputs<Scalar>(in, inputs);
    GateMap<true>::template run<Scalar>(inputs, out);
DKMP_UNROLL(9)
    for (int k = 0; k < 9; ++k) out[k] += in[kBehindPairs + k];
  }
};

template <>
struct Map<kUpdateBackward> {
  template <class Scalar, class Wide>
  DKMP_INLINE static void run(const Wide* in, Wide* out) {
    using Gates = GateMap<true>;
    constexpr int product_at = Gates::product_at;
    Wide inputs[product_at + 8 + 9], results[product_at + 8];
    gate_inputs<Scalar>(in, inputs);
DKMP_UNROLL(9)
    for (int k = 0; k < 9; ++k) inputs[product_at + 8 + k] = in[kBehindPairs + k];
    GateBackwardMap<true>::template run<Scalar>(inputs, results);
    Pair<Wide> to_first = unzip<3>(results + Gates::first_at), to_second = unzip<5>(results + Gates::second_at);
    product_invariants_backward<Scalar, Wide>(
        unzip<3>(in + Gates::gates), unzip<5>(in + Gates::gates + 6), inputs + product_at, results + product_at,
        results + Gates::gates, to_first, to_second);
DKMP_UNROLL(9)
    for (int k = 0; k < Gates::gates; ++k) out[k] = results[k];
    zip<3>(to_first, out + Gates::gates);
    zip<5>(to_second, out + Gates::gates + 6);
  }
};
