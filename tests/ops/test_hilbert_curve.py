"""The curve that dilated_attention visits large systems along, by a small program of its own."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

PROGRAM = """
#include <cstdio>
#include <cstdlib>
#include "hilbert_curve.h"
int main(int, char** arguments) {
  const int bits = std::atoi(arguments[1]);
  for (uint32_t x = 0; x < 1u << bits; ++x)
    for (uint32_t y = 0; y < 1u << bits; ++y)
      for (uint32_t z = 0; z < 1u << bits; ++z)
        std::printf("%u %u %u %u\\n", dkmp::hilbert_place({x, y, z}, bits), x, y, z);
}
"""


@pytest.fixture(scope="module")
def program(compile_program) -> Path:
    return compile_program(PROGRAM)


@pytest.mark.parametrize("bits", [1, 2, 5])
def test_places_are_all_there_and_cells_that_follow_each_other_touch(program, bits):
    lines = subprocess.run([str(program), str(bits)], check=True, capture_output=True, text=True).stdout
    rows = np.array([line.split() for line in lines.splitlines()], dtype=int)
    rows = rows[np.argsort(rows[:, 0])]
    assert (rows[:, 0] == np.arange(8**bits)).all()
    assert (np.abs(np.diff(rows[:, 1:], axis=0)).sum(axis=1) == 1).all()
