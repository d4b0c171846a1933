// What the spline tables of dilated_message look like. Plain C++: kernels and launchers read this text.
#pragma once

namespace dkmp {

// B-splines that do not vanish at a point: those of degree 5. A table has one row fewer than this beyond its
// intervals. For splines of degree 3 launchers add two rows of zeros, and the last two splines weigh nothing.
constexpr int kSplineTaps = 6;

}  // namespace dkmp
