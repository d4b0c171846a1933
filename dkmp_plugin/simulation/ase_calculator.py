"""DKMP^C models as a calculator of ASE."""

from pathlib import Path
from typing import Any, Dict, List, Optional, Union

import numpy as np
import torch
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from dkmp_plugin.device import available_device, resolve_device
from dkmp_plugin.models.elements import check_elements, warn_of_other_composition
from dkmp_plugin.simulation import torchscript
from dkmp_plugin.simulation.force_options import ForceOptions
from dkmp_plugin.simulation.model_source import load_model
from dkmp_plugin.simulation.neighbor_reuse import ReusingModel
from dkmp_plugin.simulation.periodic_box import refuse_placeholder
from dkmp_plugin.simulation.precision import torch_dtype
from dkmp_plugin.simulation.total_charge import check_charge, check_charge_of_atoms
from dkmp_plugin.units import energy_factor

# Arguments of ASE's Calculator. Whatever else it is given it keeps as a parameter, without a word.
_ASE_ARGUMENTS = ("restart", "label", "atoms", "directory")


class DKMPCalculator(Calculator):
    """Energy (eV), forces (eV/Å) and, for periodic systems, stress (eV/Å^3) of a DKMP^C model.

    The energy is relative to the reference energies recorded in the model file (``dkmp info``). Atoms are
    periodic in all three directions or in none. The calculator can be copied and pickled, for worker
    processes, and travels with its model.

    Args:
        model_path: A model exported with ``dkmp export`` (``.pt``) or a training checkpoint (``.ckpt``).
        skin: Neighbours are searched up to this many Å beyond the cutoff and used again until an atom has
            moved by half of it, seen from the first; 0 searches at every step. The results are the same. The
            search is a few per cent of a step, so that this saves next to nothing (166 atoms: no difference
            measured).
        device: ``cpu``, ``cuda`` or ``cuda:N``; None for a GPU where there is one.
        charge: Total charge of the atoms; must be the one the model was trained at. Without it
            ``atoms.info["charge"]`` counts, or the atoms' initial charges, where they say anything.
        **kwargs: Passed to ASE's ``Calculator``: restart, label, atoms, directory.

    Raises:
        ValueError: If the file is not a readable DKMP^C model, the skin is impossible, the device is not
            there, the charge is not the model's, or an argument is unknown.
    """

    implemented_properties: List[str] = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012

    def __init__(
        self,
        model_path: Union[str, Path],
        skin: float = 0.0,
        device: Optional[str] = None,
        charge: Optional[int] = None,
        **kwargs: Any,
    ) -> None:
        unknown = sorted(set(kwargs) - set(_ASE_ARGUMENTS))
        if unknown:
            raise ValueError(
                f"DKMPCalculator: unknown argument {', '.join(unknown)}; it takes model_path, skin, device, "
                f"charge and ASE's {', '.join(_ASE_ARGUMENTS)}"
            )
        super().__init__(**kwargs)
        chosen = resolve_device(device)
        self.model_path = Path(model_path)
        model, self.info = load_model(self.model_path)
        check_charge(charge, self.info, self.model_path)
        self.charge = charge
        skin = ForceOptions(skin=skin).skin
        if skin > 0.0:
            model = torchscript.script(ReusingModel(model, self.info, skin).eval())
        self._saved, self._asked = torchscript.to_bytes(model), device
        self._start(model, chosen)

    def _start(self, model: torch.jit.ScriptModule, device: torch.device) -> None:
        self.device = device
        # Freezing computes once what depends on the weights alone, the radial filters of every layer, and
        # binds all to the device: the module must be there before.
        self.model = torchscript.freeze(model.to(device))
        self._dtype = torch_dtype(self.info.dtype)
        self._electronvolt = energy_factor(self.info.energy_unit, "eV")

    def __getstate__(self) -> Dict[str, Any]:
        state = self.__dict__.copy()
        del state["model"], state["device"]
        return state

    def __setstate__(self, state: Dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start(torchscript.from_bytes(self._saved), available_device(self._asked))

    def set(self, **kwargs: Any) -> Dict[str, Any]:
        """Refuse whatever is set after the calculator was made: ASE would keep it, and nothing would change.

        Raises:
            ValueError: If anything is given.
        """
        if kwargs:
            raise ValueError(
                f"DKMPCalculator.set: {', '.join(sorted(kwargs))} was given, but nothing of it can be "
                "changed; make another calculator"
            )
        return super().set()

    def check_state(self, atoms: Any, tol: float = 1e-15) -> List[str]:
        """What has changed since the last call (called by ASE before it returns what it knows already).

        ASE does not compare ``atoms.info``: the charge is checked here, too.
        """
        self._check_charge(atoms)
        return super().check_state(atoms, tol)

    def _check_charge(self, atoms: Any) -> None:
        if self.charge is None:
            check_charge_of_atoms(atoms, self.info, self.model_path)

    def calculate(
        self,
        atoms: Any = None,
        properties: Optional[List[str]] = None,
        system_changes: List[str] = all_changes,
    ) -> None:
        """Compute what was asked for (called by ASE).

        Args:
            atoms: ``ase.Atoms``.
            properties: Names of the wanted properties.
            system_changes: What changed since the last call.

        Raises:
            ValueError: If the atoms do not fit the model, hold NaN positions, or are periodic without a cell.
        """
        super().calculate(atoms, properties, system_changes)
        atoms = self.atoms
        # Who calls this directly must not see the stress of a crystal computed before.
        self.results = {}
        numbers = atoms.numbers.tolist()
        check_elements(numbers, self.info.elements, self.model_path.name)
        if "numbers" in system_changes:
            warn_of_other_composition(numbers, self.info.compositions, self.model_path.name)
        self._check_charge(atoms)
        if len(set(atoms.pbc)) > 1:
            raise ValueError(f"pbc: {atoms.pbc} was given, periodic in all directions or in none is expected")
        if atoms.pbc.any() and np.isclose(atoms.cell.volume, 0.0):
            raise ValueError(
                f"cell: {atoms.cell.tolist()} was given with pbc, three vectors that span a volume are "
                "expected; set the cell, or pbc=False"
            )
        if atoms.pbc.any():
            refuse_placeholder(atoms.cell.array, "atoms.pbc = False leaves it out")
        if not np.isfinite(atoms.positions).all():
            raise ValueError("positions hold NaN or infinity; the dynamics or the input file is broken")
        # Forces are derivatives, also for a caller who wants none.
        with torch.inference_mode(False), torch.enable_grad():
            self._evaluate(atoms)

    def _evaluate(self, atoms: Any) -> None:
        numbers = torch.from_numpy(atoms.numbers).long().to(self.device)
        there: Any = {"dtype": self._dtype, "device": self.device}
        # From the first atom on: in single precision places far from the origin would be rounded.
        places = atoms.positions - atoms.positions[:1]
        positions = torch.tensor(places, **there, requires_grad=True)
        if not atoms.pbc.any():
            energy = self.model(numbers, positions, None)
            (gradient,) = torch.autograd.grad(energy, positions)
        else:
            # Derivative with respect to a strain of box and positions together: the virial.
            strain = torch.zeros(3, 3, **there, requires_grad=True)
            deformation = torch.eye(3, **there) + (strain + strain.T) / 2
            box = torch.tensor(atoms.cell.array, **there) @ deformation
            energy = self.model(numbers, positions @ deformation, box)
            gradient, virial = torch.autograd.grad(energy, (positions, strain))
            stress = virial.double().cpu().numpy() * self._electronvolt / atoms.get_volume()
            self.results["stress"] = full_3x3_to_voigt_6_stress(stress)
        self.results["energy"] = energy.item() * self._electronvolt
        self.results["free_energy"] = self.results["energy"]
        self.results["forces"] = -gradient.double().cpu().numpy() * self._electronvolt
