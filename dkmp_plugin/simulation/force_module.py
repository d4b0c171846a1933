"""The TorchScript module that OpenMM evaluates: an exported model bound to the atoms of one System."""

from typing import Any, Optional

import torch
from torch import Tensor, nn

from dkmp_plugin.simulation import torchscript
from dkmp_plugin.simulation.model_file import ModelInfo
from dkmp_plugin.simulation.precision import torch_dtype
from dkmp_plugin.units import ANGSTROM_PER_NANOMETER, kilojoule_per_mole


class OpenMMEnergy(nn.Module):
    """Energy in kJ/mol from OpenMM's positions in nm; OpenMM differentiates it for the forces.

    TorchForce always passes all particles of the System, and clones and freezes the module: the atoms
    are bound as buffers, and nothing changes while it runs.

    Args:
        model: Exported model: ``(z, pos Å, box Å) -> energy``.
        info: Its description.
        atomic_numbers: Atomic numbers of the modelled atoms, shape (N,).
        atoms: Indices of the modelled atoms among all particles, shape (N,), or None for all.
    """

    atomic_numbers: Tensor
    atoms: Tensor

    def __init__(
        self, model: nn.Module, info: ModelInfo, atomic_numbers: Tensor, atoms: Optional[Tensor]
    ) -> None:
        super().__init__()
        self.model = model
        self.dtype = torch_dtype(info.dtype)
        self.length_scale = ANGSTROM_PER_NANOMETER
        self.energy_scale = kilojoule_per_mole(info.energy_unit)
        self.is_subset = atoms is not None
        self.register_buffer("atomic_numbers", atomic_numbers)
        self.register_buffer("atoms", torch.zeros(0, dtype=torch.long) if atoms is None else atoms)

    def forward(self, positions: Tensor, box_vectors: Optional[Tensor] = None) -> Tensor:
        """Energy in kJ/mol, shape ().

        Args:
            positions: Positions of all particles in nm, shape (M, 3).
            box_vectors: Box vectors as rows in nm, shape (3, 3), for periodic systems.
        """
        if self.is_subset:
            positions = positions[self.atoms]
        box: Optional[Tensor] = None
        if box_vectors is not None:
            box = box_vectors.to(self.dtype) * self.length_scale
        # From the first atom on: in single precision places far from the origin would be rounded, and
        # OpenMM lets molecules diffuse out of the box. Moving all atoms alike changes no energy.
        places = positions - positions[:1].detach()
        energy = self.model(self.atomic_numbers, places.to(self.dtype) * self.length_scale, box)
        return energy.to(positions.dtype) * self.energy_scale


def fix_shapes(model: Any, num_atoms: int) -> bool:
    """Give a model of one molecule tensors of fixed shapes, as CUDA graphs need them.

    The number of edges is the largest possible: every pair in both directions, each in two shells. What is
    not there is padding, which costs little for one molecule.

    Args:
        model: Exported model; changed in place.
        num_atoms: Atoms of the molecule; it must not meet its periodic images.

    Returns:
        Whether the model can do it: files exported before this existed cannot.
    """
    graph = model.model.representation_model.distance
    if not hasattr(graph, "max_edges"):
        return False
    graph.max_edges = 2 * num_atoms * (num_atoms - 1)
    return True


def scripted(module: nn.Module) -> torch.jit.ScriptModule:
    """The module as TorchForce may take it: one method, no calls of others.

    TorchForce freezes the module, which inlines all calls but keeps raw pointers to the functions they went
    to. Those die with this process's references to the module, and the next error inside (NaN positions, say)
    would follow them and end the process instead of being reported. Inlined before it is written and read
    back, the module has nothing left to point to. Its weights stay buffers, which TorchForce moves to GPUs.

    Args:
        module: What OpenMM is to evaluate.
    """
    script = torchscript.script(module.eval())
    torch._C._jit_pass_inline(script.graph)
    return torchscript.from_bytes(torchscript.to_bytes(script))
