"""DKMP^R inside OpenMM: one step of the integrator is one predicted frame.

This is a propagator, not a potential: the "forces" it hands to its own integrator are displacements. They
must not drive any other integrator, and the System holds nothing else.
"""

from pathlib import Path
from typing import Any, Dict, Iterable, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from torch import Tensor, nn

from dkmp_plugin.datasets.bond_lengths import check_molecules_are_whole
from dkmp_plugin.datasets.nearest_distance import median_nearest_distance
from dkmp_plugin.datasets.trajectory_files import select_atoms
from dkmp_plugin.datasets.unwrapping import gather, molecules_and_residues, molecules_of
from dkmp_plugin.models.elements import check_elements
from dkmp_plugin.models.reference_structure import check_same_atoms
from dkmp_plugin.optional import require
from dkmp_plugin.simulation.force_module import scripted
from dkmp_plugin.simulation.modelled_atoms import modelled_atoms
from dkmp_plugin.simulation.precision import torch_dtype
from dkmp_plugin.simulation.propagator_file import load_propagator
from dkmp_plugin.simulation.stack import require_torchforce
from dkmp_plugin.training.checkpoint import trained_rerank_interval
from dkmp_plugin.units import ANGSTROM_PER_NANOMETER

# Median lengths in nm of bonds, or of the gaps between atoms without any, that are no mistaken unit.
_PLAUSIBLE_LENGTHS = (0.03, 0.8)
# Its own force group: the integrator reads exactly this force, as f31.
FORCE_GROUP = 31


class OpenMMDisplacement(nn.Module):
    """Displacements of all particles of a System, in the place of forces.

    Args:
        predictor: exported model: ``(z, pos Å, neighbors) -> displacement Å``.
        dtype: floating-point type of the model.
        atomic_numbers: (N,) of the propagated atoms.
        atoms: (N,) their indices among all particles.
        neighbors: (N, M) distance ranks of the start structure.
        reference: (N, 3) in Å, the start structure.
        rerank: rank anew in every step instead.
    """

    atomic_numbers: Tensor
    atoms: Tensor
    neighbors: Tensor
    reference: Tensor

    def __init__(
        self,
        predictor: nn.Module,
        dtype: torch.dtype,
        atomic_numbers: Tensor,
        atoms: Tensor,
        neighbors: Tensor,
        reference: Tensor,
        rerank: bool,
    ) -> None:
        super().__init__()
        self.predictor = predictor
        self.dtype = dtype
        self.rerank = rerank
        self.angstrom_per_nanometer = ANGSTROM_PER_NANOMETER
        self.register_buffer("atomic_numbers", atomic_numbers)
        self.register_buffer("atoms", atoms)
        self.register_buffer("neighbors", neighbors)
        self.register_buffer("reference", reference)

    def forward(self, positions: Tensor) -> Tuple[Tensor, Tensor]:
        """Energy 0 and displacements (P, 3) in nm of all P particles at ``positions`` (P, 3) in nm."""
        pos = positions.index_select(0, self.atoms).to(self.dtype) * self.angstrom_per_nanometer
        neighbors = self.predictor.ranks(pos) if self.rerank else self.neighbors  # type: ignore[operator]
        displacement = self.predictor(self.atomic_numbers, pos, neighbors, self.reference)
        displacement = displacement / self.angstrom_per_nanometer
        moved = torch.zeros_like(positions).index_copy(0, self.atoms, displacement.to(positions.dtype))
        return torch.zeros([], dtype=positions.dtype, device=positions.device), moved.contiguous()


class DKMPPropagator:
    """Predicts trajectories frame by frame with OpenMM's own Simulation, reporters and platforms.

    Distance ranks are those of ``positions`` and are reused in every step (paper, appendix E), unless the
    model was trained otherwise. Molecules must be whole. Where the topology has a box they start from the
    images nearest to the largest, as in the training; nothing is wrapped into the box while propagating. The
    model runs where OpenMM's platform does, on the CUDA platform on the GPU; only the ranks of ``positions``
    are computed on the CPU.

    TorchScript's profiling runs hold on to intermediate results, half a gigabyte for 40,000 atoms;
    ``torch.jit.set_fusion_strategy([("STATIC", 0)])`` turns them off for the whole process.

    Args:
        model_path: file written by ``export_propagator``, or a ``dkmp-r`` checkpoint (``.ckpt``).
        topology: ``openmm.app.Topology`` of the whole system.
        positions: start positions of all its atoms, an OpenMM quantity or an array (P, 3) in nm.
        atoms: indices of the atoms to propagate (those of the training selection); None for all, which must
            then be those of the training selection. The others stay where they are.
        rerank: rank the neighbours anew in every step; None does so where the training did now and then.

    Raises:
        ValueError: positions or atoms that do not fit the topology or the model's mean structure, all atoms
            where the training knew a selection of them, positions in another unit, molecules cut by the box,
            unknown elements, or a bad model file.
        RuntimeError: TorchForce cannot work on the installed stack.
    """

    def __init__(
        self,
        model_path: Union[str, Path],
        topology: Any,
        positions: Any,
        atoms: Optional[Iterable[int]] = None,
        rerank: Optional[bool] = None,
    ) -> None:
        require_torchforce()
        predictor, self.info = load_propagator(model_path)
        self.topology = topology
        self.start = _nanometers(positions, topology.getNumAtoms())
        indices, atomic_numbers = modelled_atoms(topology, atoms)
        if indices is None:
            _check_selection(topology, self.info.dataset.get("selection", "full"))
        check_elements(atomic_numbers, self.info.elements)
        reference = predictor.representation.reference
        no_numbers = torch.zeros(0, dtype=torch.int64)
        check_same_atoms(
            # Files of before have no numbers.
            reference.stored,
            getattr(reference, "numbers", no_numbers),
            torch.tensor(atomic_numbers),
            1,
        )
        self.atoms = list(range(len(atomic_numbers))) if indices is None else indices
        pairs = [(first.index, second.index) for first, second in topology.bonds()]
        bonds = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        _check_unit(self.start, self.start[self.atoms], bonds)
        _check_molecules(self.start, self.atoms, bonds)
        _gather_molecules(self.start, topology, self.atoms, bonds)
        dtype = torch_dtype(self.info.dtype)
        self.memory = np.zeros(len(self.start))
        self.memory[self.atoms] = predictor.memory_factors(torch.tensor(atomic_numbers)).detach().numpy()
        start = torch.from_numpy(self.start[self.atoms] * ANGSTROM_PER_NANOMETER).to(dtype)
        self.module = OpenMMDisplacement(
            predictor,
            dtype,
            torch.tensor(atomic_numbers, dtype=torch.int64),
            torch.tensor(self.atoms, dtype=torch.int64),
            predictor.ranks(start),
            start,
            trained_rerank_interval(self.info.dataset) > 0 if rerank is None else rerank,
        ).eval()

    def create_system(self) -> Any:
        """An ``openmm.System`` that holds only the displacements; atoms that stay have mass 0."""
        import openmm
        import openmmtorch

        system = openmm.System()
        propagated = set(self.atoms)
        for index in range(len(self.start)):
            system.addParticle(1.0 if index in propagated else 0.0)
        force = openmmtorch.TorchForce(scripted(self.module))
        force.setOutputsForces(True)
        # Without periodic boundaries OpenMM never wraps the atoms apart.
        force.setUsesPeriodicBoundaryConditions(False)
        force.setForceGroup(FORCE_GROUP)
        force.setName("DKMP propagator (displacements, not forces)")
        system.addForce(force)
        return system

    def create_integrator(self) -> Any:
        """An ``openmm.CustomIntegrator`` whose step moves every atom to the next frame.

        Its step size is 1 ps by name only: what a step means is the lag of the training data. For a model
        with memory the integrator keeps the last displacement (``displaced``), which checkpoints of the
        Simulation hold as well.
        """
        import openmm

        integrator = openmm.CustomIntegrator(1.0)
        integrator.addUpdateContextState()
        if self.memory.any():
            integrator.addPerDofVariable("memory", 0)
            integrator.addPerDofVariable("displaced", 0)
            integrator.setPerDofVariableByName("memory", [openmm.Vec3(m, m, m) for m in self.memory])
            integrator.addComputePerDof("displaced", f"f{FORCE_GROUP}+memory*displaced")
            integrator.addComputePerDof("x", "x+displaced")
        else:
            integrator.addComputePerDof("x", f"x+f{FORCE_GROUP}")
        integrator.addComputePerDof("v", "0")
        return integrator

    def create_simulation(self, platform: Any = None, properties: Optional[Dict[str, str]] = None) -> Any:
        """A ready ``openmm.app.Simulation`` at the start positions: add reporters, then ``step(n)``.

        Args:
            platform: ``openmm.Platform``; None lets OpenMM choose.
            properties: platform properties.
        """
        from openmm.app import Simulation

        arguments = [] if platform is None else [platform, properties or {}]
        simulation = Simulation(self.topology, self.create_system(), self.create_integrator(), *arguments)
        simulation.context.setPositions(self.start)
        return simulation


def _nanometers(positions: Any, num_atoms: int) -> np.ndarray:
    from openmm import unit

    values = positions.value_in_unit(unit.nanometer) if unit.is_quantity(positions) else positions
    array = np.array([list(row) for row in values], dtype=np.float64)
    if array.shape != (num_atoms, 3):
        raise ValueError(
            f"positions have shape {array.shape}, ({num_atoms}, 3) is expected, one row per "
            "atom of the topology"
        )
    if not np.isfinite(array).all():
        raise ValueError("positions hold NaN or infinite values; check the structure")
    return array


def _check_selection(topology: Any, selection: str) -> None:
    """Refuses topologies with more than the atoms that the model was trained on."""
    if selection == "full":
        return
    require("mdtraj", f"atoms of the selection {selection!r}")
    import mdtraj

    selected = select_atoms(mdtraj.Topology.from_openmm(topology), selection)
    if len(selected) != topology.getNumAtoms():
        raise ValueError(
            f"atoms: None, for all {topology.getNumAtoms()}, was given, but the model was trained on "
            f"selection: {selection!r}, {len(selected)} of them; give their indices (dkmp_plugin.datasets."
            "trajectory_files.select_atoms), or range(n) if all are meant"
        )


def _check_molecules(positions: np.ndarray, atoms: Sequence[int], bonds: np.ndarray) -> None:
    """Refuses positions (P, 3) in nm at which a molecule of propagated atoms is cut; bonds are (b, 2)."""
    molecules = molecules_of(bonds, len(positions))
    bonds = bonds[np.isin(molecules[bonds[:, 0]], molecules[list(atoms)])]
    if len(bonds) > 0:
        vectors = ANGSTROM_PER_NANOMETER * (positions[bonds[:, 0]] - positions[bonds[:, 1]])
        check_molecules_are_whole("positions", np.linalg.norm(vectors, axis=1)[None], bonds)


def _gather_molecules(positions: np.ndarray, topology: Any, atoms: Sequence[int], bonds: np.ndarray) -> None:
    """Brings molecules of propagated atoms, in place, to images as :func:`load_runs` does; all as above."""
    from openmm import unit

    vectors = topology.getPeriodicBoxVectors()
    if vectors is None:
        return
    box = np.array([list(vector) for vector in vectors.value_in_unit(unit.nanometer)])
    residues = ([atom.index for atom in residue.atoms()] for residue in topology.residues())
    molecules = molecules_of(bonds, len(positions))[list(atoms)]
    together = molecules_and_residues(bonds, residues, len(positions))[list(atoms)]
    frame = ANGSTROM_PER_NANOMETER * positions[list(atoms)]
    gather(frame, ANGSTROM_PER_NANOMETER * box, molecules, together)
    positions[list(atoms)] = frame / ANGSTROM_PER_NANOMETER


def _check_unit(positions: np.ndarray, propagated: np.ndarray, bonds: np.ndarray) -> None:
    """Refuses positions (P, 3) whose bonds (b, 2), or else gaps between propagated atoms, cannot be in nm."""
    if len(bonds) > 0:
        what = "bonds"
        median = float(np.median(np.linalg.norm(positions[bonds[:, 0]] - positions[bonds[:, 1]], axis=1)))
    elif len(propagated) > 1:
        what = "distances between neighbouring atoms"
        median = median_nearest_distance(propagated)
    else:
        return
    if not _PLAUSIBLE_LENGTHS[0] <= median <= _PLAUSIBLE_LENGTHS[1]:
        raise ValueError(
            f"positions: the {what} have a median length of {median:.3g} nm, about 0.1 to 0.15 is expected; "
            "give positions in nm, or as an OpenMM quantity with its unit"
        )
