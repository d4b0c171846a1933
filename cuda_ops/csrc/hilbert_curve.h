// Places of cells along a Hilbert curve: unlike along a Z-order curve, cells that follow each other always touch.
#pragma once

#include <array>
#include <cstdint>

namespace dkmp {

// Of a cell with `bits` bits per axis, at most ten (Skilling, AIP Conf. Proc. 707, 381 (2004), doi:10.1063/1.1751381).
inline uint32_t hilbert_place(std::array<uint32_t, 3> cell, int bits) {
  // From the coarsest octants down: what the curve turns or mirrors within an octant is turned back.
  for (int bit = bits - 1; bit > 0; --bit) {
    const uint32_t finer = (1u << bit) - 1;
    for (uint32_t& coordinate : cell) {
      if (coordinate >> bit & 1u) {
        cell[0] ^= finer;
      } else {
        const uint32_t different = (cell[0] ^ coordinate) & finer;
        cell[0] ^= different;
        coordinate ^= different;
      }
    }
  }
  // Octants are numbered by a Gray code.
  cell[1] ^= cell[0];
  cell[2] ^= cell[1];
  uint32_t flipped = 0;
  for (int bit = bits - 1; bit > 0; --bit)
    if (cell[2] >> bit & 1u) flipped ^= (1u << bit) - 1;
  uint32_t place = 0;
  for (int bit = bits - 1; bit >= 0; --bit)
    for (const uint32_t coordinate : cell) place = place << 1 | ((coordinate ^ flipped) >> bit & 1u);
  return place;
}

}  // namespace dkmp
