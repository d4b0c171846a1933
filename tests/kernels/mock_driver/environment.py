"""Environment of a process in which CPU tensors take the CUDA path: real launcher, real NVRTC, mock driver.

The native library is built a second time, with the CUDA implementations registered for CPU tensors under
the ops' own names (the CPU kernels go to an unused dispatch key), and with the mock's name in the place of
``libcuda.so.1`` (torch itself would open that one too), found through ``LD_LIBRARY_PATH``. Nothing else
differs: the Python face, autograd and the launcher are those of a GPU machine.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Dict, Optional

import torch

from dkmp_plugin import ops
from dkmp_plugin.ops import builder
from tests.kernels.emulate import EMULATOR, cache, sanitizer_obstacle
from tests.kernels.sources import KERNELS

ROOT = Path(__file__).resolve().parents[3]
LIBRARY = "libdkmp_mock_cuda.so"
FLAGS = (
    "-O1 -DDKMP_CPU_KEY=PrivateUse1 -DDKMP_CUDA_KEY=CPU -DDKMP_TEST_DEVICE "
    f'-DDKMP_CUDA_DRIVER_LIBRARY=\\"{LIBRARY}\\" -DDKMP_TORCH_CUDA_LIBRARY=\\"{LIBRARY}\\"'
)


def obstacle() -> Optional[str]:
    """Why the mock driver cannot work here; None when it can."""
    if not ops.status().native:
        return f"the native library is not loaded: {ops.status().why_not}"
    try:
        torch.ops.dkmp_plugin.compile_kernels("edge_vectors.cu", ["-DDKMP_SCALAR=float"], 80)
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return sanitizer_obstacle(None)


def mock_library() -> Path:
    """Folder that holds the mock's library, built when needed."""
    source = Path(__file__).with_name("mock_cuda.cpp")
    folder = cache() / f"mock-{hashlib.sha256(source.read_bytes()).hexdigest()[:16]}"
    target = folder / LIBRARY
    if not target.exists():
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            made = Path(work) / LIBRARY
            flags = ["-std=c++17", "-O1", "-Wall", "-fPIC", "-shared", f"-Wl,-soname,{LIBRARY}"]
            builder._run([*builder.find_compiler()[0], *flags, str(source), "-ldl", "-o", str(made)])
            os.replace(made, target)
    return folder


def _index() -> Path:
    """Folder where the mock notes which emulator build belongs to a module, for these texts."""
    digest = hashlib.sha256()
    for path in sorted([*KERNELS.iterdir(), *EMULATOR.iterdir()]):
        digest.update(path.read_bytes())
    folder = cache() / f"index-{digest.hexdigest()[:16]}"
    folder.mkdir(exist_ok=True)
    return folder


def environment(**more: str) -> Dict[str, str]:
    """Variables for a Python process on the mock driver."""
    path = os.environ.get("LD_LIBRARY_PATH")
    return {
        **{name: value for name, value in os.environ.items() if name != "DKMP_PLUGIN_NATIVE"},
        "DKMP_PLUGIN_CXXFLAGS": FLAGS,
        "LD_LIBRARY_PATH": f"{mock_library()}:{path}" if path else str(mock_library()),
        "MOCK_INDEX": str(_index()),
        "MOCK_PYTHON": sys.executable,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
        **more,
    }


if __name__ == "__main__":  # python -m tests.kernels.mock_driver.environment SCRIPT ARGUMENTS
    sys.exit(subprocess.run([sys.executable, *sys.argv[1:]], env=environment()).returncode)
