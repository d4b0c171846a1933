"""Loads the native library once per process, or says why the reference has to do."""

import os
import sys
import warnings

import torch

from dkmp_plugin.ops import fakes, fallback
from dkmp_plugin.ops.builder import BuildError, build
from dkmp_plugin.ops.status import OpsStatus


def _is_build_command() -> bool:
    """Whether Python is on its way to ``python -m dkmp_plugin.ops.build``: this package is imported first."""
    return sys.argv[:1] == ["-m"] and "dkmp_plugin.ops.build" in sys.orig_argv


def load() -> OpsStatus:
    """Builds if needed and loads the native ops; on failure warns once and reports the reference.

    ``DKMP_PLUGIN_NATIVE=0`` chooses the reference without a warning.
    """
    if _is_build_command():
        # It builds by its own options.
        return OpsStatus(False, None, None, "the build command runs")
    if os.environ.get("DKMP_PLUGIN_NATIVE", "1") == "0":
        fallback.register()
        return OpsStatus(False, None, None, "switched off by DKMP_PLUGIN_NATIVE=0")
    try:
        result = build()
        # One real path only: the same library loaded from two paths aborts the process.
        library = os.path.realpath(result.library)
        torch.ops.load_library(library)
        fakes.register()
    except (BuildError, OSError) as error:
        warnings.warn(
            "dkmp_plugin runs without its native ops, many times slower and with more memory: "
            f"{error}. After fixing this, run 'python -m dkmp_plugin.ops.build', which builds them, and "
            "builds anew a library that does not load; DKMP_PLUGIN_NATIVE=0 silences this warning.",
            RuntimeWarning,
            stacklevel=3,
        )
        fallback.register()
        return OpsStatus(False, None, None, str(error))
    return OpsStatus(True, library, result.compiler, None)
