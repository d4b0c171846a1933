"""The checkpoints that torchmd-train leaves in its log_dir: which is the newest, which the best."""

import io
import re
import zipfile
from pathlib import Path
from typing import Dict, List, Optional, Tuple, Union

import numpy as np

from dkmp_plugin.training.checkpoint import read_contents

# ModelCheckpoint of torchmd-train: epoch=12-val_loss=0.1234-test_loss=0.0000.ckpt, or with train_loss
_EPOCH = re.compile(r"epoch=(\d+)-")
_LOSS = re.compile(r"(val|train)_loss=([0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?|nan|inf)")


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

    Raises:
        ValueError: there is none, or one of several is unreadable.
    """
    losses = _finite_losses(log_dir, "val") or _finite_losses(log_dir, "train")
    if not losses:
        raise ValueError(
            f"{log_dir} holds no checkpoint of torchmd-train with a finite loss "
            "(epoch=...-val_loss=....ckpt, or train_loss); train first, or name the checkpoint itself"
        )
    least = min(losses.values())
    lowest = [path for path, loss in losses.items() if loss == least]
    if len(lowest) == 1:
        return lowest[0]
    # Names have four decimals. Of equal ones the first is the newest.
    exact = {path: loss for path in lowest if (loss := _exact_loss(path)) is not None}
    return min(exact, key=exact.__getitem__) if len(exact) == len(lowest) else lowest[0]


def _finite_losses(log_dir: Union[str, Path], stage: str) -> Dict[Path, float]:
    """Losses of a stage (``val`` or ``train``) that names of checkpoints have, the newest first."""
    return {
        path: float(match.group(2))
        for _, path in checkpoints_by_epoch(log_dir)
        if (match := _LOSS.search(path.name))
        and match.group(1) == stage
        and np.isfinite(float(match.group(2)))
    }


def _exact_loss(checkpoint: Path) -> Optional[float]:
    """The loss that Lightning chose a checkpoint by; None where it does not say."""
    for state in read_contents(checkpoint).get("callbacks", {}).values():
        if "current_score" in state:
            return float(state["current_score"])
    return None
