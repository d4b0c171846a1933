"""The checkpoints that torchmd-train leaves in its log_dir: which is the newest, which the best."""

import io
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Union

import numpy as np

from dkmp_plugin.training.checkpoint import (
    DISPLACED_OVER,
    read_contents,
    recorded_dataset,
    recorded_energy_unit,
)

# ModelCheckpoint of torchmd-train: epoch=12-val_loss=0.1234-test_loss=0.0000.ckpt, or with train_loss
_EPOCH = re.compile(r"epoch=(\d+)-")
_LOSS = re.compile(r"(val|train)_loss=([0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?|nan|inf)")
# Hyper-parameters that say what a loss is.
_MEANING = ("train_loss", "y_weight", "neg_dy_weight")


def checkpoints_by_epoch(log_dir: Union[str, Path]) -> List[Tuple[int, Path]]:
    """Epoch and path of the checkpoints that torchmd-train left in its log_dir, the newest first."""
    found = [(match, path) for path in Path(log_dir).glob("*.ckpt") if (match := _EPOCH.search(path.name))]
    return sorted(((int(match.group(1)), path) for match, path in found), reverse=True)


def newest_checkpoint(log_dir: Union[str, Path]) -> Optional[Tuple[int, Path]]:
    """Epoch and path of the newest whole checkpoint; halves that a killed process left are removed.

    Raises:
        OSError: If a checkpoint cannot be read at present.
    """
    for epoch, path in checkpoints_by_epoch(log_dir):
        if not _is_cut_short(path):
            return epoch, path
        print(f"removed {path.name}: an interruption cut it short", flush=True)
        path.unlink()
    return None


def _is_cut_short(path: Path) -> bool:
    """Lightning writes checkpoints in place; they are zip files, whose table of contents comes last."""
    # Read first: zipfile takes an error of the disk for a file that is no zip.
    contents = path.read_bytes()
    try:
        zipfile.ZipFile(io.BytesIO(contents)).close()
    except zipfile.BadZipFile:
        return True
    return False


def best_checkpoint(log_dir: Union[str, Path]) -> Path:
    """The checkpoint with the lowest validation loss among those that torchmd-train left in its log_dir.

    Where no name has one, because ``checkpoint_monitor`` was the training loss, the training loss counts.
    Where the names of several have the same, what the files say decides, and else the newest is taken.

    Losses compare only where they mean the same: where the checkpoints differ in the loss function, its
    weights or the energy unit, those that do not agree with the last one written are left out with a warning.

    Raises:
        ValueError: there is none, or one of several is unreadable.
    """
    losses = _comparable(log_dir, _finite_losses(log_dir))
    stage = "val" if any(stage == "val" for stage, _ in losses.values()) else "train"
    losses_of_stage = {path: loss for path, (named, loss) in losses.items() if named == stage}
    if not losses_of_stage:
        raise ValueError(
            f"{log_dir} holds no checkpoint of torchmd-train with a finite loss "
            "(epoch=...-val_loss=....ckpt, or train_loss); train first, or name the checkpoint itself"
        )
    least = min(losses_of_stage.values())
    lowest = [path for path, loss in losses_of_stage.items() if loss == least]
    if len(lowest) == 1:
        return lowest[0]
    # Names have four decimals. Of equal ones the first is the newest.
    exact = {path: loss for path in lowest if (loss := _exact_loss(path)) is not None}
    return min(exact, key=exact.__getitem__) if len(exact) == len(lowest) else lowest[0]


def _finite_losses(log_dir: Union[str, Path]) -> Dict[Path, Tuple[str, float]]:
    """Stages (``val`` or ``train``) and losses that names of checkpoints have, the newest first."""
    return {
        path: (match.group(1), float(match.group(2)))
        for _, path in checkpoints_by_epoch(log_dir)
        if (match := _LOSS.search(path.name)) and np.isfinite(float(match.group(2)))
    }


def _comparable(
    log_dir: Union[str, Path], losses: Dict[Path, Tuple[str, float]]
) -> Dict[Path, Tuple[str, float]]:
    """Those losses that mean the same as the one of the checkpoint that was written last."""
    meanings = {path: _meaning_of_loss(path) for path in losses} if len(losses) > 1 else {}
    readable = [path for path, meaning in meanings.items() if meaning is not None]
    if not readable:
        return losses
    last = max(readable, key=lambda path: path.stat().st_mtime_ns)
    # One that is unreadable stays: whoever loads it is told.
    others = [path for path in readable if meanings[path] != meanings[last]]
    if others:
        warnings.warn(
            f"{log_dir} holds checkpoints of trainings with another "
            f"{', '.join((*_MEANING, *DISPLACED_OVER))} or energy unit than {last.name}, which was written "
            f"last; their losses do not compare, left out: {', '.join(path.name for path in others)}",
            stacklevel=3,
        )
    return {path: loss for path, loss in losses.items() if path not in others}


def _meaning_of_loss(checkpoint: Path) -> Optional[List[Any]]:
    """What losses depend on beside the model and its data; None where the checkpoint is unreadable."""
    try:
        contents = read_contents(checkpoint, lazily=True)
    except ValueError:
        return None
    hyper_parameters = contents.get("hyper_parameters", {})
    dataset = recorded_dataset(contents)
    return [
        *(hyper_parameters.get(key) for key in _MEANING),
        recorded_energy_unit(contents),
        *(dataset.get(key) for key in DISPLACED_OVER),
    ]


def _exact_loss(checkpoint: Path) -> Optional[float]:
    """The loss that Lightning chose a checkpoint by; None where it does not say."""
    for state in read_contents(checkpoint).get("callbacks", {}).values():
        if "current_score" in state:
            return float(state["current_score"])
    return None
