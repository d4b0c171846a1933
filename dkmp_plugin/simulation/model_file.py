"""The exported model: one TorchScript file with everything a simulation needs to know about it."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Union

import torch
from torch import Tensor

import dkmp_plugin.ops  # noqa: F401  (registers the operators that exported models call)
from dkmp_plugin.simulation.torchscript_file import (
    POTENTIAL,
    PROPAGATOR,
    load_torchscript,
    parse_metadata,
    read_metadata,
    write_torchscript,
)

FORMAT_VERSION = 1


@dataclass(frozen=True)
class ModelInfo:
    """What an exported model says about itself.

    Attributes:
        model: Architecture, ``dkmp-c``.
        elements: Atomic numbers the model was trained on.
        energy_unit: Unit of the model's energies; forces are in that unit per Å.
        cutoff: Outer cutoff in Å.
        num_layers: Number of layers.
        num_shells: Number of radius shells.
        shell_overlap: Width of the smooth shell borders in Å.
        embedding_dimension: Width.
        num_parameters: Number of trainable weights.
        dtype: ``float32`` or ``float64``.
        total_charge: Total charge of the training molecules in elementary charges; None if unknown.
        level_of_theory: Method that labelled the training data; None if unknown.
        reference_energies: Energy per element (atomic number as text) that was subtracted from the
            training energies, in ``energy_unit``: energies of the model are relative to their sum.
        compositions: Atoms per element (atomic number as text) of every composition in the training data;
            None if unknown, or if they were many.
        versions: Versions of the packages that exported the file.
        format_version: Version of the file format.
    """

    model: str
    elements: List[int]
    energy_unit: str
    cutoff: float
    num_layers: int
    num_shells: int
    shell_overlap: float
    embedding_dimension: int
    num_parameters: int
    dtype: str
    total_charge: Optional[int] = None
    level_of_theory: Optional[str] = None
    reference_energies: Dict[str, float] = field(default_factory=dict)
    compositions: Optional[List[Dict[str, int]]] = None
    versions: Dict[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION


def save_model_file(module: torch.jit.ScriptModule, info: ModelInfo, path: Union[str, Path]) -> None:
    """Write an exported model; an existing file is replaced only by a complete one.

    Args:
        module: Scripted ``forward(z (N,), pos (N, 3) Å, box (3, 3) Å or None) -> energy ()``.
        info: Its description.
        path: The file to write.
    """
    write_torchscript(module, POTENTIAL, asdict(info), path)


def read_model_info(path: Union[str, Path]) -> ModelInfo:
    """Read the description of an exported model without loading its code or weights.

    Args:
        path: A file written by :func:`save_model_file`.

    Raises:
        ValueError: If the file is missing, corrupt, not ours, or of a newer format.
    """
    path = Path(path)
    text = read_metadata(path, POTENTIAL)
    if text is None:
        remedy = "a model exported with `dkmp export CHECKPOINT MODEL.pt` is expected"
        if read_metadata(path, PROPAGATOR) is not None:
            raise ValueError(
                f"{path} is a DKMP^R propagator: it predicts frames, not a potential energy; run it with "
                f"dkmp_plugin.simulation.DKMPPropagator, or as a potential: {remedy}"
            )
        raise ValueError(f"{path} carries no {POTENTIAL}: it was not written by dkmp_plugin; {remedy}")
    return parse_metadata(text, ModelInfo, FORMAT_VERSION, path)


def load_model_file(path: Union[str, Path]) -> Tuple[torch.jit.ScriptModule, ModelInfo]:
    """Load an exported model.

    Args:
        path: A file written by :func:`save_model_file`.

    Returns:
        The scripted ``forward(z, pos, box) -> energy`` (see :func:`save_model_file`) and its description.

    Raises:
        ValueError: As :func:`read_model_info`, or if the TorchScript inside does not load.
    """
    info = read_model_info(path)
    return load_torchscript(Path(path)), info


def constant_box(model: Any) -> Optional[Tensor]:
    """The box (torchmd-net's ``box_vecs``) that a model takes wherever it is given none.

    Args:
        model: Exported model.

    Returns:
        Box vectors as rows in Å, shape (3, 3), or None where the model has no box of its own.
    """
    graph = model.model.representation_model.distance
    return graph.box if graph.has_constant_box else None
