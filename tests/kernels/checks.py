"""The checks that every kernel's text goes through, as interchangeable ways to launch it.

A *run* is called as ``run(kernel, macros, grid, block, args, shared)``: launch code written once serves the
emulator, its sanitizer builds and the PTX interpreter.
"""

import re
from typing import Callable, Dict, Mapping, Optional, Sequence

from tests.kernels.emulate import Argument, emulate, sanitizer_obstacle
from tests.kernels.nvrtc import nvrtc_obstacle
from tests.kernels.ptx_interpreter import interpret
from tests.kernels.sources import headers

__all__ = ["CHECKS", "Run", "emulator", "inlined", "interpreter", "obstacle"]

Run = Callable[..., None]


def emulator(source: str, seed: int = 0, sanitizer: Optional[str] = None) -> Run:
    """Launches on the fiber emulator, in a random order unless ``seed`` is 0."""

    def run(
        kernel: str,
        macros: Mapping[str, object],
        grid: int,
        block: int,
        args: Sequence[Argument],
        shared: int = 0,
    ) -> None:
        emulate(source, kernel, macros, grid, block, args, shared, seed, sanitizer)

    return run


def interpreter(source: str, architecture: int = 75) -> Run:
    """Launches on the interpreter of NVRTC's PTX."""

    def run(
        kernel: str,
        macros: Mapping[str, object],
        grid: int,
        block: int,
        args: Sequence[Argument],
        shared: int = 0,
    ) -> None:
        interpret(source, kernel, macros, grid, block, args, shared, architecture)

    return run


# The checks by name, as the table of planted bugs names them.
CHECKS: Dict[str, Callable[[str], Run]] = {
    "emulator": lambda source: emulator(source, seed=3),
    "address": lambda source: emulator(source, seed=3, sanitizer="address"),
    "thread": lambda source: emulator(source, seed=3, sanitizer="thread"),
    "ptx": interpreter,
}


def obstacle(check: str) -> Optional[str]:
    """Why a check cannot run here; None where it must."""
    if check == "ptx":
        return nvrtc_obstacle()
    return sanitizer_obstacle(None if check == "emulator" else check)


def inlined(source: str) -> str:
    """A kernel's text with its headers in place, each where it first occurs: they can be changed as well."""
    texts, seen = dict(headers()), set()

    def place(match: "re.Match[str]") -> str:
        name = match[1]
        if name not in texts or name in seen:
            return "" if name in seen else match[0]
        seen.add(name)
        return expand(texts[name].replace("#pragma once", ""))

    def expand(text: str) -> str:
        return re.sub(r'^#include "([^"]+)"', place, text, flags=re.MULTILINE)

    return expand(source)
