"""The models of the comparison behind one call: (z, pos, batch, box) -> (energies (B,), forces (N, 3)).

torchmd-net builds its own architectures and dkmp-c. ViSNet is PyG's, PaiNN is schnetpack's (installed by
scripts/install_benchmark_peers.sh); both get their edges from ``dkmp_plugin.graph.radius_shells``, because
PyG's search needs an extra compiled package and schnetpack's works on single structures before batching.
"""

import typing
from typing import Any, Callable, Dict, Mapping, Optional, Tuple

import torch
from torch import Tensor, nn
from torchmdnet_settings import TORCHMDNET_SETTINGS

from dkmp_plugin.graph import radius_shells

# Sizes of dkmp-c in the protocol.
DKMP_C_SIZES = ("dkmp-c", "dkmp-c-large", "dkmp-c-larger", "dkmp-c-deep", "dkmp-c-larger-deep")
# The models of torchmd-net's interface: name in the protocol, architecture.
TORCHMDNET_MODELS = {
    **dict.fromkeys(DKMP_C_SIZES, "dkmp-c"),
    "equivariant-transformer": "equivariant-transformer",
    "tensornet": "tensornet",
    "tensornet-large": "tensornet",
    "graph-network": "graph-network",
}
# Elements that every model's embedding holds.
_MAX_Z = 20


class TorchMDNetModel(nn.Module):
    """dkmp-c and torchmd-net's own architectures."""

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        super().__init__()
        from torchmdnet.models.model import create_model

        # The comparison's optimisers (s2ef.training) are not those of dkmp-c's configuration.
        of_model = {key: value for key, value in settings.items() if key != "optimizer"}
        self.model = create_model(
            {**TORCHMDNET_SETTINGS, "max_z": _MAX_Z, **of_model, "model": TORCHMDNET_MODELS[name]}
        )

    def forward(
        self, z: Tensor, pos: Tensor, batch: Tensor, box: Optional[Tensor] = None
    ) -> Tuple[Tensor, Tensor]:
        energy, forces = self.model(z, pos, batch, box=box)
        return energy.view(-1), forces


class _Edges(nn.Module):
    """PyG ViSNet's ``Distance`` with another neighbour search: edges of every structure, and self-loops."""

    def __init__(self, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff

    def forward(self, pos: Tensor, batch: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        edges = radius_shells(pos.detach(), self.cutoff, 1, batch)
        receivers, senders = edges.edge_index
        vector = pos[senders] - pos[receivers]
        loops = torch.arange(len(pos))
        # PyG: row 0 is the sender; self-loops have distance zero.
        edge_index = torch.stack([torch.cat([senders, loops]), torch.cat([receivers, loops])])
        distance = torch.cat([vector.norm(dim=1), pos.new_zeros(len(pos))])
        return edge_index, distance, torch.cat([vector, pos.new_zeros(len(pos), 3)])


class ViSNetModel(nn.Module):
    """PyG's ViSNet (doi:10.1038/s41467-023-43720-2), open boundaries only."""

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        super().__init__()
        from torch_geometric.nn.models import ViSNet

        self.model = ViSNet(
            lmax=settings["lmax"],
            num_heads=settings["num_heads"],
            num_layers=settings["num_layers"],
            hidden_channels=settings["embedding_dimension"],
            num_rbf=settings["num_rbf"],
            max_z=_MAX_Z,
            cutoff=settings["cutoff_upper"],
            derivative=True,
        )
        self.model.representation_model.distance = _Edges(settings["cutoff_upper"])

    def forward(
        self, z: Tensor, pos: Tensor, batch: Tensor, box: Optional[Tensor] = None
    ) -> Tuple[Tensor, Tensor]:
        if box is not None:
            raise ValueError("visnet: a box was given, but PyG's ViSNet knows open boundaries only")
        energy, forces = self.model(z, pos, batch)
        return energy.view(-1), forces


class PaiNNModel(nn.Module):
    """schnetpack's PaiNN (arXiv:2102.03150).

    Raises:
        ImportError: schnetpack is not installed.
    """

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        super().__init__()
        import torch.utils.data.dataloader as dataloader

        # schnetpack 2.1.1 imports a private name that newer torch has moved.
        dataloader.T_co = typing.TypeVar("T_co", covariant=True)
        import schnetpack

        width, self.cutoff = settings["embedding_dimension"], settings["cutoff_upper"]
        self.model = schnetpack.model.NeuralNetworkPotential(
            representation=schnetpack.representation.PaiNN(
                n_atom_basis=width,
                n_interactions=settings["num_layers"],
                radial_basis=schnetpack.nn.GaussianRBF(n_rbf=settings["num_rbf"], cutoff=self.cutoff),
                cutoff_fn=schnetpack.nn.CosineCutoff(self.cutoff),
            ),
            input_modules=[schnetpack.atomistic.PairwiseDistances()],
            output_modules=[
                schnetpack.atomistic.Atomwise(n_in=width, output_key="energy"),
                schnetpack.atomistic.Forces(energy_key="energy", force_key="forces"),
            ],
        )

    def forward(
        self, z: Tensor, pos: Tensor, batch: Tensor, box: Optional[Tensor] = None
    ) -> Tuple[Tensor, Tensor]:
        from schnetpack import properties

        edges = radius_shells(pos.detach(), self.cutoff, 1, batch, box)
        counts = torch.bincount(batch)
        predicted = self.model(
            {
                properties.Z: z,
                properties.R: pos.clone(),
                properties.idx_i: edges.edge_index[0],
                properties.idx_j: edges.edge_index[1],
                properties.offsets: edges.shift,
                properties.idx_m: batch,
                properties.n_atoms: counts,
            }
        )
        return predicted["energy"].view(-1), predicted["forces"]


_BUILDERS: Dict[str, Callable[[str, Mapping[str, Any]], nn.Module]] = {
    **dict.fromkeys(TORCHMDNET_MODELS, TorchMDNetModel),
    "visnet": ViSNetModel,
    "painn": PaiNNModel,
}


def build_model(name: str, settings: Mapping[str, Any]) -> nn.Module:
    """A model with fresh weights.

    Args:
        name: Key of ``models`` in protocol.yaml.
        settings: torchmd-net's hyper-parameter names, for all models.

    Raises:
        ValueError: an unknown name.
        ImportError: the model's library is not installed.
    """
    if name not in _BUILDERS:
        raise ValueError(f"model {name!r} was given, one of {', '.join(_BUILDERS)} is expected")
    return _BUILDERS[name](name, settings)
