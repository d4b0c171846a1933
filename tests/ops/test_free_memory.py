"""Memory that a process may still take, in a container whose limit the kernel tells (cgroup v2)."""

import subprocess
from pathlib import Path

import pytest

PROGRAM = """
#include <cstdio>
#include "free_memory.h"
int main(int, char** arguments) { std::printf("%.0f", dkmp::free_memory(arguments[1])); }
"""


@pytest.fixture(scope="module")
def program(compile_program) -> Path:
    return compile_program(PROGRAM)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"memory.max": "max", "memory.current": "1000"}, None),
        ({"memory.max": "1000000", "memory.current": "400000"}, 600_000),
        # Files that were read count as used until something else wants their place.
        (
            {
                "memory.max": "1000000",
                "memory.current": "999000",
                "memory.stat": "anon 199000\ninactive_file 500000\nactive_file 200000\n"
                "slab_reclaimable 100000",
            },
            801_000,
        ),
        ({"memory.max": "1000", "memory.current": "3000"}, 0),
    ],
)
def test_the_limit_of_the_container(program, tmp_path, files, expected) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
    free = float(subprocess.run([program, tmp_path], check=True, capture_output=True, text=True).stdout)
    if expected is None:
        assert free > 1e6
    else:
        assert free == expected
