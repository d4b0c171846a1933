// Horizontal sums of as many lane vectors as a vector has lanes, at about three instructions per sum.
// Include inside the namespace of the instruction-set level, after lanes.h and dual.h.

// One halving step: sums neighbouring units of a (first half of the result) and of b (second half). Units are
// single lanes within each 16-byte block, later whole blocks: the shuffles that processors do in one instruction.
template <int lanes, int block, bool across, int odd, int at>
constexpr int shuffle_source() {
  if (across) {
    constexpr int half = lanes / block / 2, unit = at / block;
    return unit < half ? (2 * unit + odd) * block + at % block
                       : lanes + (2 * (unit - half) + odd) * block + at % block;
  }
  constexpr int half = block / 2, first = at / block * block, r = at % block;
  return r < half ? first + 2 * r + odd : lanes + first + 2 * (r - half) + odd;
}
template <class Scalar, bool across, int odd, int... at>
inline Lane<Scalar> shuffle_units(
    const Lane<Scalar>& a, const Lane<Scalar>& b, std::integer_sequence<int, at...>) {
  constexpr int lanes = kLanes<Scalar>, block = 16 / int(sizeof(Scalar));
  return __builtin_shufflevector(a, b, shuffle_source<lanes, block, across, odd, at>()...);
}
template <class Scalar, bool across>
inline Lane<Scalar> halve(const Lane<Scalar>& a, const Lane<Scalar>& b) {
  using All = std::make_integer_sequence<int, kLanes<Scalar>>;
  return shuffle_units<Scalar, across, 0>(a, b, All{}) + shuffle_units<Scalar, across, 1>(a, b, All{});
}

template <class Scalar, bool across>
inline Dual<Lane<Scalar>> halve(const Dual<Lane<Scalar>>& a, const Dual<Lane<Scalar>>& b) {
  return {halve<Scalar, across>(a.v, b.v), halve<Scalar, across>(a.t, b.t)};
}

// Lane e of the result is the sum over the lanes of row(e), for all lanes e. Rows are asked for as they are
// needed, so that only a few are held at once.
template <class Scalar, int count = kLanes<Scalar>, int first = 0, class Row>
inline auto transpose_sum(const Row& row) {
  if constexpr (count == 1) {
    return row(first);
  } else {
    constexpr int half = count / 2;
    constexpr bool across = half >= 16 / int(sizeof(Scalar));
    return halve<Scalar, across>(
        transpose_sum<Scalar, half, first>(row), transpose_sum<Scalar, half, first + half>(row));
  }
}
