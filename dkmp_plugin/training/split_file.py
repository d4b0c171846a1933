"""Checks the file that ``splits:`` names, and asks for one where the data's own split is incomplete.

torchmd-net takes whatever indices stand in the file.
"""

from itertools import combinations
from typing import Any, Dict

import numpy as np


def check_split_file(data_module: Any) -> None:
    """Refuse a split that would train on held-out items, or on others than it says.

    Args:
        data_module: torchmd-net's ``DataModule``, set up; without ``splits`` nothing is checked.

    Raises:
        ValueError: masks or other values than indices, indices that no item has, parts that share items.
    """
    path = data_module.hparams["splits"]
    if path is None:
        return
    parts = {name: np.asarray(getattr(data_module, name)) for name in ("idx_train", "idx_val", "idx_test")}
    for name, indices in parts.items():
        _check_indices(f"splits: {path}: {name}", indices, len(data_module.dataset))
    _refuse_shared_items(str(path), parts)


def refuse_partial_split(data_module: Any) -> None:
    """Refuse torchmd-net's random split where a file assigns its runs to parts, but not as a whole.

    Args:
        data_module: torchmd-net's ``DataModule``, set up; a dataset with ``split_problem`` says why it has no
            split. Where the configuration names ``splits``, that counts.

    Raises:
        ValueError: there is such a problem.
    """
    problem = getattr(data_module.dataset, "split_problem", None)
    if problem is not None and data_module.hparams["splits"] is None:
        raise ValueError(
            f"{problem}, or give a split of your own with splits: (a random one would mix conformations of "
            "one run)"
        )


def _check_indices(name: str, indices: np.ndarray, num_items: int) -> None:
    # np.array([]) is of floats.
    if indices.ndim == 1 and indices.size == 0:
        return
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise ValueError(
            f"{name} has values of type {indices.dtype} and shape {indices.shape}, a list of whole numbers "
            "is expected: the indices of items; of a mask write np.flatnonzero(mask)"
        )
    outside = indices[(indices < 0) | (indices >= num_items)]
    if outside.size > 0:
        raise ValueError(
            f"{name} holds {outside[0]}, indices from 0 to {num_items - 1} are expected, because the dataset "
            f"has {num_items} items; write the split for this dataset"
        )


def _refuse_shared_items(path: str, parts: Dict[str, np.ndarray]) -> None:
    for first, second in combinations(parts, 2):
        shared = np.intersect1d(parts[first], parts[second])
        if shared.size > 0:
            raise ValueError(
                f"splits: {path}: {first} and {second} share {shared.size} "
                f"item{'s' if shared.size > 1 else ''} (first: {int(shared[0])}); give each item to one part"
            )
