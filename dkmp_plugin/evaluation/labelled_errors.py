"""Errors of a potential on labelled structures: any molecules and crystals, in whatever file they are."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, List, Optional, Tuple, Union

import numpy as np
from tqdm import tqdm

from dkmp_plugin.datasets.labelled_structures import LabelledStructures
from dkmp_plugin.evaluation.metrics import Errors, errors_of
from dkmp_plugin.files import replaced_on_success
from dkmp_plugin.optional import require
from dkmp_plugin.units import energy_factor

_QUANTITY = "{:24s}{:>12s}{:>12s}{:>12s}"


@dataclass(frozen=True)
class LabelledErrors:
    """Errors on M structures, in the unit of the labels.

    Attributes:
        energy_unit: Unit of the labels; forces are in it per Å, stresses per Å^3.
        structures: M.
        atoms: Of all structures together.
        energy: Of the total energies.
        energy_per_atom: The same, divided by the atoms of each structure.
        force: Of the components of the forces.
        stress: Of the components of the stresses, where the file has them.
    """

    energy_unit: str
    structures: int
    atoms: int
    energy: Errors
    energy_per_atom: Errors
    force: Errors
    stress: Optional[Errors]

    def table(self) -> str:
        """Lines for a terminal."""
        unit = self.energy_unit
        rows = [
            (f"energy, {unit}", self.energy),
            (f"energy, {unit}/atom", self.energy_per_atom),
            (f"force, {unit}/Å", self.force),
            (f"stress, {unit}/Å^3", self.stress),
        ]
        lines = [
            f"{self.structures} structures, {self.atoms} atoms",
            _QUANTITY.format("", "MAE", "RMSE", "mean error"),
        ]
        for name, errors in rows:
            if errors is not None:
                numbers = (errors.mae, errors.rmse, errors.mean)
                lines.append(_QUANTITY.format(name, *(f"{number:.4g}" for number in numbers)))
        return "\n".join(lines)


def evaluate_labelled(
    model: Union[str, Path], structures: LabelledStructures, device: Optional[str] = None
) -> LabelledErrors:
    """Compares a potential with labels.

    Energies are compared as total ones: those of the model and the reference energies that it records. Labels
    of another method may differ by a constant for every element, which the mean error shows.

    Args:
        model: A model file (``.pt``) or a checkpoint (``.ckpt``) of DKMP^C.
        structures: The labels.
        device: As of :class:`dkmp_plugin.simulation.DKMPCalculator`.

    Raises:
        ValueError: elements or a total charge that the model was not trained on, predictions that are not
            finite, or what :class:`dkmp_plugin.simulation.DKMPCalculator` raises.
        MissingPackageError: ASE is not installed.
    """
    require("ase", "evaluating potentials")
    from dkmp_plugin.simulation.ase_calculator import DKMPCalculator

    calculator = DKMPCalculator(model, device=device, charge=structures.total_charge)
    energies, forces, stresses = _predicted(calculator, structures)
    unit = structures.energy_unit
    references = {int(number): energy for number, energy in calculator.info.reference_energies.items()}
    per_element = np.array([references.get(element, 0.0) for element in structures.elements])
    reference = energy_factor(calculator.info.energy_unit, unit) * structures.composition() @ per_element
    energies, counts = energies + reference, structures.atom_counts
    return LabelledErrors(
        energy_unit=unit,
        structures=len(structures),
        atoms=len(structures.positions),
        energy=errors_of("energies", energies, structures.energies),
        energy_per_atom=errors_of("energies", energies / counts, structures.energies / counts),
        force=errors_of("forces", forces, structures.forces),
        stress=(
            None if structures.stresses is None else errors_of("stresses", stresses, structures.stresses)
        ),
    )


def write_errors(errors: LabelledErrors, path: Union[str, Path]) -> None:
    """Writes the numbers as JSON."""
    with replaced_on_success(Path(path)) as temporary:
        temporary.write_text(json.dumps(asdict(errors), indent=1) + "\n")


def _predicted(calculator: Any, structures: LabelledStructures) -> Tuple[np.ndarray, ...]:
    """Energies (M,), forces (A, 3) and stresses (M, 3, 3), or zeros, in the labels' unit."""
    from ase import Atoms

    per_electronvolt = energy_factor("eV", structures.energy_unit)
    ends = np.cumsum(structures.atom_counts)
    energies: List[float] = []
    forces = np.empty_like(structures.forces, dtype=np.float64)
    stresses = np.zeros((len(structures), 3, 3))
    for index, end in enumerate(tqdm(ends, desc="predicting", unit="structure", leave=False)):
        members = slice(int(end - structures.atom_counts[index]), int(end))
        atoms = Atoms(structures.atomic_numbers[members], structures.positions[members])
        if structures.boxes is not None:
            atoms.set_cell(structures.boxes[index])
            atoms.pbc = True
        atoms.calc = calculator
        energies.append(per_electronvolt * atoms.get_potential_energy())
        forces[members] = per_electronvolt * atoms.get_forces()
        if structures.stresses is not None:
            stresses[index] = per_electronvolt * atoms.get_stress(voigt=False)
    return np.array(energies), forces, stresses
