"""Runs a CUDA kernel's text on the CPU: the fiber emulator and its sanitizer builds.

``emulate(kernel_text("dilated_attention.cu"), "name", macros, grid, block, args, shared, seed)`` compiles
the text with g++ and the keywords of ``emulator/cuda_keywords.h`` (cached by content) and runs it in this
process. Arguments are CPU tensors (changed in place), ``None`` for a null pointer, ints and floats.

With ``sanitizer="address"`` (AddressSanitizer and UBSan) or ``"thread"`` (ThreadSanitizer) the same launch
runs in a process of its own, with every array an allocation of exactly its size.

What it finds: results that depend on the order of threads or blocks (``seed``), reads of shared memory that
nobody wrote (poison: all bits set), barriers and shuffles that not all threads reach, and with the
sanitizers accesses out of bounds, misaligned vector loads, integer overflow and data races.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import List, Mapping, Optional, Sequence, Tuple, Union

import torch

from dkmp_plugin.ops.builder import cache_folder, find_compiler
from tests.kernels.sources import KERNELS, headers, kernel_names, macro_flags

__all__ = [
    "Argument",
    "CompilationError",
    "KernelError",
    "cache",
    "emulate",
    "emulator_library",
    "sanitizer_obstacle",
]

Argument = Union[torch.Tensor, None, int, float]

EMULATOR = Path(__file__).with_name("emulator")
_WARNINGS = ("-Wall", "-Wno-unknown-pragmas", "-Wno-unused-function", "-Wno-unused-variable")
# -g1: the lines of reports; all of -g takes a sanitizer build half as long again.
_COMPILE = ("-std=c++17", "-g1", "-O1", "-fPIC", "-fno-omit-frame-pointer", "-ffp-contract=off")
# -fno-tree-loop-distribute-patterns: no calls of the memset that sanitizers intercept.
_SCHEDULER = ("-std=c++17", "-O2", "-fPIC", "-fno-tree-loop-distribute-patterns")
_SANITIZERS: Mapping[Optional[str], Tuple[Tuple[str, ...], Tuple[str, ...], Mapping[str, str]]] = {
    None: ((), (), {}),
    "address": (
        ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
        ("-DEMULATOR_ADDRESS",),
        {
            "ASAN_OPTIONS": "detect_leaks=0",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        },
    ),
    "thread": (
        ("-fsanitize=thread",),
        ("-DEMULATOR_THREAD",),
        {"TSAN_OPTIONS": "halt_on_error=1:exitcode=66"},
    ),
}


class KernelError(AssertionError):
    """A check found something wrong with a kernel; the message is the check's report."""


class CompilationError(RuntimeError):
    """A compiler refused a kernel's text; not what a check of its behaviour finds."""


def cache() -> Path:
    """Folder for compiled tests; named by content, so that it can be kept."""
    folder = cache_folder() / "kernel_tests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _run(command: Sequence[str]) -> None:
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode != 0:
        raise CompilationError(f"{' '.join(command)}\n{answer.stderr[-4000:]}")


@functools.cache
def _emulator_key() -> str:
    digest = hashlib.sha256(find_compiler()[1].encode())
    for path in sorted(EMULATOR.iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _put(made: Path, target: Path) -> Path:
    os.replace(made, target)
    return target


@functools.cache
def _object(name: str, sanitizer: Optional[str]) -> Path:
    """One of the emulator's own sources, compiled for a sanitizer but never instrumented."""
    target = cache() / f"{name}-{sanitizer}-{_emulator_key()[:16]}.o"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=cache()) as work:
            made = Path(work) / "object.o"
            flags = (*_SCHEDULER, *_SANITIZERS[sanitizer][1])
            _run([*find_compiler()[0], *flags, "-c", str(EMULATOR / f"{name}.cpp"), "-o", str(made)])
            _put(made, target)
    return target


def _built(source: str, macros: Mapping[str, object], sanitizer: Optional[str]) -> Path:
    """Shared library (no sanitizer) or executable (with one) of a kernel's text."""
    digest = hashlib.sha256(repr((source, headers(), macro_flags(macros), _emulator_key())).encode())
    suffix = "so" if sanitizer is None else sanitizer
    target = cache() / f"kernel-{digest.hexdigest()[:24]}.{suffix}"
    if target.exists():
        return target
    flags, _, _ = _SANITIZERS[sanitizer]
    table = ", ".join(f"EMULATED_KERNEL({name})" for name in dict.fromkeys(kernel_names(source)))
    with tempfile.TemporaryDirectory(dir=cache()) as work:
        unit, made = Path(work) / "kernel.cpp", Path(work) / "made"
        unit.write_text(
            f'#include "cuda_keywords.h"\n#line 1 "kernel.cu"\n{source}\n#include "launch.h"\n'
            f"EMULATED_KERNELS({table})\n"
        )
        include = (f"-I{EMULATOR}", f"-I{KERNELS}", *macro_flags(macros))
        compiled = str(Path(work) / "kernel.o")
        compiler = find_compiler()[0]
        _run([*compiler, *_COMPILE, *_WARNINGS, *flags, *include, "-c", str(unit), "-o", compiled])
        parts = [compiled, str(_object("scheduler", sanitizer))]
        if sanitizer is None:
            _run([*compiler, "-shared", *parts, "-o", str(made)])
        else:
            _run([*compiler, *flags, *parts, str(_object("main", sanitizer)), "-o", str(made)])
        return _put(made, target)


@functools.cache
def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    library.emulator_signature.restype = ctypes.c_char_p
    library.emulator_signature.argtypes = [ctypes.c_char_p]
    library.emulator_launch.argtypes = [
        ctypes.c_char_p,
        ctypes.POINTER(ctypes.c_void_p),
        ctypes.c_uint,
        ctypes.c_uint,
        ctypes.c_size_t,
        ctypes.c_uint64,
        ctypes.c_char_p,
        ctypes.c_size_t,
    ]
    return library


def emulator_library(source: str, macros: Mapping[str, object]) -> Path:
    """The emulator's build of a text: ``emulator_launch`` takes the arguments of ``cuLaunchKernel``."""
    return _built(source, macros, None)


_C_TYPES = {
    "p": ctypes.c_void_p,
    "f": ctypes.c_float,
    "d": ctypes.c_double,
    "1": ctypes.c_int8,
    "2": ctypes.c_int16,
    "4": ctypes.c_int32,
    "8": ctypes.c_int64,
}


def _c_value(letter: str, argument: Argument, place: int):
    is_array = argument is None or isinstance(argument, torch.Tensor)
    if is_array != (letter == "p"):
        raise ValueError(f"argument {place} is {argument!r}, the kernel's parameter is of kind {letter!r}")
    if isinstance(argument, torch.Tensor):
        if argument.device.type != "cpu" or not argument.is_contiguous():
            raise ValueError(f"argument {place} must be a contiguous CPU tensor")
        return ctypes.c_void_p(argument.data_ptr() or None)
    return _C_TYPES[letter](argument)


def _c_values(library: ctypes.CDLL, kernel: str, args: Sequence[Argument]) -> List:
    signature = library.emulator_signature(kernel.encode())
    if signature is None:
        raise ValueError(f"the text has no kernel {kernel}")
    letters = signature.decode()
    if len(letters) != len(args):
        raise ValueError(f"{kernel} takes {len(letters)} arguments, {len(args)} were given")
    return [_c_value(*pair, place) for place, pair in enumerate(zip(letters, args, strict=True))]


def emulate(
    source: str,
    kernel: str,
    macros: Mapping[str, object],
    grid: int,
    block: int,
    args: Sequence[Argument],
    shared: int = 0,
    seed: int = 0,
    sanitizer: Optional[str] = None,
) -> None:
    """Launches a kernel on the CPU; tensors among ``args`` are changed in place.

    Args:
        source: the kernel's text; ``#include "common.cuh"`` is found.
        kernel: name of the kernel in it.
        macros: names and values of the macros that choose the instance.
        grid: number of blocks.
        block: number of threads per block.
        args: tensors (contiguous, CPU), None, ints and floats, in the order of the kernel's parameters.
        shared: bytes of dynamic shared memory.
        seed: 0 runs threads and blocks in their own order, others in a random one.
        sanitizer: None, "address" (with UBSan) or "thread".

    Raises:
        KernelError: a check found a fault.
        CompilationError: the kernel does not compile.
        ValueError: the arguments do not fit the kernel's parameters.
    """
    library = _load(_built(source, macros, None))
    values = _c_values(library, kernel, args)
    if sanitizer is not None:
        _emulate_apart(source, kernel, macros, grid, block, args, values, shared, seed, sanitizer)
        return
    pointers = (ctypes.c_void_p * len(values))(*[ctypes.addressof(value) for value in values])
    message = ctypes.create_string_buffer(1024)
    if library.emulator_launch(kernel.encode(), pointers, grid, block, shared, seed, message, len(message)):
        raise KernelError(f"{kernel}: {message.value.decode()}")


def _emulate_apart(source, kernel, macros, grid, block, args, values, shared, seed, sanitizer) -> None:
    program = _built(source, macros, sanitizer)
    parts = [struct.pack("128s5Q", kernel.encode(), grid, block, shared, seed, len(values))]
    places = []
    for argument, value in zip(args, values, strict=True):
        given = isinstance(argument, torch.Tensor)
        content = argument.numpy().tobytes() if given else bytes(value)
        parts.append(struct.pack("2Q", int(given), len(content)))
        places.append((argument, sum(map(len, parts)), len(content)))
        parts.append(content)
    with tempfile.TemporaryDirectory(dir=cache()) as work:
        call = Path(work) / "call.bin"
        call.write_bytes(b"".join(parts))
        answer = _start(program, call, sanitizer)
        if answer.returncode != 0:
            raise KernelError(f"{kernel}, {sanitizer} sanitizer:\n{answer.stderr[-6000:]}")
        content = call.read_bytes()
    for argument, at, size in places:
        if isinstance(argument, torch.Tensor) and size:
            raw = torch.frombuffer(bytearray(content[at : at + size]), dtype=argument.dtype)
            argument.copy_(raw.view(argument.shape))


def _start(program: Path, call: Path, sanitizer: str) -> "subprocess.CompletedProcess[str]":
    # ThreadSanitizer needs its shadow at fixed addresses: no address-space randomisation.
    fixed = ["setarch", platform.machine(), "-R"] if sanitizer == "thread" else []
    environment = {**os.environ, **_SANITIZERS[sanitizer][2]}
    return subprocess.run(
        [*fixed, str(program), str(call)], capture_output=True, text=True, env=environment, timeout=120
    )


@functools.cache
def sanitizer_obstacle(sanitizer: Optional[str]) -> Optional[str]:
    """Why the emulator (None) or a sanitizer build of it cannot run here; None where it must."""
    if platform.machine() != "x86_64":
        return f"the emulator switches stacks on x86-64 only, this is {platform.machine()}"
    if sanitizer != "thread":
        return None
    # Containers may forbid the fixed addresses that ThreadSanitizer needs.
    if shutil.which("setarch") is None:
        return "setarch (util-linux) is not installed, ThreadSanitizer needs it"
    trial = 'extern "C" __global__ void trial(int* x) { x[threadIdx.x] = 1; }'
    try:
        emulate(trial, "trial", {}, 1, 32, [torch.zeros(32, dtype=torch.int32)], sanitizer=sanitizer)
    except (KernelError, CompilationError, OSError) as error:
        return f"a trivial kernel does not run under ThreadSanitizer: {str(error)[-300:]}"
    return None
