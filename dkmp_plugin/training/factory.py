"""Builds a torchmd-net model with a DKMP representation from torchmd-net's hyper-parameters."""

from typing import Any, Dict, Optional

import torch
from torch import Tensor, nn
from torchmdnet.models import output_modules
from torchmdnet.models.model import TorchMD_Net, create_prior_models
from torchmdnet.models.utils import act_class_mapping, dtype_mapping

from dkmp_plugin.config import shell_settings, validate
from dkmp_plugin.models.dkmp_c import DKMPC, STRETCH
from dkmp_plugin.models.dkmp_r import DKMPR
from dkmp_plugin.models.energy_block import EnergyBlock
from dkmp_plugin.models.gated_block import GatedBlock, replace_gated_blocks
from dkmp_plugin.training.displacement import Displacement
from dkmp_plugin.training.displacement_model import DisplacementModel

# Of the lengths in the energy head, whose features are of order one: of revision 5, and since.
_SOFTENING_OF_GATED_BLOCKS, _SOFTENING = 1.0, 3.0


def create_dkmp_model(
    args: Dict[str, Any],
    prior_model: Any = None,
    mean: Optional[Tensor] = None,
    std: Optional[Tensor] = None,
) -> TorchMD_Net:
    """The counterpart of ``torchmdnet.models.model.create_model`` for the DKMP architectures.

    Args:
        args: torchmd-net hyper-parameters, ours included (``dkmp_plugin.config``).
        prior_model: torchmd-net prior models; built from ``args`` when missing.
        mean: Mean of the training energies, shape ().
        std: Standard deviation of the training energies, shape ().

    Returns:
        The whole model: ``model(z, pos, batch, box) -> (energy, forces)``; of ``dkmp-r``
        ``-> (displacements, empty)``.

    Raises:
        ValueError: If a hyper-parameter is impossible.
    """
    validate(args)
    if args["activation"] not in act_class_mapping:
        known = ", ".join(act_class_mapping)
        raise ValueError(f"activation: {args['activation']!r} was given, one of {known} is expected")
    dtype = dtype_mapping[args["precision"]]
    representation = create_representation(args, dtype)
    if args["prior_model"] and prior_model is None:
        prior_model = create_prior_models(args)
    if isinstance(representation, DKMPR):
        scale = float(args.get("displacement_scale", 1.0))
        width, activation = args["embedding_dimension"], args["activation"]
        displacement = Displacement(
            width,
            activation,
            dtype=dtype,
            displacement_scale=scale,
            num_vectors=representation.num_vectors,
            memory=args.get("memory", False),
            max_z=args["max_z"],
        )
        return DisplacementModel(representation, displacement, dtype=dtype)
    head = _create_head(args, dtype)
    model = TorchMD_Net(
        representation,
        head,
        prior_model=prior_model,
        mean=mean,
        std=std,
        derivative=args["derivative"],
        dtype=dtype,
    )
    gated_blocks = [block for block in head.modules() if isinstance(block, GatedBlock)]
    if args.get("revision", 1) > 1:
        # Sums over many atoms: fresh weights would start with energies and forces far above any label.
        with torch.no_grad():
            for block in gated_blocks[-1:]:
                block.update_net.layers[-1].weight *= 0.1
    return model


def _create_head(args: Dict[str, Any], dtype: torch.dtype) -> nn.Module:
    """torchmd-net's equivariant output model; what becomes of the features in it is ours."""
    revision, width, activation = args.get("revision", 1), args["embedding_dimension"], args["activation"]
    head = getattr(output_modules, "Equivariant" + args["output_model"])(
        width, activation=activation, reduce_op=args["reduce_op"], dtype=dtype
    )
    if revision > 5 and args["output_model"] == "Scalar":
        head.output_network = nn.ModuleList([EnergyBlock(width, activation, STRETCH, _SOFTENING, dtype)])
        return head
    return replace_gated_blocks(head, _SOFTENING_OF_GATED_BLOCKS if revision > 4 else 0.0)


def create_representation(args: Dict[str, Any], dtype: torch.dtype) -> nn.Module:
    """The representation model (``dkmp-c`` or ``dkmp-r``) that the hyper-parameters name."""
    box = args.get("box_vecs")
    if args["model"] == "dkmp-r":
        return DKMPR(
            hidden_channels=args["embedding_dimension"],
            num_layers=args["num_layers"],
            num_heads=args["num_heads"],
            num_neighbors=args["max_num_neighbors"],
            activation=args["activation"],
            max_z=args["max_z"],
            canonical_frame=args.get("canonical_frame", "principal"),
            attention_variant=args.get("attention_variant", "split"),
            num_frequencies=args.get("num_frequencies", 32),
            partition=args.get("partition", "dilated"),
            box_vecs=None if box is None else torch.tensor(box, dtype=dtype),
            dtype=dtype,
        )
    num_shells, shell_overlap = shell_settings(args)
    return DKMPC(
        hidden_channels=args["embedding_dimension"],
        num_layers=args["num_layers"],
        num_shells=num_shells,
        num_rbf=args["num_rbf"],
        rbf_type=args["rbf_type"],
        trainable_rbf=args["trainable_rbf"],
        activation=args["activation"],
        cutoff_upper=float(args["cutoff_upper"]),
        shell_overlap=shell_overlap,
        num_heads=args["num_heads"],
        max_z=args["max_z"],
        max_num_neighbors=args["max_num_neighbors"],
        box_vecs=None if box is None else torch.tensor(box, dtype=dtype),
        # Checkpoints older than the key hold revision 1.
        revision=args.get("revision", 1),
        dtype=dtype,
    )
