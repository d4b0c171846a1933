"""A stand-in for ``libcuda.so.1`` that runs kernels on the emulator; see ``environment``."""
