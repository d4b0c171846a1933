"""TorchScript files with a JSON description inside, written whole and read without running anything."""

import io
import json
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any, Dict, Optional, Type, TypeVar, Union

import torch

from dkmp_plugin.files import replaced_on_success
from dkmp_plugin.simulation import torchscript

# Names of the descriptions inside the files: they tell potentials and propagators apart.
POTENTIAL = "dkmp_plugin.json"
PROPAGATOR = "dkmp_plugin_propagator.json"

Info = TypeVar("Info")


def write_torchscript(
    module: torch.jit.ScriptModule, metadata_name: str, metadata: Dict[str, Any], path: Union[str, Path]
) -> None:
    """Write a scripted module and its description; an existing file is replaced only by a complete one.

    TorchScript's debug records are left out: they hold paths of the machine that exports.

    Args:
        module: The module.
        metadata_name: Name of the description inside the file.
        metadata: The description.
        path: The file to write.
    """
    buffer = io.BytesIO()
    torchscript.save(module, buffer, {metadata_name: json.dumps(metadata, indent=1)})
    with (
        replaced_on_success(path) as temporary,
        zipfile.ZipFile(buffer) as complete,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as target,
    ):
        for record in complete.infolist():
            if not record.filename.endswith(".debug_pkl"):
                target.writestr(record.filename, complete.read(record))


def read_metadata(path: Path, metadata_name: str) -> Optional[bytes]:
    """The description inside a file, as JSON; None where the file is a zip archive without it.

    Raises:
        ValueError: If the file is missing or not a readable archive.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; a model exported by dkmp_plugin is expected")
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("/extra/" + metadata_name)]
            return archive.read(names[0]) if names else None
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise ValueError(
            f"{path} is not a readable model file ({error}); a model exported by dkmp_plugin is expected"
        ) from error


def is_checkpoint(path: Path) -> bool:
    """Whether a file is a training checkpoint, by its suffix (``.ckpt``) or what is in it.

    ``torch.save`` and ``torch.jit.save`` both write zip archives; the constants of code are in the second.
    """
    if path.suffix == ".ckpt":
        return True
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = {name.rpartition("/")[2] for name in archive.namelist()}
    return "data.pkl" in names and "constants.pkl" not in names


def is_exported(path: Path) -> bool:
    """Whether a file holds a description of ours, as exported models and propagators do."""
    if not zipfile.is_zipfile(path):
        return False
    return any(read_metadata(path, name) is not None for name in (POTENTIAL, PROPAGATOR))


def parse_metadata(text: bytes, info_class: Type[Info], newest_format: int, path: Path) -> Info:
    """A description as read by :func:`read_metadata`, as the dataclass that it describes.

    Args:
        text: The JSON.
        info_class: The dataclass; entries it does not know are ignored.
        newest_format: Newest ``format_version`` that this version reads.
        path: The file, for messages.

    Raises:
        ValueError: If the description is damaged or of a newer format.
    """
    try:
        metadata: Dict[str, Any] = json.loads(text)
        version = int(metadata["format_version"])
        if version > newest_format:
            raise ValueError(
                f"{path} has format version {version}, this dkmp_plugin reads up to {newest_format}; "
                "update dkmp_plugin"
            )
        known = {entry.name for entry in fields(info_class)}  # type: ignore[arg-type]
        return info_class(**{name: value for name, value in metadata.items() if name in known})
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: its description is damaged ({error}); export the model again") from error


def load_torchscript(path: Path) -> torch.jit.ScriptModule:
    """The module of a file, on the CPU and in evaluation mode.

    Raises:
        ValueError: If the TorchScript inside does not load.
    """
    try:
        return torchscript.load(path).eval()
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()
        raise ValueError(
            f"{path}: its TorchScript does not load ({reason[-1] if reason else error}); the file is damaged "
            "or was exported with a newer torch; export the model again"
        ) from error
