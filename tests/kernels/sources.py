"""Texts of the kernels, and their compilers' macros."""

import re
from typing import List, Mapping, Tuple

from dkmp_plugin.ops.builder import source_folder

__all__ = ["header_text", "headers", "kernel_files", "kernel_names", "kernel_text", "macro_flags"]

KERNELS = source_folder() / "kernels"


def kernel_text(file: str) -> str:
    """Text of ``cuda_ops/kernels/<file>``, for example ``"dilated_attention.cu"``."""
    return (KERNELS / file).read_text()


def kernel_files() -> List[str]:
    """Names of all kernel files."""
    return sorted(path.name for path in KERNELS.glob("*.cu"))


def headers() -> Tuple[Tuple[str, str], ...]:
    """Name and text of every header that a kernel may include."""
    return tuple((path.name, path.read_text()) for path in sorted(KERNELS.glob("*.cuh")))


def header_text(name: str) -> str:
    """Text of a header that kernels include."""
    return (KERNELS / name).read_text()


def kernel_names(source: str) -> List[str]:
    """Names of the kernels that a text defines: the functions marked ``extern "C" __global__``."""
    found = re.findall(
        r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(', source
    )
    if not found:
        raise ValueError('the text defines no kernel (extern "C" __global__ void name(...))')
    return found


def macro_flags(macros: Mapping[str, object]) -> List[str]:
    """``{"DKMP_SCALAR": "float"}`` as compiler flags, in a fixed order."""
    return [f"-D{name}={macros[name]}" for name in sorted(macros)]
