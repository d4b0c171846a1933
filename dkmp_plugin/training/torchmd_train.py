"""Runs the stock ``torchmd-train`` and goes on from the newest whole checkpoint of a killed training."""

import ctypes
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Sequence, Union

import yaml

from dkmp_plugin.config import DKMP_MODELS
from dkmp_plugin.files import replaced_on_success
from dkmp_plugin.training.checkpoint import load_checkpoint
from dkmp_plugin.training.log_dir import newest_checkpoint

_PR_SET_PDEATHSIG = 1


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


def write_configuration(path: Union[str, Path], settings: Mapping[str, Any]) -> Path:
    """Write torchmd-train's YAML file.

    Args:
        path: The file.
        settings: Its keys and values.

    Returns:
        ``path``.
    """
    with replaced_on_success(path) as temporary:
        temporary.write_text(yaml.safe_dump(dict(settings), sort_keys=False), encoding="utf-8")
    return Path(path)


def run_training(
    configuration: Path,
    *arguments: Union[str, Path],
    folder: Union[str, Path] = ".",
    environment: Optional[Dict[str, str]] = None,
    log: Optional[Path] = None,
) -> None:
    """Run ``torchmd-train`` from the beginning, or from what ``arguments`` name, to its end.

    Args:
        configuration: The YAML file.
        arguments: Others of its command line; the configuration overrides them.
        folder: Where it runs; paths of the configuration and of the arguments are relative to it.
        environment: Its environment variables [those of this process].
        log: The file for what it prints [the output of this process].

    Raises:
        RuntimeError: If the training fails, or ``torchmd-train`` is not there.
    """
    status = _status_of(configuration, arguments, folder, environment, log)
    if status != 0:
        raise RuntimeError(
            f"torchmd-train ended with status {status}; see {log or 'above'}, mend it and train again"
        )


def train_to_end(
    configuration: Path,
    *arguments: Union[str, Path],
    folder: Union[str, Path] = ".",
    environment: Optional[Dict[str, str]] = None,
) -> None:
    """Train until the epochs of the configuration are done; nothing where they are.

    A training that was killed, at any point, goes on from its newest whole checkpoint.

    Args:
        configuration: The YAML file, with ``log_dir`` and ``num_epochs``.
        arguments: Others of the command line, for a training that begins (such as ``--load-weights``).
        folder: Where it runs; paths of the configuration and of the arguments are relative to it.
        environment: Its environment variables [those of this process].

    Raises:
        RuntimeError: If the training fails, or ``torchmd-train`` is not there.
        ValueError: If the newest checkpoint is whole and yet no DKMP model that this version can load, where
            the configuration asks for one.
    """
    settings = yaml.safe_load(configuration.read_text(encoding="utf-8"))
    log_dir = Path(folder, settings["log_dir"])
    newest = newest_checkpoint(log_dir)
    if newest is not None:
        epoch, checkpoint = newest
        if settings.get("model") in DKMP_MODELS:
            load_checkpoint(checkpoint)
        if epoch >= settings["num_epochs"] - 1:
            return
        arguments = ("--load-model", Path(settings["log_dir"], checkpoint.name))
    status = _status_of(configuration, arguments, folder, environment, None)
    if status != 0:
        raise RuntimeError(
            f"torchmd-train ended with status {status} (see above); the same command goes on from the last "
            "checkpoint"
        )


def _status_of(
    configuration: Path,
    arguments: Sequence[Union[str, Path]],
    folder: Union[str, Path],
    environment: Optional[Dict[str, str]],
    log: Optional[Path],
) -> int:
    command = [str(training_program()), *map(str, arguments), "--conf", str(configuration.resolve())]
    with log.open("w") if log is not None else nullcontext() as file:
        return subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdout=file,
            stderr=None if file is None else subprocess.STDOUT,
            preexec_fn=_end_with_parent,
        ).returncode


def _end_with_parent() -> None:
    """Killing this process must not leave a training behind that the next one runs into (Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
