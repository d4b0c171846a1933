"""Trains with the stock ``torchmd-train`` and goes on from the newest checkpoint of a killed training."""

import ctypes
import io
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

import yaml

from dkmp_plugin.evaluation.prediction import checkpoints_by_epoch
from dkmp_plugin.files import replaced_on_success
from dkmp_plugin.training.checkpoint import load_checkpoint

TEMPLATE = Path(__file__).with_name("training.yaml")
# An energy sums over all atoms, and so does its gradient. The best of two weights was 0.2 for the 18 atoms of
# p-xylene and 0.02 for the 166 of chignolin.
_ENERGY_WEIGHT_OF_ALL_ATOMS = 3.6
_LARGEST_ENERGY_WEIGHT = 0.2
_PR_SET_PDEATHSIG = 1


def write_configuration(path: Path, **values: Any) -> Dict[str, Any]:
    """Write torchmd-train's YAML: the template with ``values`` filled in.

    Returns:
        The configuration.
    """
    configuration = {**yaml.safe_load(TEMPLATE.read_text(encoding="utf-8")), **values}
    with replaced_on_success(path) as temporary:
        temporary.write_text(yaml.safe_dump(configuration, sort_keys=False))
    return configuration


def width_divisor() -> int:
    """What divides every possible ``embedding_dimension``: the template's number of heads."""
    return yaml.safe_load(TEMPLATE.read_text(encoding="utf-8"))["num_heads"]


def loss_weights(num_atoms: int) -> Dict[str, float]:
    """``y_weight`` and ``neg_dy_weight``, of energies and forces, for a molecule of ``num_atoms`` atoms."""
    energy = min(_LARGEST_ENERGY_WEIGHT, _ENERGY_WEIGHT_OF_ALL_ATOMS / num_atoms)
    return {"y_weight": energy, "neg_dy_weight": 1.0 - energy}


def newest_checkpoint(log_dir: Path) -> Optional[Tuple[int, Path]]:
    """Epoch and path of the newest whole checkpoint; halves that a killed process left are removed.

    Raises:
        ValueError: If that checkpoint is whole and yet no DKMP model that this version can load.
        OSError: If a checkpoint cannot be read at present.
    """
    for epoch, path in checkpoints_by_epoch(log_dir):
        if _is_cut_short(path):
            print(f"removed {path.name}: an interruption cut it short", flush=True)
            path.unlink()
            continue
        load_checkpoint(path)
        return epoch, path
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


def training_program() -> Path:
    """``torchmd-train`` of this Python.

    Raises:
        RuntimeError: If it is not there, or cannot be executed.
    """
    program = Path(sys.executable).with_name("torchmd-train")
    if not os.access(program, os.X_OK):
        raise RuntimeError(
            f"{program} is needed for the training, but there is no such program; install torchmd-net for "
            f"this Python: {sys.executable} -m pip install --force-reinstall --no-deps torchmd-net"
        )
    return program


def train(folder: Path, configuration: Path, num_epochs: int) -> None:
    """Run ``torchmd-train`` in ``folder`` until ``num_epochs`` are done; nothing where they are.

    Args:
        folder: Where it runs; paths of the configuration are relative to it.
        configuration: The YAML file.
        num_epochs: Its ``num_epochs``.

    Raises:
        RuntimeError: If the training fails, or ``torchmd-train`` is not there.
        ValueError: If its newest checkpoint cannot be loaded.
    """
    log_dir = folder / yaml.safe_load(configuration.read_text())["log_dir"]
    newest = newest_checkpoint(log_dir)
    if newest is not None and newest[0] >= num_epochs - 1:
        return
    command = [str(training_program())]
    if newest is not None:
        command += ["--load-model", str(newest[1].relative_to(folder))]
    command += ["--conf", str(configuration.relative_to(folder))]
    # Molecules this small gain nothing from a second thread.
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    done = subprocess.run(command, cwd=folder, env=environment, preexec_fn=_end_with_parent)
    if done.returncode:
        raise RuntimeError(
            f"torchmd-train ended with status {done.returncode} (see above); the same command goes on from "
            "the last checkpoint"
        )


def _end_with_parent() -> None:
    """Killing `dkmp bespoke` must not leave a training behind that the next one runs into (Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
