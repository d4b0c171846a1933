"""NVRTC, the compiler that compiles the kernels on a GPU machine, called here without a GPU.

:func:`compile_ptx` gives what the PTX interpreter runs; :func:`resource_usage` compiles to machine code and
reads what ptxas says about every kernel: registers, spilled bytes, stack, static shared memory.
``DKMP_NVRTC_LIBRARY`` names another NVRTC than the environment's, for example that of CUDA 13.
"""

import ctypes
import functools
import hashlib
import importlib.util
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from tests.kernels.emulate import CompilationError, cache
from tests.kernels.sources import headers, macro_flags

__all__ = ["ARCHITECTURES", "Usage", "compile_ptx", "nvrtc_obstacle", "resource_usage"]

# Turing, A100, RTX 30, RTX 40, H100, B200, RTX 50.
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)


@dataclass(frozen=True)
class Usage:
    """What ptxas reports for one kernel, in bytes except for the registers per thread."""

    registers: int
    spill_stores: int
    spill_loads: int
    stack: int
    shared: int


@functools.cache
def _library_path() -> Optional[Path]:
    """libnvrtc of the wheels that a CUDA build of torch installs, or ``$DKMP_NVRTC_LIBRARY``."""
    library = os.environ.get("DKMP_NVRTC_LIBRARY")
    if library:
        return Path(library)
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or [] if spec else []:
        found = [path for path in Path(folder).glob("*/lib/libnvrtc.so.*") if "builtins" not in path.name]
        if found:
            return sorted(found)[-1]
    return None


def nvrtc_obstacle() -> Optional[str]:
    """Why NVRTC cannot run here; None where it must."""
    if _library_path() is None:
        return "no libnvrtc: the CPU-only torch brings none (the wheel nvidia-cuda-nvrtc does)"
    return None


@functools.cache
def _nvrtc() -> ctypes.CDLL:
    path = _library_path()
    if path is None:
        raise OSError(nvrtc_obstacle())
    return ctypes.CDLL(str(path))


@functools.cache
def _version() -> Tuple[int, int]:
    major, minor = ctypes.c_int(), ctypes.c_int()
    _nvrtc().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return major.value, minor.value


def _text(program: ctypes.c_void_p, what: str) -> str:
    size = ctypes.c_size_t()
    getattr(_nvrtc(), f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(max(1, size.value))
    getattr(_nvrtc(), f"nvrtcGet{what}")(program, buffer)
    return buffer.value.decode()


def _compile(source: str, options: Sequence[str]) -> Tuple[str, str]:
    """PTX (empty where machine code was asked for) and log."""
    library, program = _nvrtc(), ctypes.c_void_p()
    names = [name.encode() for name, _ in headers()]
    texts = [text.encode() for _, text in headers()]
    count = len(names)
    failed = library.nvrtcCreateProgram(
        ctypes.byref(program),
        source.encode(),
        b"kernel.cu",
        count,
        (ctypes.c_char_p * count)(*texts),
        (ctypes.c_char_p * count)(*names),
    )
    if failed:
        raise CompilationError(f"nvrtcCreateProgram returned {failed}")
    try:
        flags = [option.encode() for option in options]
        failed = library.nvrtcCompileProgram(program, len(flags), (ctypes.c_char_p * len(flags))(*flags))
        log = _text(program, "ProgramLog")
        if failed:
            raise CompilationError(f"{' '.join(options)}\n{log}")
        return _text(program, "PTX"), log
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _cached(source: str, options: List[str]) -> Tuple[str, str]:
    key = hashlib.sha256(repr((source, headers(), options, _version())).encode()).hexdigest()[:24]
    target = cache() / f"nvrtc-{key}.json"
    if not target.exists():
        made = target.with_suffix(f".{os.getpid()}")
        made.write_text(json.dumps(_compile(source, options)))
        os.replace(made, target)
    ptx, log = json.loads(target.read_text())
    return ptx, log


def _options(macros: Mapping[str, object]) -> List[str]:
    return ["--std=c++17", *macro_flags(macros)]


def compile_ptx(source: str, macros: Mapping[str, object], architecture: int) -> str:
    """PTX of a kernel text for a compute capability such as 75.

    Raises:
        CompilationError: NVRTC refuses the text; the message holds its log.
    """
    return _cached(source, [*_options(macros), f"--gpu-architecture=compute_{architecture}"])[0]


def _parse_usage(log: str) -> Dict[str, Usage]:
    usage: Dict[str, Usage] = {}
    for part in re.split(r"Compiling entry function '", log)[1:]:
        name = part[: part.index("'")]

        def number(pattern: str, part: str = part) -> int:
            found = re.search(pattern, part)
            return int(found[1]) if found else 0

        usage[name] = Usage(
            registers=number(r"Used (\d+) registers"),
            spill_stores=number(r"(\d+) bytes spill stores"),
            spill_loads=number(r"(\d+) bytes spill loads"),
            stack=number(r"(\d+) bytes stack frame"),
            shared=number(r"(\d+) bytes smem"),
        )
    return usage


def resource_usage(source: str, macros: Mapping[str, object], architecture: int) -> Dict[str, Usage]:
    """What every kernel of a text uses on a real architecture (sm_75, ...), by its name.

    Raises:
        CompilationError: NVRTC refuses the text.
    """
    options = [*_options(macros), f"--gpu-architecture=sm_{architecture}", "--ptxas-options=-v"]
    usage = _parse_usage(_cached(source, options)[1])
    if not usage or any(kernel.registers == 0 for kernel in usage.values()):
        raise CompilationError("ptxas reported no registers; its log has changed")
    return usage


if __name__ == "__main__":
    from tests.kernels.test_emulator import REVERSE

    for architecture in ARCHITECTURES:
        print(architecture, {k: asdict(v) for k, v in resource_usage(REVERSE, {}, architecture).items()})
