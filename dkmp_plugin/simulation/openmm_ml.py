"""What openmm-ml runs behind ``MLPotential("dkmp")``; import it from ``dkmp_plugin.simulation.potential``.

openmm-ml imports every registered potential when it is imported itself, so this module stays light.
"""

from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional, Set, Tuple

from openmmml.mlpotential import MLPotentialImpl, MLPotentialImplFactory

from dkmp_plugin.simulation.bundled_model import BUNDLED_MODEL
from dkmp_plugin.simulation.force_options import ForceOptions

_BACKENDS = ("auto", "torchforce", "pythonforce")
# What openmm-ml has used itself when it passes all arguments on: from 1.8 on, places of the hydrogens that it
# caps cut bonds with.
_USED_BY_OPENMM_ML = ("linkAtomDistances",) if hasattr(MLPotentialImpl, "getSupportedEmbeddings") else ()

# As warnings' stacklevel: _checked_atoms, addForces, openmm-ml, then whoever calls createSystem or
# createMixedSystem.
_FROM_CHECKS_TO_USER = 4


class DKMPPotentialImplFactory(MLPotentialImplFactory):
    """Creates :class:`DKMPPotentialImpl` for ``MLPotential("dkmp", modelPath=None, ...)``."""

    def createImpl(
        self,
        name: str,
        modelPath: Optional[str] = None,
        backend: str = "auto",
        staticShapes: Optional[bool] = None,
        skin: float = 0.0,
        useCUDAGraphs: bool = False,
        **args: Any,
    ) -> MLPotentialImpl:
        """Create the implementation.

        Args:
            name: ``dkmp``.
            modelPath: A model exported with ``dkmp export`` (``.pt``) or a training checkpoint
                (``.ckpt``); without it a small bundled model of p-xylene.
            backend: ``torchforce``, ``pythonforce``, or ``auto``, which picks the one that works on the
                installed stack (TorchForce where it can run).
            staticShapes: Whether all tensors have fixed shapes, as CUDA graphs need; only for molecules
                that do not meet their periodic images, and models trained without ``box_vecs``. None: for
                such molecules of up to ``force_options.MAX_STATIC_ATOMS`` atoms where there is no skin.
            skin: Neighbours are searched up to this many Å beyond the cutoff and used again until an atom
                has moved by half of it, seen from the first; 0 searches at every step. The forces are the
                same.
            useCUDAGraphs: openmm-torch's property of this name: on a GPU (TorchForce: the CUDA platform;
                PythonForce: the ``device`` of ``createSystem``) the model is captured in a CUDA graph, and
                small molecules are computed many times faster. Fixes the shapes.
            **args: Refused.

        Raises:
            ValueError: If an argument is unknown or impossible.
        """
        if "device" in args:
            raise ValueError(
                "MLPotential: device was given, but as in openmm-ml's own potentials it is an argument of "
                "createSystem and createMixedSystem; give it there"
            )
        _refuse_unknown(args, "MLPotential", "modelPath, backend, staticShapes, skin, useCUDAGraphs")
        if backend not in _BACKENDS:
            raise ValueError(f"backend: {backend!r} was given, one of {', '.join(_BACKENDS)} is expected")
        return DKMPPotentialImpl(name, modelPath, backend, ForceOptions(staticShapes, skin, useCUDAGraphs))


class DKMPPotentialImpl(MLPotentialImpl):
    """Adds the force of a DKMP^C model to a System.

    Args:
        name: ``dkmp``.
        model_path: Exported model or checkpoint, None for the bundled one.
        backend: ``auto``, ``torchforce`` or ``pythonforce``.
        options: How the force is computed.
    """

    def __init__(
        self,
        name: str,
        model_path: Optional[str],
        backend: str = "auto",
        options: ForceOptions = ForceOptions(),  # noqa: B008  (immutable)
    ) -> None:
        self.name = name
        self.options = options
        self.backend = backend
        self.model_path = BUNDLED_MODEL if model_path is None else Path(model_path)

    def addForces(
        self,
        topology: Any,
        system: Any,
        atoms: Optional[Iterable[int]],
        forceGroup: int,
        charge: Optional[int] = None,
        device: Any = None,
        **args: Any,
    ) -> None:
        """Add the force for the given atoms (called by openmm-ml).

        Args:
            topology: ``openmm.app.Topology`` of the whole system.
            system: ``openmm.System`` the force is added to. If it has forces already (a mixed System), it
                says whether the model is periodic and in which box; otherwise the topology does. With
                ``interpolate=True`` openmm-ml passes an empty System.
            atoms: Indices of the atoms to model, in any order; None for all.
            forceGroup: Force group of the new force.
            charge: Total charge of the modelled atoms; must be the one the model was trained on. Without it
                the charges of a mixed System's force field are compared, which ``interpolate=True`` hides.
            device: Where PythonForce computes, ``cpu``, ``cuda``, ``cuda:N`` or a ``torch.device``; None for
                a GPU where there is one. TorchForce computes where OpenMM's platform does.
            **args: Refused, except what openmm-ml has used itself.

        Raises:
            ValueError: If the atoms, their elements, the charge or the box do not fit the model, the topology
                and the System do not fit together, or the device is not there or given to TorchForce.
            RuntimeError: If the backend cannot work on the installed stack.
        """
        unknown = {name: value for name, value in args.items() if name not in _USED_BY_OPENMM_ML}
        _refuse_unknown(unknown, "createSystem and createMixedSystem", "charge, device")
        from dkmp_plugin.simulation.stack import prepare_backend

        backend = prepare_backend(self.backend)
        if device is not None and backend == "torchforce":
            raise ValueError(
                f"device: '{device}' was given, but TorchForce computes where OpenMM's platform does, on the "
                "GPU on the CUDA platform and else on the CPU: the platform decides; leave it out (it is for "
                "backend='pythonforce')"
            )
        import torch

        from dkmp_plugin.simulation.model_source import load_model
        from dkmp_plugin.simulation.periodic_box import refuse_placeholder

        model, info = load_model(self.model_path)
        indices, atomic_numbers = _checked_atoms(topology, system, atoms, charge, info, self.model_path)
        source, box = _periodic_box(topology, system, indices is not None)
        periodic = box is not None
        if periodic and indices is not None:
            _check_box(box, source, info)
        elif periodic:
            refuse_placeholder(_in_angstrom(box), "topology.setPeriodicBoxVectors(None) leaves it out")
        model = self.options.prepare(
            model, info, len(atomic_numbers), periodic and indices is None, self.model_path.name
        )
        numbers = torch.tensor(atomic_numbers, dtype=torch.long)
        if backend == "torchforce":
            force = _torch_force(model, info, numbers, indices, self.options.cuda_graphs)
        else:
            force = _python_force(model, info, numbers, indices, periodic, device, self.options.cuda_graphs)
        force.setUsesPeriodicBoundaryConditions(periodic)
        force.setForceGroup(forceGroup)
        force.setName("DKMP")
        # An interpolated System keeps the force field's bonds, and openmm-ml passes an empty one.
        keeps_bonds = indices is not None and not system.getNumForces()
        system.addForce(force)
        if periodic and not keeps_bonds:
            _add_molecules(topology, system, indices, forceGroup)

    def getMLLongRange(self) -> bool:
        """DKMP^C includes no separate long-range term (asked for by openmm-ml >= 1.8)."""
        return False


def _torch_force(model: Any, info: Any, numbers: Any, indices: Optional[List[int]], cuda_graphs: bool) -> Any:
    import openmmtorch
    import torch

    from dkmp_plugin.simulation.force_module import OpenMMEnergy, scripted

    # TorchForce passes all particles: the module picks its own.
    atoms = None if indices is None else torch.tensor(indices, dtype=torch.long)
    force = openmmtorch.TorchForce(scripted(OpenMMEnergy(model, info, numbers, atoms)))
    if cuda_graphs:
        force.setProperty("useCUDAGraphs", "true")
    return force


def _python_force(
    model: Any,
    info: Any,
    numbers: Any,
    indices: Optional[List[int]],
    periodic: bool,
    device: Any,
    cuda_graphs: bool,
) -> Any:
    import openmm

    from dkmp_plugin.simulation.force_module import OpenMMEnergy, scripted
    from dkmp_plugin.simulation.python_force import PythonForceComputation

    module = scripted(OpenMMEnergy(model, info, numbers, None))
    force = openmm.PythonForce(PythonForceComputation(module, periodic, device, cuda_graphs))
    if indices is not None:
        force.setParticles(indices)
    return force


def _add_molecules(topology: Any, system: Any, indices: Optional[List[int]], force_group: int) -> None:
    """Tell OpenMM which modelled atoms are one molecule, by bonds without energy.

    openmm-ml removes the force field's bonds, and a model has none: every atom would be a molecule of its
    own, which is wrapped into the box, and moved by a barostat, without its neighbours.
    """
    import openmm

    modelled = set(range(system.getNumParticles()) if indices is None else indices)
    pairs = [(first.index, second.index) for first, second in topology.bonds()]
    pairs = [(first, second) for first, second in pairs if first in modelled and second in modelled]
    if not pairs:
        return
    molecules = openmm.HarmonicBondForce()
    for first, second in pairs:
        molecules.addBond(first, second, 0.0, 0.0)
    molecules.setName("DKMP molecules")
    molecules.setUsesPeriodicBoundaryConditions(True)
    molecules.setForceGroup(force_group)
    system.addForce(molecules)


def _refuse_unknown(args: Dict[str, Any], where: str, known: str) -> None:
    if args:
        raise ValueError(
            f"{where}: unknown argument {', '.join(sorted(args))}; the potential 'dkmp' takes {known}"
        )


def _checked_atoms(
    topology: Any, system: Any, atoms: Optional[Iterable[int]], charge: Any, info: Any, path: Path
) -> Tuple[Optional[List[int]], List[int]]:
    """Indices of the atoms to model, None for all, and their elements; all as of ``addForces``.

    Raises:
        ValueError: the model of the file ``path`` does not know them or their charge, or a model can not move
            them.
    """
    from dkmp_plugin.models.elements import check_elements, warn_of_other_composition
    from dkmp_plugin.simulation.modelled_atoms import modelled_atoms, warn_of_free_valences
    from dkmp_plugin.simulation.total_charge import check_charge, check_force_field_charge

    indices, atomic_numbers = modelled_atoms(topology, atoms)
    _check_number_of_atoms(topology, system)
    _check_virtual_sites(system, indices)
    if indices is not None:
        warn_of_free_valences(topology, indices, _FROM_CHECKS_TO_USER)
    check_elements(atomic_numbers, info.elements, path.name)
    warn_of_other_composition(atomic_numbers, info.compositions, path.name, _FROM_CHECKS_TO_USER)
    check_charge(charge, info, path)
    if indices is not None and charge is None and info.total_charge is not None:
        check_force_field_charge(system, indices, info, path)
    return indices, atomic_numbers


def _check_number_of_atoms(topology: Any, system: Any) -> None:
    """Atoms are told by their index, and a topology without the System's extra particles has others.

    The empty System that openmm-ml passes with ``interpolate=True`` has none to compare.
    """
    num_atoms, num_particles = topology.getNumAtoms(), system.getNumParticles()
    if num_particles not in (0, num_atoms):
        raise ValueError(
            f"the topology has {num_atoms} atoms, the System {num_particles} particles, the same number is "
            "expected; give the topology that the System was made from (of Modeller.addExtraParticles, where "
            "there are any)"
        )


def _is_link_atom(site: Any, modelled: Set[int]) -> bool:
    """Whether openmm-ml (1.8 and later) has put a virtual site on a bond of a modelled atom, to cap it."""
    import openmm

    if not isinstance(site, openmm.LocalCoordinatesSite) or site.getNumParticles() != 2:
        return False
    return [site.getParticle(index) in modelled for index in range(2)] == [True, False]


def _check_virtual_sites(system: Any, indices: Optional[List[int]]) -> None:
    modelled = set(range(system.getNumParticles()) if indices is None else indices)
    for index in sorted(modelled):
        if system.isVirtualSite(index) and not _is_link_atom(system.getVirtualSite(index), modelled):
            raise ValueError(
                f"particle {index} is a virtual site: its place follows from others', a model cannot move "
                "it; leave it to the force field"
            )


def _periodic_box(topology: Any, system: Any, is_subset: bool) -> Tuple[str, Any]:
    """Whose box it is, and its vectors; None where there are no periodic boundaries.

    The topology's box says nothing about a System made without periodic boundaries, and a periodic System may
    have another. But a System without forces has not been told: the topology speaks for it.
    """
    if is_subset and system.getNumForces():
        periodic = system.usesPeriodicBoundaryConditions()
        return "System's default", system.getDefaultPeriodicBoxVectors() if periodic else None
    box = topology.getPeriodicBoxVectors()
    if box is None and system.usesPeriodicBoundaryConditions():
        box = system.getDefaultPeriodicBoxVectors()
    return "topology's", box


def _in_angstrom(box: Any) -> Any:
    import numpy as np
    from openmm import unit

    return np.array([[component.value_in_unit(unit.angstrom) for component in row] for row in box])


def _check_box(box: Any, source: str, info: Any) -> None:
    """A small molecule alone in the ML region must not meet its own periodic image: no training data has it.

    Positions are not known yet: of a region longer than the cutoff the box must be wider than its length and
    the cutoff together, which the user has to see to.
    """
    from dkmp_plugin.simulation.periodic_box import box_width

    width = box_width(_in_angstrom(box))
    if width < 2 * info.cutoff:
        raise ValueError(
            f"the {source} periodic box is {width:.1f} Å wide, at least twice the model's cutoff = "
            f"{2 * info.cutoff:.1f} Å is expected for a molecule in a mixed system; use a larger box, or "
            "none: NoCutoff and topology.setPeriodicBoxVectors(None)"
        )
