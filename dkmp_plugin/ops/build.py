"""Command ``python -m dkmp_plugin.ops.build``: builds the native ops ahead of time.

Without it they are built when ``dkmp_plugin.ops`` is first imported.
"""

import argparse
import sys
import time
from typing import List, Optional

from dkmp_plugin.ops.builder import BuildError, build


def main(arguments: Optional[List[str]] = None) -> int:
    """Builds the library, prints where it is, and returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m dkmp_plugin.ops.build", description="Build the native ops of dkmp_plugin."
    )
    parser.add_argument("--force", action="store_true", help="build even if the cache holds the library")
    parser.add_argument("--jobs", type=int, default=None, help="compilers to run at once")
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    try:
        result = build(jobs=options.jobs, force=options.force)
    except BuildError as error:
        print(f"dkmp_plugin: {error}", file=sys.stderr)
        return 1
    print(f"{result.library}\nby {result.compiler}; ready after {time.perf_counter() - start:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
