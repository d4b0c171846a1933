"""Command ``python -m dkmp_plugin.ops.build``: builds the native ops ahead of time, and loads them.

Without it they are built when ``dkmp_plugin.ops`` is first imported.
"""

import argparse
import os
import sys
import time
from typing import List, Optional

import torch

from dkmp_plugin.ops.builder import Build, BuildError, build


def _built_and_loaded(jobs: Optional[int], force: bool) -> Build:
    """The library; built anew where the one in the cache does not load.

    Raises:
        BuildError: it cannot be built, or does not load even then.
    """
    result = build(jobs=jobs, force=force)
    try:
        torch.ops.load_library(os.path.realpath(result.library))
    except OSError as error:
        if force:
            raise BuildError(f"the library was built, but does not load: {error}") from error
        print(f"dkmp_plugin: {result.library} does not load ({error}): building anew", file=sys.stderr)
        return _built_and_loaded(jobs, True)
    return result


def main(arguments: Optional[List[str]] = None) -> int:
    """Builds and loads the library, prints where it is, and returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m dkmp_plugin.ops.build", description="Build the native ops of dkmp_plugin."
    )
    parser.add_argument("--force", action="store_true", help="build even if the cache holds the library")
    parser.add_argument("--jobs", type=int, default=None, help="compilers to run at once")
    options = parser.parse_args(arguments)
    if options.jobs is not None and options.jobs < 1:
        parser.error(f"argument --jobs: {options.jobs} was given, at least 1 is expected")
    start = time.perf_counter()
    try:
        result = _built_and_loaded(options.jobs, options.force)
    except BuildError as error:
        print(f"dkmp_plugin: {error}", file=sys.stderr)
        return 1
    print(f"{result.library}\nby {result.compiler}; ready after {time.perf_counter() - start:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
