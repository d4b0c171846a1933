"""torchmd-net dataset over a label file: ``dataset: DKMPHDF5``."""

from typing import Any, Optional

from dkmp_plugin.datasets.energy_forces import EnergyForces, SplitIndices
from dkmp_plugin.datasets.label_file import (
    SPLITS,
    LabelledConformations,
    read_label_file,
    split_indices,
)
from dkmp_plugin.datasets.labelled_structures import structures_of_one_molecule


class DKMPHDF5(EnergyForces):
    """Energies and forces of one label file (see ``dkmp_plugin.datasets.label_file``).

    Items as in :class:`EnergyForces`; ``y`` is relative to the file's per-element reference energies, or the
    total energy where it has none. Where every run has its split and no split is empty, training uses them,
    unless the configuration names ``splits``.

    Args:
        root: the label file (torchmd-train's ``dataset_root``).
        transform: applied to each item.

    Raises:
        ValueError: the file is missing, foreign, corrupt, or inconsistent.
    """

    def __init__(self, root: str, transform: Optional[Any] = None) -> None:
        labels = read_label_file(root)
        structures = structures_of_one_molecule(
            labels.atomic_numbers,
            labels.positions,
            labels.energies,
            labels.forces,
            labels.energy_unit,
            labels.boxes,
        )
        super().__init__(
            structures,
            _splits_of_runs(labels),
            level_of_theory=labels.level_of_theory,
            total_charge=labels.total_charge,
            reference_energies=labels.reference_energies,
            transform=transform,
        )


def _splits_of_runs(labels: LabelledConformations) -> Optional[SplitIndices]:
    split_of_run = {entry["index"]: entry["split"] for entry in labels.sampling.get("runs", [])}
    if {split_of_run.get(run) for run in labels.run.tolist()} != set(SPLITS):
        return None
    indices = split_indices(labels)
    return indices["train"], indices["val"], indices["test"]
