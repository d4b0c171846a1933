"""What all datasets of energies and forces share: items, reference energies, metadata."""

from typing import Any, Callable, Dict, Mapping, NoReturn, Optional, Sequence, Union

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data, Dataset

from dkmp_plugin.datasets.arguments import check_arguments
from dkmp_plugin.datasets.file_selections import SplitIndices
from dkmp_plugin.datasets.label_checks import check_length_unit, check_total_charge
from dkmp_plugin.datasets.labelled_structures import LabelledStructures
from dkmp_plugin.datasets.reference_energies import (
    check_reference_energies,
    least_squares_reference_energies,
)

# A model of more is no longer that of these molecules.
_MOST_COMPOSITIONS = 20
# To tell their unit of length.
_STRUCTURES_LOOKED_AT = 20


class EnergyForces(Dataset):
    """Energies and forces as torchmd-net trains on them.

    Each item is a ``torch_geometric.data.Data`` with ``z`` (N,), ``pos`` (N, 3) in Å, ``y`` (1, 1) energy and
    ``neg_dy`` (N, 3) forces in the data's unit (per Å), where periodic ``box`` (1, 3, 3) in Å, and where the
    file has it ``stress`` (1, 3, 3) in the unit per Å^3 (torchmd-net has no loss for it); all float64.

    ``y`` is relative to per-element reference energies: training happens in float32, whose seven digits
    total energies would use up. Unless they are given, they are fitted by least squares to the training
    structures; torchmd-train fits them anew when it has made its own split.

    Attributes:
        split_indices: Indices of the training, validation and test items if the dataset defines them; then
            torchmd-train uses them in place of its random split, unless ``splits`` is configured.
        metadata: What a checkpoint records: energy_unit, level_of_theory, total_charge, elements,
            reference_energies, compositions (atoms per element of each that occurs, unless they are many).

    Args:
        structures: All structures.
        split_indices: See above; None leaves splitting to torchmd-net.
        level_of_theory: Where the labels come from.
        total_charge: Of every structure, in elementary charges; None for what the structures declare.
        reference_energies: Atomic number -> energy; an empty one for total energies; None for a fit.
        transform: Applied to each item.

    Raises:
        ValueError: reference energies that lack an element, a charge other than the structures', or positions
            that cannot be in Å.
    """

    def __new__(cls, *positional: Any, **arguments: Any) -> "EnergyForces":
        check_arguments(cls, positional, arguments)
        return super().__new__(cls)

    def __init__(
        self,
        structures: LabelledStructures,
        split_indices: Optional[SplitIndices] = None,
        level_of_theory: str = "",
        total_charge: Optional[int] = None,
        reference_energies: Optional[Mapping[int, float]] = None,
        transform: Optional[Callable] = None,
    ) -> None:
        super().__init__(None, transform)
        self.structures = structures
        self.split_indices = split_indices
        self._composition = structures.composition()
        self._first_atoms = np.concatenate([[0], np.cumsum(structures.atom_counts)])
        self._numbers = torch.from_numpy(np.ascontiguousarray(structures.atomic_numbers)).long()
        self.metadata: Dict[str, Any] = {
            "energy_unit": structures.energy_unit,
            "level_of_theory": level_of_theory,
            "total_charge": _agreed_charge(total_charge, structures.total_charge),
            "elements": structures.elements,
        }
        some = np.unique(np.linspace(0, len(structures) - 1, _STRUCTURES_LOOKED_AT).astype(int))
        atoms = [slice(*self._first_atoms[index : index + 2]) for index in some]
        check_length_unit(
            [structures.positions[one] for one in atoms], [structures.atomic_numbers[one] for one in atoms]
        )
        compositions = structures.distinct_compositions()
        if len(compositions) <= _MOST_COMPOSITIONS:
            self.metadata["compositions"] = compositions
        self._fits = reference_energies is None
        if reference_energies is None:
            self.fit_reference_energies(None if split_indices is None else split_indices[0])
        elif reference_energies == {}:
            self._set_references({})
        else:
            self._set_references(check_reference_energies(structures.elements, reference_energies))

    def fit_reference_energies(self, training: Union[Sequence[int], np.ndarray, None] = None) -> None:
        """Fits the reference energies to the items ``training`` (None: all), unless they were given."""
        if not self._fits:
            return
        chosen = slice(None) if training is None else np.asarray(training)
        composition, energies = self._composition[chosen], self.structures.energies[chosen]
        occurs = composition.any(axis=0)
        if not occurs.all():
            missing = np.array(self.structures.elements)[~occurs].tolist()
            raise ValueError(
                f"the elements {missing} occur in no training structure; give their reference_energies or "
                "split otherwise"
            )
        self._set_references(
            least_squares_reference_energies(self.structures.elements, composition, energies)
        )

    def _set_references(self, references: Dict[int, float]) -> None:
        self.metadata["reference_energies"] = references
        per_element = np.array([references.get(element, 0.0) for element in self.structures.elements])
        self._reference_energies = self._composition @ per_element

    def total_energy(self, y: Tensor, idx: int = 0) -> Tensor:
        """Turns relative energies ``y`` of item ``idx`` back into total energies (float64, same unit).

        Where all structures have the same composition, as in a trajectory, ``idx`` does not matter.
        """
        return y.double() + float(self._reference_energies[idx])

    def get_atomref(self, *_: Any) -> NoReturn:
        """What torchmd-net's prior ``Atomref`` asks a dataset for.

        Raises:
            ValueError: always, because training would subtract the energies of the atoms twice.
        """
        raise ValueError(
            f"prior_model: Atomref and remove_ref_energy: true were asked for, but {type(self).__name__} "
            "subtracts energies of the atoms already (reference_energies) and the checkpoint records them; "
            "remove prior_model and remove_ref_energy from the configuration"
        )

    def len(self) -> int:
        return len(self.structures)

    def get(self, idx: int) -> Data:
        atoms = slice(int(self._first_atoms[idx]), int(self._first_atoms[idx + 1]))
        energy = float(self.structures.energies[idx]) - self._reference_energies[idx]
        item = Data(
            z=self._numbers[atoms],
            pos=_double(self.structures.positions[atoms]),
            y=torch.tensor([[energy]], dtype=torch.float64),
            neg_dy=_double(self.structures.forces[atoms]),
        )
        if self.structures.boxes is not None:
            item.box = _double(self.structures.boxes[idx]).unsqueeze(0)
        if self.structures.stresses is not None:
            item.stress = _double(self.structures.stresses[idx]).unsqueeze(0)
        return item


def _agreed_charge(given: Optional[int], declared: Optional[int]) -> Optional[int]:
    if given is None:
        return declared
    charge = check_total_charge(given)
    if declared is not None and declared != charge:
        raise ValueError(
            f"total_charge: {charge} was given, but the files declare {declared}; remove total_charge from "
            "dataset_arg or correct it"
        )
    return charge


def _double(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float64))
