// Arrays read as plain or dual numbers, one at a time or one lane vector at a time.
// Include inside the namespace of the instruction-set level, after dual.h and lanes.h.

// Number: Scalar or Dual<Scalar>. Wide: the same, one lane vector wide.
template <class Scalar, bool dual>
struct Types {
  using Number = typename std::conditional<dual, Dual<Scalar>, Scalar>::type;
  using Wide = typename std::conditional<dual, Dual<Lane<Scalar>>, Lane<Scalar>>::type;
};

// Values and, for dual numbers, their direction (null = zero).
template <class Scalar, bool dual>
struct Array {
  const Scalar *values, *direction;

  typename Types<Scalar, dual>::Wide wide(int64_t at) const {
    if constexpr (!dual) {
      return load(values + at);
    } else {
      const Lane<Scalar> tangent = direction ? load(direction + at) : Lane<Scalar>{};
      return {load(values + at), tangent};
    }
  }
  typename Types<Scalar, dual>::Number number(int64_t at) const {
    if constexpr (!dual) {
      return values[at];
    } else {
      return {values[at], direction ? direction[at] : Scalar(0)};
    }
  }
  // The array from place `at` on. Loops over constant places in it then need one address, not one each.
  Array from(int64_t at) const { return {values + at, dual && direction ? direction + at : nullptr}; }
};

// Numbers stored as values and tangents apart, so that both load as lane vectors.
template <class Scalar, bool dual>
struct Buffer {
  Scalar *values, *tangents;

  typename Types<Scalar, dual>::Wide wide(int64_t at) const {
    if constexpr (dual) {
      return {load(values + at), load(tangents + at)};
    } else {
      return load(values + at);
    }
  }
  typename Types<Scalar, dual>::Number number(int64_t at) const {
    if constexpr (dual) {
      return {values[at], tangents[at]};
    } else {
      return values[at];
    }
  }
  Buffer from(int64_t at) const { return {values + at, tangents + at}; }
  void set(int64_t at, const Scalar& x) const { values[at] = x; }
  void set(int64_t at, const Dual<Scalar>& x) const {
    values[at] = x.v;
    tangents[at] = x.t;
  }
  void set_wide(int64_t at, const Lane<Scalar>& x) const { store(values + at, x); }
  void set_wide(int64_t at, const Dual<Lane<Scalar>>& x) const {
    store(values + at, x.v);
    store(tangents + at, x.t);
  }
};

// One lane vector wide broadcast of a number.
template <class Scalar>
inline Lane<Scalar> spread(Scalar x) {
  return Lane<Scalar>{} + x;
}
template <class Scalar>
inline Dual<Lane<Scalar>> spread(const Dual<Scalar>& x) {
  return {Lane<Scalar>{} + x.v, Lane<Scalar>{} + x.t};
}

// The result of a plain kernel is the value, of a dual kernel the derivative.
inline float result(float x) { return x; }
inline double result(double x) { return x; }
template <class T>
inline T result(const Dual<T>& x) {
  return x.t;
}
// The same of one lane.
template <class Vector>
inline auto result_at(const Vector& x, int lane) {
  return x[lane];
}
template <class Vector>
inline auto result_at(const Dual<Vector>& x, int lane) {
  return x.t[lane];
}
template <class Scalar>
inline void put(Scalar* to, const Lane<Scalar>& x, bool add) {
  store<Scalar>(to, add ? load(to) + x : x);
}
template <class Scalar, class T>
inline void put(Scalar* to, const Dual<T>& x, bool add) {
  put<Scalar>(to, x.t, add);
}
