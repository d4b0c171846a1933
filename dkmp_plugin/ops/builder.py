"""Builds the native ops with g++ alone, once, into a cache.

Every ``cuda_ops/csrc/**/*.cpp`` becomes part of one shared library that links only torch's own libraries.
Files named ``*.isa.cpp`` hold the inner loops: they are compiled once per instruction-set level (the
namespace is the macro ``DKMP_ISA``) and chosen at run time, so one cached library serves every machine of a
cluster. The CUDA kernels, ``cuda_ops/kernels``, are part of the library as text: NVRTC compiles them for the
GPU at hand, so no CUDA compiler is needed here.

The cache is ``$DKMP_PLUGIN_CACHE``, else ``$XDG_CACHE_HOME/dkmp_plugin``, else ``~/.cache/dkmp_plugin``. Its
folders are named after sources, torch, libc, compiler and flags, so a change of any of them builds anew.
Compiled files are kept beside them, so that a change compiles only what it touches.
``$DKMP_PLUGIN_CXXFLAGS`` is added to the compiler's flags (except for the inner loops, which have their own).
"""

import fcntl
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

import torch

_LIBRARY_NAME = "libdkmp_plugin_ops.so"
_COMPILER_NOTE = "compiler.txt"
_COMMON_FLAGS = (
    "-std=c++17",
    "-O3",
    "-g0",
    "-fPIC",
    "-fopenmp",
    "-DNDEBUG",
    "-fvisibility=hidden",
    "-ffp-contract=off",
)
# Headers of torch 2.15 need C++20; 2.13 and older are happy with C++17.
_CXX20_TORCH = (2, 14)
# No -ffast-math: NaN and infinity keep their meaning; these two only allow what never changes a result here.
_KERNEL_FLAGS = ("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
_X86_LEVELS: Dict[str, Tuple[str, ...]] = {
    "isa_v2": ("-msse4.2", "-mpopcnt", "-DDKMP_LANE_BYTES=16"),
    "isa_v3": ("-mavx2", "-mfma", "-mbmi", "-mbmi2", "-mpopcnt", "-DDKMP_LANE_BYTES=32"),
    "isa_v4": (
        "-mavx512f",
        "-mavx512vl",
        "-mavx512dq",
        "-mavx512bw",
        "-mfma",
        "-mbmi",
        "-mbmi2",
        "-mpopcnt",
        "-mprefer-vector-width=512",
        "-DDKMP_LANE_BYTES=64",
    ),
}
_OTHER_LEVELS: Dict[str, Tuple[str, ...]] = {"isa_v2": ("-DDKMP_LANE_BYTES=16",)}


class BuildError(RuntimeError):
    """The native library could not be built; the message says why and what to do."""


@dataclass(frozen=True)
class Build:
    """A finished library: its path and the compiler that made it."""

    library: Path
    compiler: str


def source_folder() -> Path:
    """Folder of the C++ sources: next to the package in a checkout, inside it in a wheel.

    Raises:
        BuildError: neither exists.
    """
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "cuda_ops", package.parent / "cuda_ops"):
        if (candidate / "csrc").is_dir():
            return candidate
    raise BuildError("the C++ sources (cuda_ops/csrc) are missing; reinstall dkmp-plugin")


def cache_folder() -> Path:
    """Folder that holds the built libraries; see the module's documentation."""
    # An empty variable is one that is not set, as everywhere in a shell.
    folder = os.environ.get("DKMP_PLUGIN_CACHE")
    if folder:
        return Path(folder)
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / "dkmp_plugin"
    try:
        return Path.home() / ".cache" / "dkmp_plugin"
    except RuntimeError as error:  # no HOME, and a user whom the system does not know
        raise BuildError(f"no folder for the build cache: {error} Set DKMP_PLUGIN_CACHE to one") from error


def _words(variable: str) -> List[str]:
    """The words of an environment variable, quoted as in a shell; none where it is not set.

    Raises:
        BuildError: a quote is not closed.
    """
    text = os.environ.get(variable, "")
    try:
        return shlex.split(text)
    except ValueError as error:
        raise BuildError(
            f"{variable}: {text!r} was given, words quoted as in a shell are expected ({error}); correct it"
        ) from error


def find_compiler() -> Tuple[List[str], str]:
    """Command and version line of the C++ compiler: ``$CXX`` (``ccache g++`` too), else g++, c++ or clang++.

    Raises:
        BuildError: none was found that runs.
    """
    given = _words("CXX")
    wanted = [given] if given else [["g++"], ["c++"], ["clang++"]]
    for words in wanted:
        path = shutil.which(words[0])
        if path is not None:
            command = [path, *words[1:]]
            try:
                answer = subprocess.run([*command, "--version"], capture_output=True, text=True)
            except OSError:  # a program for another machine, or none at all
                continue
            if answer.returncode == 0:
                return command, (answer.stdout.splitlines() or [shlex.join(command)])[0]
    raise BuildError(
        f"no C++ compiler found (looked for {', '.join(map(shlex.join, wanted))}) that runs; install one, "
        "for example with 'apt-get install g++' or 'conda install gxx', or set CXX"
    )


def _levels() -> Dict[str, Tuple[str, ...]]:
    return _X86_LEVELS if platform.machine() in ("x86_64", "AMD64") else _OTHER_LEVELS


def _torch_flags() -> List[str]:
    root = Path(torch.__file__).resolve().parent
    abi = int(torch.compiled_with_cxx11_abi())
    flags = [f"-D_GLIBCXX_USE_CXX11_ABI={abi}"]
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) >= _CXX20_TORCH:
        flags.append("-std=c++20")  # the last -std counts
    if _levels() is _X86_LEVELS:
        flags.append("-DDKMP_X86_LEVELS")
    # -isystem: warnings in torch's headers are not ours.
    for folder in ("include", "include/torch/csrc/api/include"):
        flags += ["-isystem", str(root / folder)]
    if torch.version.cuda is not None:
        flags.append(f"-DDKMP_CUDA_MAJOR={torch.version.cuda.split('.')[0]}")
    return flags


def _extra_flags() -> List[str]:
    return _words("DKMP_PLUGIN_CXXFLAGS")


def _sources_key(sources: Path) -> str:
    """Hash of everything but the compiler that decides what the library contains."""
    digest = hashlib.sha256()
    for path in sorted(sources.rglob("*")):
        if path.suffix in (".cpp", ".h", ".cu", ".cuh"):
            digest.update(str(path.relative_to(sources)).encode() + b"\0" + path.read_bytes() + b"\0")
    settings = (
        torch.__version__,
        platform.machine(),
        # A home folder may be shared by machines of which one has an older libc.
        platform.libc_ver(),
        _COMMON_FLAGS,
        _KERNEL_FLAGS,
        sorted(_levels().items()),
        torch.version.cuda,
        _extra_flags(),
    )
    digest.update(repr(settings).encode())
    return digest.hexdigest()[:20]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)


def _run(command: List[str]) -> None:
    try:
        answer = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise BuildError(f"the compiler could not be started: {error}; set CXX to one that can") from error
    if answer.returncode != 0:
        lines = [line for line in answer.stderr.splitlines() if "error" in line] or answer.stderr.splitlines()
        shown = "\n".join(lines[:12])
        raise BuildError(f"the compiler failed:\n{' '.join(command)}\n{shown}")


def _embed_kernels(sources: Path, target: Path) -> None:
    """Writes a C++ file that holds the texts of the CUDA kernels; see ``csrc/cuda/compiler.h``."""
    lines = [
        '#include "cuda/compiler.h"',
        "namespace dkmp::cuda {",
        "const KernelSource kKernelSources[] = {",
    ]
    paths = sorted(path for path in (sources / "kernels").iterdir() if path.suffix in (".cu", ".cuh"))
    for path in paths:
        # Compilers limit the length of one literal; neighbouring ones are joined.
        text = path.read_text(encoding="utf-8")
        parts = [text[start : start + 8000] for start in range(0, len(text), 8000)]
        literals = "\n".join(f'R"DKMP({part})DKMP"' for part in parts or [""])
        lines.append(f'{{"{path.name}", {literals}}},')
    lines += [
        "{nullptr, nullptr}};",
        f"const int kNumKernelSources = {len(paths)};",
        "}  // namespace dkmp::cuda",
    ]
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _compile_all(
    compiler: List[str], version: str, sources: Path, work: Path, jobs: int, force: bool
) -> List[str]:
    base = [*compiler, *_COMMON_FLAGS, *_torch_flags(), f"-I{sources / 'csrc'}"]
    commands: List[List[str]] = []
    # Kernels first: they take longest, so that the last job to end is a short one.
    files = sorted((sources / "csrc").rglob("*.cpp"), key=lambda path: (".isa." not in path.name, path.name))
    if (sources / "kernels").is_dir():
        files.append(work / "kernel_sources.cpp")
        _embed_kernels(sources, files[-1])
    for path in files:
        variants: List[Tuple[str, ...]] = [tuple(_extra_flags())]
        if path.name.endswith(".isa.cpp"):
            variants = [(*_KERNEL_FLAGS, f"-DDKMP_ISA={name}", *flags) for name, flags in _levels().items()]
        commands += [[*base, *flags, "-c", str(path)] for flags in variants]
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(lambda command: _compile(command, version, sources, force), commands))


def _compile(command: List[str], version: str, sources: Path, force: bool) -> str:
    """Object file of a command that ends with its source, from the cache where nothing has changed.

    With ``force`` it is compiled whatever the cache holds.
    """
    source = Path(command[-1])
    # Where the sources lie does not matter: another checkout shares the cache.
    flags = [word.replace(str(sources), "") for word in command[1:-1]]
    machine = (torch.__version__, platform.libc_ver(), version, flags)
    digest = hashlib.sha256(repr(machine).encode() + source.read_bytes())
    shared = (*(sources / "kernels").glob("*_plan.cuh"), *(sources / "kernels").glob("*_arithmetic.cuh"))
    for header in sorted({*(sources / "csrc").glob("*.h"), *source.parent.glob("*.h"), *shared}):
        digest.update(header.name.encode() + b"\0" + header.read_bytes())
    target = cache_folder() / "objects" / f"{source.stem}-{digest.hexdigest()[:20]}.o"
    if force or not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as work:
            finished = Path(work) / "object.o"
            _run([*command, "-o", str(finished)])
            _keep(finished, target)
    return str(target)


def _keep(finished: Path, target: Path) -> None:
    """Moves a file into the cache, whole even if the machine loses its power afterwards."""
    with finished.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(finished, target)


def _link(compiler: List[str], objects: List[str], target: Path) -> None:
    folder = str(Path(torch.__file__).resolve().parent / "lib")
    _run(
        [
            *compiler,
            "-shared",
            "-fopenmp",
            *objects,
            f"-L{folder}",
            "-ltorch_cpu",
            "-lc10",
            "-ldl",
            "-o",
            str(target),
        ]
    )


def _prebuilt(folder: Path) -> Optional[Build]:
    for library in sorted(folder.glob(f"*/{_LIBRARY_NAME}")):
        note = library.with_name(_COMPILER_NOTE)
        return Build(library, note.read_text().strip() if note.exists() else "unknown")
    return None


def build(jobs: Optional[int] = None, force: bool = False) -> Build:
    """Builds the native library, or finds it in the cache.

    Two processes may call this at the same time: one builds, the other waits and uses the result. Where it
    cannot be built, a library that another compiler built from the same sources for the same torch is used.

    Args:
        jobs: compilers to run at once; default is the number of cores, at most 4.
        force: build even if the cache holds the library.

    Returns:
        The finished library.

    Raises:
        BuildError: no sources, no compiler, or a compiler error; nothing is left half-written.
    """
    sources = source_folder()
    folder = cache_folder() / _sources_key(sources)
    try:
        return _built(sources, folder, jobs, force)
    except BuildError:
        found = None if force else _prebuilt(folder)
        if found is None:
            raise
        return found


def _built(sources: Path, folder: Path, jobs: Optional[int], force: bool) -> Build:
    """The library of the compiler at hand."""
    compiler, version = find_compiler()
    target = folder / hashlib.sha256(version.encode()).hexdigest()[:12] / _LIBRARY_NAME
    if target.exists() and not force:
        return Build(target, version)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder / "lock"):
            if not target.exists() or force:
                _build_into(compiler, version, sources, target, jobs, force)
    except OSError as error:
        raise BuildError(
            f"cannot write the build cache {folder}: {error}; set DKMP_PLUGIN_CACHE to a folder you can write"
        ) from error
    return Build(target, version)


def _build_into(
    compiler: List[str], version: str, sources: Path, target: Path, jobs: Optional[int], force: bool
) -> None:
    count = jobs if jobs is not None else min(4, os.cpu_count() or 1)
    # Silent minutes at the first import would look like a hang.
    print(
        "dkmp_plugin: building its native ops, once; this takes one to three minutes",
        file=sys.stderr,
        flush=True,
    )
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="building-") as work:
        objects = _compile_all(compiler, version, sources, Path(work), count, force)
        finished = Path(work) / _LIBRARY_NAME
        try:
            _link(compiler, objects, finished)
        except BuildError:
            if force:
                raise
            # One of the objects in the cache may be damaged.
            objects = _compile_all(compiler, version, sources, Path(work), count, True)
            _link(compiler, objects, finished)
        target.with_name(_COMPILER_NOTE).write_text(version + "\n")
        _keep(finished, target)
