"""Turns a training checkpoint into one self-contained TorchScript file."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Dict, Optional, Tuple, Union

import torch
from torch import Tensor, nn
from torchmdnet.models.model import TorchMD_Net

from dkmp_plugin.config import shell_settings
from dkmp_plugin.device import resolve_device
from dkmp_plugin.files import check_is_no_folder, check_keeps_inputs
from dkmp_plugin.simulation import torchscript
from dkmp_plugin.simulation.model_file import ModelInfo, save_model_file
from dkmp_plugin.simulation.precision import torch_dtype
from dkmp_plugin.simulation.torchscript_file import is_exported
from dkmp_plugin.training.checkpoint import load_checkpoint, trained_dtype
from dkmp_plugin.units import kilojoule_per_mole

# Of the deviation of the training energies: a mean this small is what rounding leaves of none.
_NO_MEAN = 1e-3


class EnergyModel(nn.Module):
    """Energy of one system: what an exported file holds.

    Args:
        model: A trained torchmd-net model with a DKMP representation.
    """

    def __init__(self, model: TorchMD_Net) -> None:
        super().__init__()
        model.derivative = False
        self.model = model

    def forward(self, z: Tensor, pos: Tensor, box: Optional[Tensor]) -> Tensor:
        """Energy in the model's unit, shape ().

        Args:
            z: Atomic numbers, shape (N,).
            pos: Positions in Å, shape (N, 3), of the model's floating-point type.
            box: Box vectors as rows in Å, shape (3, 3), or None.
        """
        energy, _ = self.model(z, pos, torch.zeros_like(z), box, num_systems=1)
        return energy.sum()


def export_model(
    checkpoint_path: Union[str, Path],
    output_path: Union[str, Path],
    *,
    dtype: Optional[str] = None,
    device: str = "cpu",
) -> ModelInfo:
    """Export a checkpoint of ``torchmd-train`` for simulation.

    Args:
        checkpoint_path: The ``.ckpt`` file of a ``dkmp-c`` model.
        output_path: The file to write (``.pt``); replaced only when the export succeeds.
        dtype: Floating-point type of the exported model, ``float32`` or ``float64``; None for the one of the
            training (torchmd-net's ``precision``).
        device: Device that the weights are stored for; see :func:`dkmp_plugin.device.resolve_device`.
            Everything here loads them onto the CPU and from there to where they are used.

    Returns:
        What the file says about itself.

    Raises:
        ValueError: If the checkpoint is unreadable, no potential energy, or lacks what a simulation needs, or
            if it would be overwritten or the output is a folder; if the device is not there.
    """
    check_is_no_folder(output_path, "model.pt")
    check_keeps_inputs([output_path], [checkpoint_path])
    module, info = script_checkpoint(checkpoint_path, dtype=dtype, device=device)
    save_model_file(module, info, output_path)
    return info


def script_checkpoint(
    checkpoint_path: Union[str, Path], *, dtype: Optional[str] = None, device: str = "cpu"
) -> Tuple[torch.jit.ScriptModule, ModelInfo]:
    """The exported module and its description, without writing a file (see :func:`export_model`)."""
    if dtype is not None:
        torch_dtype(dtype)  # refuses others, before the checkpoint is read
    place = resolve_device(device)
    if is_exported(Path(checkpoint_path)):
        raise ValueError(
            f"{checkpoint_path} is an exported model; give the checkpoint (.ckpt) of torchmd-train that it "
            "was made from"
        )
    model, hyper_parameters, dataset = load_checkpoint(checkpoint_path)
    if hyper_parameters["model"] != "dkmp-c":
        raise ValueError(
            f"{checkpoint_path} holds a {hyper_parameters['model']} model, which predicts displacements and "
            "is not a potential energy; write it with dkmp_plugin.simulation.export_propagator"
        )
    _check_is_potential(model, hyper_parameters, checkpoint_path)
    dtype = trained_dtype(hyper_parameters) if dtype is None else dtype
    info = _describe(model, hyper_parameters, dataset, dtype, checkpoint_path)
    energy_model = EnergyModel(model).to(device=place, dtype=torch_dtype(dtype)).eval()
    for parameter in energy_model.parameters():
        parameter.requires_grad_(False)
    try:
        return torchscript.script(energy_model), info
    except RuntimeError as error:
        if model.prior_model is None:
            raise
        priors = ", ".join(type(prior).__name__ for prior in model.prior_model)
        raise ValueError(
            f"{checkpoint_path}: its prior_model, {priors}, cannot be compiled by TorchScript (torchmd-net's "
            "own neighbour search cannot), and without it the energies would be wrong; train without it"
        ) from error


def _check_is_potential(
    model: TorchMD_Net, hyper_parameters: Dict[str, Any], checkpoint_path: Union[str, Path]
) -> None:
    for key, expected in (("output_model", ("Scalar",)), ("reduce_op", ("add", "sum"))):
        if hyper_parameters[key] not in expected:
            raise ValueError(
                f"{checkpoint_path} was trained with {key}: {hyper_parameters[key]}, which is not the "
                f"potential energy of a structure, a sum over its atoms; train with {key}: {expected[0]}"
            )
    # torchmd-net adds the mean once to a structure, however many molecules it has. Reference energies that
    # are fitted to one composition leave none.
    mean, deviation = float(model.mean), float(model.std)
    if abs(mean) > _NO_MEAN * deviation:
        raise ValueError(
            f"{checkpoint_path} was trained with standardize: true: it adds {mean:g}, the mean of its "
            "training energies, once to every structure, so that the energy of two molecules far apart is "
            "not the sum of theirs; train with standardize: false"
        )


def _describe(
    model: TorchMD_Net,
    hyper_parameters: Dict[str, Any],
    dataset: Dict[str, Any],
    dtype: str,
    checkpoint_path: Union[str, Path],
) -> ModelInfo:
    energy_unit = hyper_parameters.get("energy_unit") or dataset.get("energy_unit")
    if energy_unit is None:
        raise ValueError(
            f"{checkpoint_path}: the unit of its energies is unknown; train with `energy_unit: ...` in the "
            "configuration, or with a dataset that declares it"
        )
    kilojoule_per_mole(energy_unit)
    references = {int(z): energy for z, energy in (dataset.get("reference_energies") or {}).items()}
    elements = model.representation_model.trained_elements.nonzero().flatten().tolist()
    # A training that went on with other data knows the references of its own elements alone.
    elements = [z for z in elements if not references or z in references]
    if not elements:
        raise ValueError(f"{checkpoint_path}: the model has not been trained (it has seen no element)")
    num_shells, shell_overlap = shell_settings(hyper_parameters)
    return ModelInfo(
        model=hyper_parameters["model"],
        elements=elements,
        energy_unit=energy_unit,
        cutoff=float(hyper_parameters["cutoff_upper"]),
        num_layers=hyper_parameters["num_layers"],
        num_shells=num_shells,
        shell_overlap=shell_overlap,
        embedding_dimension=hyper_parameters["embedding_dimension"],
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        dtype=dtype,
        total_charge=dataset.get("total_charge"),
        level_of_theory=dataset.get("level_of_theory"),
        reference_energies={str(z): energy for z, energy in references.items()},
        compositions=dataset.get("compositions"),
        versions=_package_versions(),
    )


def _package_versions() -> Dict[str, str]:
    versions = {}
    for package in ("dkmp-plugin", "torch", "torchmd-net"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "unknown"
    return versions
