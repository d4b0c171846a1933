"""The exported propagator: one TorchScript file with a DKMP^R model and what it was trained for."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Union

import torch
from torch import Tensor, nn

import dkmp_plugin.ops  # noqa: F401  (registers the operators that exported models call)
from dkmp_plugin.files import check_is_no_folder, check_keeps_inputs
from dkmp_plugin.simulation import torchscript
from dkmp_plugin.simulation.precision import torch_dtype
from dkmp_plugin.simulation.torchscript_file import (
    PROPAGATOR,
    is_checkpoint,
    load_torchscript,
    parse_metadata,
    read_metadata,
    write_torchscript,
)
from dkmp_plugin.training.checkpoint import check_propagates, load_checkpoint, trained_dtype

FORMAT_VERSION = 1


@dataclass(frozen=True)
class PropagatorInfo:
    """What an exported propagator says about itself.

    Attributes:
        elements: Atomic numbers in the training data.
        num_neighbors: Distance ranks per atom that the model uses.
        dtype: ``float32`` or ``float64``.
        dataset: What the training dataset declared (lag, selection, ...).
        format_version: Version of the file format.
    """

    elements: List[int]
    num_neighbors: int
    dtype: str
    dataset: Dict[str, Any]
    format_version: int = FORMAT_VERSION


class DisplacementPredictor(nn.Module):
    """DKMP^R with its head for one system: what an exported propagator holds.

    Args:
        representation: :class:`dkmp_plugin.models.DKMPR`.
        head: :class:`dkmp_plugin.training.displacement.Displacement`.
    """

    def __init__(self, representation: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.representation = representation
        self.head = head

    def forward(
        self, z: Tensor, pos: Tensor, neighbors: Tensor, reference: Optional[Tensor] = None
    ) -> Tensor:
        """Displacement (N, 3) in Å to the next frame, without what memory adds (see :meth:`memory_factors`).

        Args:
            z: (N,) int64 atomic numbers.
            pos: (N, 3) in Å.
            neighbors: (N, M) int64 distance ranks; see :meth:`ranks`.
            reference: (N, 3) in Å, the first frame; see :class:`dkmp_plugin.models.DKMPR`.
        """
        batch = torch.zeros_like(z)
        x, frame, z, pos, batch = self.representation.encode(  # type: ignore[operator]
            z, pos, batch, neighbors, None, reference
        )
        return self.head.pre_reduce(x, frame, z, pos, batch, None)  # type: ignore[operator]

    @torch.jit.export
    def ranks(self, pos: Tensor) -> Tensor:
        """Distance ranks (N, M) int64 of a structure (N, 3) in Å."""
        batch = torch.zeros(pos.size(0), dtype=torch.int64, device=pos.device)
        return self.representation.distance(pos, batch, None)  # type: ignore[operator]

    @torch.jit.export
    def memory_factors(self, z: Tensor) -> Tensor:
        """What the displacement since the frame before is multiplied by before it is added, (N,)."""
        return self.head.memory_factors(z)  # type: ignore[operator]


def script_propagator(
    checkpoint: Union[str, Path], dtype: Optional[str] = None
) -> Tuple[torch.jit.ScriptModule, PropagatorInfo]:
    """The scripted model of a checkpoint, without writing a file (see :func:`export_propagator`)."""
    if dtype is not None:
        torch_dtype(dtype)  # refuses others, before the checkpoint is read
    model, hyper_parameters, dataset = load_checkpoint(checkpoint)
    if hyper_parameters["model"] != "dkmp-r":
        raise ValueError(
            f"{checkpoint} holds a {hyper_parameters['model']} model, which is a potential energy; export it "
            "with dkmp_plugin.simulation.export_model"
        )
    check_propagates(checkpoint, model.representation_model, dataset)
    dtype = trained_dtype(hyper_parameters) if dtype is None else dtype
    predictor = DisplacementPredictor(model.representation_model, model.output_model)
    predictor = predictor.to(torch_dtype(dtype)).eval()
    for parameter in predictor.parameters():
        parameter.requires_grad_(False)
    return torchscript.script(predictor), _describe(model.representation_model, dtype, dataset)


def _describe(representation: Any, dtype: str, dataset: Dict[str, Any]) -> PropagatorInfo:
    return PropagatorInfo(
        elements=representation.trained_elements.nonzero().flatten().tolist(),
        num_neighbors=representation.distance.num_neighbors,
        dtype=dtype,
        dataset=dataset,
    )


def export_propagator(
    checkpoint: Union[str, Path], output: Union[str, Path], *, dtype: Optional[str] = None
) -> PropagatorInfo:
    """Exports a ``dkmp-r`` checkpoint of ``torchmd-train``.

    Args:
        checkpoint: The ``.ckpt`` file.
        output: The file to write (``.pt``); replaced only when the export succeeds.
        dtype: ``float32`` or ``float64``; None for the one of the training.

    Returns:
        What the file says about itself.

    Raises:
        ValueError: the checkpoint is unreadable, holds another model or one that cannot propagate (see
            :func:`dkmp_plugin.training.checkpoint.check_propagates`), or would be overwritten; or the
            output is a folder.
    """
    check_is_no_folder(output, "model.pt")
    check_keeps_inputs([output], [checkpoint])
    module, info = script_propagator(checkpoint, dtype)
    write_torchscript(module, PROPAGATOR, asdict(info), output)
    return info


def read_propagator_info(path: Union[str, Path]) -> Optional[PropagatorInfo]:
    """The description of an exported propagator, or of a ``dkmp-r`` checkpoint; None for other models.

    Raises:
        ValueError: the file is missing or damaged, or of a newer format.
    """
    path = Path(path).expanduser()
    if is_checkpoint(path):
        model, hyper_parameters, dataset = load_checkpoint(path)
        if hyper_parameters["model"] != "dkmp-r":
            return None
        return _describe(model.representation_model, trained_dtype(hyper_parameters), dataset)
    text = read_metadata(path, PROPAGATOR)
    return None if text is None else parse_metadata(text, PropagatorInfo, FORMAT_VERSION, path)


def load_propagator(path: Union[str, Path]) -> Tuple[torch.jit.ScriptModule, PropagatorInfo]:
    """Loads an exported propagator, or a ``dkmp-r`` checkpoint (``.ckpt``) in the precision of its training.

    Raises:
        ValueError: the file is missing, damaged, no propagator, of a newer format, or as
            :func:`dkmp_plugin.training.checkpoint.check_propagates`.
    """
    path = Path(path).expanduser()
    if is_checkpoint(path):
        return script_propagator(path)
    text = read_metadata(path, PROPAGATOR)
    if text is None:
        raise ValueError(
            f"{path} is not an exported propagator; write one with dkmp_plugin.simulation.export_propagator, "
            "or give a dkmp-r checkpoint (.ckpt)"
        )
    info = parse_metadata(text, PropagatorInfo, FORMAT_VERSION, path)
    module = load_torchscript(path)
    check_propagates(path, module.representation, info.dataset)
    return module, info
