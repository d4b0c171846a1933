"""Reads columns of numbers from CSV files."""

import csv
from pathlib import Path
from typing import Dict, Union

import numpy as np


def read_columns(path: Union[str, Path]) -> Dict[str, np.ndarray]:
    """Reads a CSV file with a header row of names and rows of numbers; empty cells become NaN.

    Raises:
        ValueError: the file is missing, has no rows, or holds something else than numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no {path}; run the step that writes it first")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f"{path} has no rows; the step that writes it did not finish")
    try:
        return {name: np.array([float(row[name] or "nan") for row in rows]) for name in rows[0]}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a table of numbers ({error})") from error
