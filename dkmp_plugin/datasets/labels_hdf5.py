"""torchmd-net dataset over a label file: ``dataset: DKMPHDF5``."""

from typing import Any, Optional, Tuple

from dkmp_plugin.datasets.energy_forces import EnergyForces
from dkmp_plugin.datasets.file_selections import SplitIndices
from dkmp_plugin.datasets.label_file import (
    LabelledConformations,
    read_label_file,
    split_indices,
    structures_of,
)


class DKMPHDF5(EnergyForces):
    """Energies and forces of one label file (see ``dkmp_plugin.datasets.label_file``).

    Items as in :class:`EnergyForces`; ``y`` is relative to the file's per-element reference energies, or the
    total energy where it has none. Training splits as the file's runs say, unless the configuration names
    ``splits``; a file that lists no runs is split at random.

    Attributes:
        split_problem: Why the file's runs give no split, where they name one in part; training without
            ``splits`` raises it.

    Args:
        root: the label file (torchmd-train's ``dataset_root``).
        transform: applied to each item.

    Raises:
        ValueError: the file is missing, foreign, corrupt, or inconsistent.
    """

    def __init__(self, root: str, transform: Optional[Any] = None) -> None:
        labels = read_label_file(root)
        split, problem = _split_of_runs(labels)
        self.split_problem = None if problem is None else f"{root}: {problem}"
        super().__init__(
            structures_of(labels),
            split,
            level_of_theory=labels.level_of_theory,
            reference_energies=labels.reference_energies,
            transform=transform,
        )


def _split_of_runs(labels: LabelledConformations) -> Tuple[Optional[SplitIndices], Optional[str]]:
    """The split, and what keeps the runs from giving one; neither where the file lists no runs."""
    if not labels.sampling.get("runs"):
        return None, None
    try:
        indices = split_indices(labels)
    except ValueError as error:
        return None, str(error)
    return (indices["train"], indices["val"], indices["test"]), None
