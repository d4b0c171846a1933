"""Where the data sets of the scripts lie."""

import os
from pathlib import Path


def data_folder() -> Path:
    """DKMP_DATA, or shared/data beside the repository."""
    return Path(os.environ.get("DKMP_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
