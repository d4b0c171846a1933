"""Lets torchmd-net's data module use the split that a dataset brings."""

from pathlib import Path
from typing import Any

import numpy as np

from dkmp_plugin.config import DKMP_MODELS
from dkmp_plugin.files import replaced_on_success
from dkmp_plugin.training.schedules import FALLS


def use_split_of_dataset(data_module: Any) -> None:
    """Replace torchmd-net's random split, which would mix runs or files, by the one that the dataset knows.

    Args:
        data_module: torchmd-net's ``DataModule``, set up; a dataset with ``split_indices`` knows its split.

    Raises:
        ValueError: If the configuration names another split or ``train_size`` too, or one for pairs of
            frames, or watches a validation without items.
    """
    split = getattr(data_module.dataset, "split_indices", None)
    if split is None:
        return
    if data_module.hparams["splits"] is not None:
        _refuse_named_parts(data_module.hparams)
        _refuse_divided_runs(data_module.hparams, data_module.dataset)
        return
    _refuse_train_size(data_module.hparams, type(data_module.dataset).__name__)
    _check_validation_is_there(data_module.hparams, len(split[1]))
    # torchmd-net has written its random split there.
    with replaced_on_success(Path(data_module.hparams["log_dir"]) / "splits.npz") as path:
        np.savez(path, idx_train=split[0], idx_val=split[1], idx_test=split[2])
    for part, indices in zip(("train", "val", "test"), split, strict=True):
        setattr(data_module, f"idx_{part}", indices)
        setattr(
            data_module, f"{part}_dataset", data_module.train_dataset.__class__(data_module.dataset, indices)
        )
    sizes = ", ".join(
        f"{part} {len(indices)}" for part, indices in zip(("train", "val", "test"), split, strict=True)
    )
    print(f"split by the dataset: {sizes}")


def _refuse_named_parts(hyper_parameters: Any) -> None:
    """The parts named in dataset_arg are a split, and so is the file that ``splits`` names."""
    arguments = hyper_parameters.get("dataset_arg")
    named = [part for part in ("train", "val", "test") if isinstance(arguments, dict) and part in arguments]
    if named:
        raise ValueError(
            f"splits: {hyper_parameters['splits']} was given, but dataset_arg names the parts too "
            f"({', '.join(named)}); remove splits from the configuration, or the parts from dataset_arg"
        )


def _refuse_divided_runs(hyper_parameters: Any, dataset: Any) -> None:
    """Pairs of frames know which part they are for: training items are augmented, its runs give the mean."""
    if hasattr(dataset, "sampling"):
        raise ValueError(
            f"splits: {hyper_parameters['splits']} was given, but {type(dataset).__name__} splits by whole "
            "runs, and augments what it takes for training; remove splits, and name the runs of each part "
            "(val and test in dataset_arg, or MISATO's lists)"
        )


def _refuse_train_size(hyper_parameters: Any, dataset: str) -> None:
    """The other sizes have defaults, which cannot be told from what was given."""
    size = hyper_parameters.get("train_size")
    if size is not None:
        raise ValueError(
            f"train_size: {size} was given, but the dataset {dataset} brings its own "
            "parts, which would all be used; remove train_size and select fewer structures (FILE@:100 in "
            "train of dataset_arg, or a file of indices in splits)"
        )


def _check_validation_is_there(hyper_parameters: Any, num_items: int) -> None:
    if num_items > 0:
        return
    watched = [
        f"{key}: {hyper_parameters[key]}"
        for key in ("early_stopping_monitor", "checkpoint_monitor")
        if (hyper_parameters.get(key) or "").startswith("val_")
    ]
    falls = hyper_parameters["model"] in DKMP_MODELS and hyper_parameters.get("lr_schedule") in FALLS
    if hyper_parameters.get("lr_metric") == "val" and not falls:
        watched.append("lr_metric: val")
    if watched:
        raise ValueError(
            f"{watched[0]} needs validation items, but the dataset has none; name some with val: in "
            "dataset_arg"
        )
