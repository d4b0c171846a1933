"""What the ops run on: the compiled library, or the pure-ATen reference and why."""

from dataclasses import dataclass
from typing import Optional


@dataclass(frozen=True)
class OpsStatus:
    """State of the native ops in this process.

    Attributes:
        native: True when the compiled library is loaded.
        library: path of the loaded library, or None.
        compiler: the compiler that built it, or None.
        why_not: why the reference runs instead, or None when native.
    """

    native: bool
    library: Optional[str]
    compiler: Optional[str]
    why_not: Optional[str]
