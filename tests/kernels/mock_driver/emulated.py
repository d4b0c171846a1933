"""Command of the mock driver: prints the path of the emulator's build of ``FILE -DNAME=value ...``."""

import sys

from tests.kernels.emulate import emulator_library
from tests.kernels.sources import kernel_text

if __name__ == "__main__":
    macros = dict(word[2:].split("=", 1) for word in sys.argv[2:] if word.startswith("-D"))
    print(emulator_library(kernel_text(sys.argv[1]), macros))
