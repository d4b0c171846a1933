"""Reads a torchmd-net training checkpoint of a DKMP model, without running anything in it."""

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

import numpy as np
import torch
from torchmdnet.models.model import TorchMD_Net

from dkmp_plugin.config import DKMP_MODELS
from dkmp_plugin.training.factory import create_dkmp_model

# What torch.load raises for damaged and foreign files.
_UNREADABLE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    KeyError,
)


# What a dataset of trajectories declares about the time that displacements are over.
DISPLACED_OVER = ("lag", "stride")
# Hyper-parameters that scripts give instead of texts and Python's numbers: harmless to read.
_PLAIN_TYPES: List[Any] = [
    type(Path()),
    np.float64(0.0).__reduce__()[0],
    np.dtype,
    *(type(np.dtype(number)) for number in (np.float32, np.float64, np.int32, np.int64, np.bool_)),
]


def trained_dtype(hyper_parameters: Dict[str, Any]) -> str:
    """``float32`` or ``float64``, as a model was trained (torchmd-net's ``precision``)."""
    return "float64" if hyper_parameters["precision"] == 64 else "float32"


def load_checkpoint(path: Union[str, Path]) -> Tuple[TorchMD_Net, Dict[str, Any], Dict[str, Any]]:
    """Load the model of a checkpoint written by ``torchmd-train``.

    Args:
        path: The ``.ckpt`` file.

    Returns:
        The model in evaluation mode (``derivative`` as trained), torchmd-net's hyper-parameters, and what
        the training dataset declared about itself (energy unit, level of theory, charge; may be empty).

    Raises:
        ValueError: If the file is missing, unreadable, or not a checkpoint of a DKMP model.
    """
    contents = read_contents(Path(path))
    if not isinstance(contents, dict) or not {"hyper_parameters", "state_dict"} <= set(contents):
        raise ValueError(
            f"{path} is not a torchmd-train checkpoint: it has no hyper_parameters and state_dict"
        )
    hyper_parameters = dict(contents["hyper_parameters"])
    architecture = hyper_parameters.get("model")
    if architecture not in DKMP_MODELS:
        raise ValueError(
            f"{path} holds a {architecture!r} model, one of {', '.join(DKMP_MODELS)} is expected; other "
            "architectures of torchmd-net are simulated with openmm-ml's own 'torchmdnet' potential"
        )
    model = create_dkmp_model(hyper_parameters)
    weights = {name.removeprefix("model."): value for name, value in contents["state_dict"].items()}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path}: the weights do not fit the hyper-parameters: {error}") from error
    return model.eval(), hyper_parameters, recorded_dataset(contents)


def check_propagates(path: Union[str, Path], representation: Any, dataset: Dict[str, Any]) -> None:
    """For what runs a ``dkmp-r`` model forward in time: without a box, in whatever orientation.

    Args:
        path: The checkpoint or exported propagator.
        representation: Its :class:`dkmp_plugin.models.DKMPR`, which may be scripted.
        dataset: What its training dataset declared.

    Raises:
        ValueError: The model was trained with a periodic box, or on superposed frames without a canonical
            frame.
    """
    if dataset.get("periodic", False) or representation.distance.has_constant_box:
        raise ValueError(
            f"{path} was trained with periodic boxes, but here structures have none: their neighbours "
            "would be others; train with periodic: false and without box_vecs"
        )
    if dataset.get("superpose", "none") != "none" and not representation.use_frame:
        raise ValueError(
            f"{path} was trained on superposed frames (superpose: {dataset['superpose']}) and knows no "
            "other orientation; train with canonical_frame: principal"
        )


def trained_rerank_interval(dataset: Dict[str, Any]) -> int:
    """After how many predictions to rank anew, so that ranks are as recent as in the training; 0 for never.

    Args:
        dataset: What the training dataset declared. Earlier versions did not say: 0.
    """
    if "num_neighbors" not in dataset:
        return 0
    if dataset["num_neighbors"] == 0:
        # Training ranked every frame by itself.
        return 1
    # In frames there, in predictions here.
    interval = dataset["rerank_interval"]
    return max(1, interval // dataset["lag"]) if interval > 0 else 0


def recorded_dataset(contents: Mapping[str, Any]) -> Dict[str, Any]:
    """What the training dataset declared about itself; empty where a checkpoint does not say.

    Args:
        contents: What the checkpoint holds, of whatever model.
    """
    return dict(contents.get("dkmp_plugin", {}).get("dataset", {}))


def recorded_energy_unit(contents: Mapping[str, Any]) -> Optional[str]:
    """The unit of the energies that a checkpoint was trained on; None where it does not say.

    Args:
        contents: What the checkpoint holds, of whatever model.
    """
    configured = contents.get("hyper_parameters", {}).get("energy_unit")
    return configured or recorded_dataset(contents).get("energy_unit")


def read_contents(path: Path, *, lazily: bool = False) -> Any:
    """What a checkpoint file holds, of whatever model.

    Args:
        path: The file.
        lazily: Tensors are read from the file when they are used, and the file must stay as it is until then.

    Raises:
        ValueError: The file is missing or unreadable.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; a checkpoint (.ckpt) written by torchmd-train is expected")
    # weights_only: a checkpoint from a stranger must not be able to run code.
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_PLAIN_TYPES):
            # torch's remarks about pickle protocols are of no use to somebody loading a model.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=lazily)
    except _UNREADABLE as error:
        raise ValueError(
            f"{path} cannot be read as a checkpoint: it is damaged, or holds more than weights and plain "
            f"values ({type(error).__name__})"
        ) from error
