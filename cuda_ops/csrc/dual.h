// Dual numbers v + eps t (eps^2 = 0): the same kernel text evaluates a function or its directional derivative.
// Include inside the namespace of the instruction-set level, so that no level's code can replace another's.

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
using Require = typename std::enable_if<condition, int>::type;

template <class A, class B>
inline auto operator+(const Dual<A>& a, const Dual<B>& b) -> Dual<decltype(a.v + b.v)> {
  return {a.v + b.v, a.t + b.t};
}
template <class A, class B>
inline auto operator-(const Dual<A>& a, const Dual<B>& b) -> Dual<decltype(a.v - b.v)> {
  return {a.v - b.v, a.t - b.t};
}
template <class A, class B>
inline auto operator*(const Dual<A>& a, const Dual<B>& b) -> Dual<decltype(a.v * b.v)> {
  return {a.v * b.v, a.t * b.v + a.v * b.t};
}
template <class A, class B, Require<!IsDual<A>::value> = 0>
inline auto operator*(const A& a, const Dual<B>& b) -> Dual<decltype(a * b.v)> {
  return {a * b.v, a * b.t};
}
template <class A, class B, Require<!IsDual<B>::value> = 0>
inline auto operator*(const Dual<A>& a, const B& b) -> Dual<decltype(a.v * b)> {
  return {a.v * b, a.t * b};
}
template <class A, class B, Require<!IsDual<A>::value> = 0>
inline Dual<B> operator+(const A& a, const Dual<B>& b) {
  return {a + b.v, b.t};
}
template <class A, class B, Require<!IsDual<B>::value> = 0>
inline Dual<A> operator+(const Dual<A>& a, const B& b) {
  return {a.v + b, a.t};
}
template <class A, class B, Require<!IsDual<A>::value> = 0>
inline Dual<B> operator-(const A& a, const Dual<B>& b) {
  return {a - b.v, B{} - b.t};
}
template <class A, class B, Require<!IsDual<B>::value> = 0>
inline Dual<A> operator-(const Dual<A>& a, const B& b) {
  return {a.v - b, a.t};
}
template <class A, class B>
inline Dual<A>& operator+=(Dual<A>& a, const B& b) {
  a = a + b;
  return a;
}

inline float plain(float x) { return x; }
inline double plain(double x) { return x; }
template <class T>
inline T plain(const Dual<T>& x) {
  return x.v;
}

inline float square_root(float x) { return __builtin_sqrtf(x); }
inline double square_root(double x) { return __builtin_sqrt(x); }
template <class T>
inline Dual<T> square_root(const Dual<T>& x) {
  const T root = square_root(x.v);
  return {root, x.t * (T(0.5) / root)};
}
inline float reciprocal(float x) { return 1.0f / x; }
inline double reciprocal(double x) { return 1.0 / x; }
template <class T>
inline Dual<T> reciprocal(const Dual<T>& x) {
  const T inverse = T(1) / x.v;
  return {inverse, T(0) - inverse * inverse * x.t};
}
