// degree_norm: spherical features (N, 8, d) over their root mean square length, for each degree; see
// csrc/degree_norm.h for the mathematics.
//
// One warp per atom and degree. Its numbers are read again instead of kept, from the first-level cache. Bounds name the
// blocks of a multiprocessor: left alone, ptxas spills on some architectures to hold more of them.
#include "common.cuh"

constexpr int kComponents = 8;

// A degree of an atom: components [start, start + size) of the atom's eight.
struct Place {
  Offset atom;
  int degree, start, size, lane;
};

DKMP_INLINE Place place_of_warp() {
  const Offset warp = ((Offset)blockIdx.x * blockDim.x + threadIdx.x) / kWarp;
  const int degree = (int)(warp % 2);
  return {warp / 2, degree, degree ? 3 : 0, degree ? 5 : 3, (int)(threadIdx.x % kWarp)};
}

// Numbers of the atom's degree within arrays of both degrees together.
struct Features {
  const Scalar *values, *direction;
  int num_channels;

  DKMP_INLINE Features at(const Place& place) const {
    const Offset first = (place.atom * kComponents + place.start) * num_channels;
    return {values + first, direction ? direction + first : nullptr, num_channels};
  }
  DKMP_INLINE Number number(int component, int channel) const {
    return load_number(values, direction, component * num_channels + channel);
  }
};

// Of weights (2, d).
DKMP_INLINE Features weights_of(const Features& weight, const Place& place) {
  const int first = place.degree * weight.num_channels;
  return {weight.values + first, weight.direction ? weight.direction + first : nullptr, weight.num_channels};
}

// 1 / sqrt(mean square length + offset); all lanes of the warp must call.
DKMP_INLINE Number norm_factor(const Features& x, const Place& place, Scalar offset) {
  Number sum{};
  for (int channel = place.lane; channel < x.num_channels; channel += kWarp)
    for (int m = 0; m < place.size; ++m) {
      const Number value = x.number(m, channel);
      sum += value * value;
    }
  return reciprocal(square_root(Scalar(1) / Scalar(x.num_channels) * warp_sum(sum) + offset));
}

// Sum over a degree's components of the gradient of the values times the features.
DKMP_INLINE Number contract(const Features& x, const Scalar* upstream, int size, int channel) {
  Number sum{};
  for (int m = 0; m < size; ++m) sum += upstream[m * x.num_channels + channel] * x.number(m, channel);
  return sum;
}

// Values of degree k go to (N, size_k, d) at y_k, rows of atoms stride_k numbers apart.
extern "C" __global__ void __launch_bounds__(128, 4) degree_norm_values(
    const Scalar* vector, const Scalar* vector_direction, const Scalar* weight, const Scalar* weight_direction,
    Scalar offset, int num_atoms, int num_channels, Scalar* y0, Scalar* y1, long long stride0, long long stride1) {
  const Place place = place_of_warp();
  if (place.atom >= num_atoms) return;
  const Features x = Features{vector, vector_direction, num_channels}.at(place);
  const Features w = weights_of({weight, weight_direction, num_channels}, place);
  Scalar* to = place.degree ? y1 + place.atom * stride1 : y0 + place.atom * stride0;
  const Number factor = norm_factor(x, place, offset);
  for (int channel = place.lane; channel < num_channels; channel += kWarp) {
    const Number scale = factor * w.number(0, channel);
    for (int m = 0; m < place.size; ++m) to[m * num_channels + channel] = result(scale * x.number(m, channel));
  }
}

// Gradient (N, 8, d) with respect to the features, of values whose gradients are u_k, laid out as above; `added` (N, 8,
// d) or null is another one. `factors` and their tangents (N, 2), or null, keep the factors.
extern "C" __global__ void __launch_bounds__(128, 4) degree_norm_to_vector(
    const Scalar* vector, const Scalar* vector_direction, const Scalar* weight, const Scalar* weight_direction,
    Scalar offset, int num_atoms, int num_channels, const Scalar* u0, const Scalar* u1, long long stride0,
    long long stride1, const Scalar* added, Scalar* to_vector, Scalar* factors, Scalar* factor_tangents) {
  const Place place = place_of_warp();
  if (place.atom >= num_atoms) return;
  const Features x = Features{vector, vector_direction, num_channels}.at(place);
  const Features w = weights_of({weight, weight_direction, num_channels}, place);
  const Scalar* upstream = place.degree ? u1 + place.atom * stride1 : u0 + place.atom * stride0;
  const Number factor = norm_factor(x, place, offset);
  Number sum{};
  for (int channel = place.lane; channel < num_channels; channel += kWarp)
    sum += w.number(0, channel) * contract(x, upstream, place.size, channel);
  // df/dx = -f^3 x / d.
  const Number along = Scalar(-1) / Scalar(num_channels) * (factor * factor * factor * warp_sum(sum));
  const Offset first = (place.atom * kComponents + place.start) * num_channels;
  for (int channel = place.lane; channel < num_channels; channel += kWarp) {
    const Number by_upstream = factor * w.number(0, channel);
    for (int m = 0; m < place.size; ++m) {
      const int at = m * num_channels + channel;
      Scalar gradient = result(by_upstream * upstream[at] + along * x.number(m, channel));
      // Has no derivative by the features.
      if (!DKMP_DUAL && added) gradient += added[first + at];
      to_vector[first + at] = gradient;
    }
  }
  if (place.lane != 0 || !factors) return;
  factors[place.atom * 2 + place.degree] = plain(factor);
#if DKMP_DUAL
  factor_tangents[place.atom * 2 + place.degree] = factor.t;
#endif
}

// Gradient with respect to the weights, of `part` atoms after another: (parts, 2, d). One thread per part, degree and
// channel adds up in the order of the atoms.
extern "C" __global__ void __launch_bounds__(128, 4) degree_norm_to_weight(
    const Scalar* vector, const Scalar* vector_direction, int num_atoms, int num_channels, const Scalar* u0,
    const Scalar* u1, long long stride0, long long stride1, const Scalar* factors, const Scalar* factor_tangents,
    int part, Scalar* to_weight) {
  const Offset thread = (Offset)blockIdx.x * blockDim.x + threadIdx.x;
  const int channel = (int)(thread % num_channels), degree = (int)(thread / num_channels % 2);
  const Offset begin = thread / num_channels / 2 * part;
  if (begin >= num_atoms) return;
  const Offset end = smaller(begin + part, (Offset)num_atoms);
  Number sum{};
  for (Offset atom = begin; atom < end; ++atom) {
    const Place place = {atom, degree, degree ? 3 : 0, degree ? 5 : 3, 0};
    const Scalar* upstream = degree ? u1 + atom * stride1 : u0 + atom * stride0;
    const Features x = Features{vector, vector_direction, num_channels}.at(place);
    sum += load_number(factors, factor_tangents, atom * 2 + degree) * contract(x, upstream, place.size, channel);
  }
  to_weight[thread] = result(sum);
}
