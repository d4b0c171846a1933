"""What one bespoke potential is made from: the ligand's files and the sizes."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import List, Optional, Tuple

from dkmp_plugin.files import replaced_on_success
from dkmp_plugin.labeling.campaign import SamplingRun, plan_runs
from dkmp_plugin.labeling.molecule import Molecule, read_amber, read_sdf

_SDF_SUFFIXES = (".sdf", ".mol")


@dataclass(frozen=True)
class BespokeSettings:
    """What to make a potential from.

    Attributes:
        ligand: An Amber prmtop, or an SDF file.
        coordinates: Amber coordinates or a PDB file of the prmtop; None: the file beside it.
        residue: The ligand's residue in the prmtop; None where there is only one.
        temperatures: Of the sampling, in kelvin; strained frames of the lowest one are added.
        train_runs: Independent training runs per condition (a temperature, or strained).
        train_frames: Labels per training run.
        val_frames: Labels of the validation run of each condition.
        test_frames: Labels of the held-out run of each condition.
        epochs: Of the training.
        width: ``embedding_dimension`` of the model.
        seed: Of everything random.
    """

    ligand: str
    coordinates: Optional[str] = None
    residue: Optional[str] = None
    temperatures: Tuple[float, ...] = (300.0, 500.0, 800.0)
    train_runs: int = 6
    train_frames: int = 125
    val_frames: int = 50
    test_frames: int = 100
    epochs: int = 16
    width: int = 64
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("train_runs", "train_frames", "val_frames", "test_frames", "epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} was given, at least 1 is expected")
        if not self.temperatures or min(self.temperatures) <= 0:
            raise ValueError(f"temperatures: {self.temperatures} was given, positive numbers are expected")
        if self.from_sdf and (self.residue or self.coordinates):
            raise ValueError("residue and coordinates belong to a prmtop; an SDF file holds one molecule")

    @property
    def from_sdf(self) -> bool:
        """Whether the ligand has no force field."""
        return Path(self.ligand).suffix.lower() in _SDF_SUFFIXES

    def quick(self) -> "BespokeSettings":
        """The same ligand in sizes that only show that every step works: the model is of no use."""
        return replace(
            self,
            temperatures=(300.0,),
            train_runs=1,
            train_frames=16,
            val_frames=4,
            test_frames=4,
            epochs=2,
            width=16,
        )

    def read_molecule(self) -> Molecule:
        """The ligand.

        Raises:
            ValueError: If its files are missing, unreadable or unclear.
        """
        if self.from_sdf:
            return read_sdf(self.ligand, seed=self.seed)
        return read_amber(self.ligand, self.coordinates, self.residue)

    def plan_runs(self) -> List[SamplingRun]:
        """The sampling runs; GFN2-xTB dynamics takes fewer steps between frames than a force field."""
        frames = {
            "train": [self.train_frames] * self.train_runs,
            "val": [self.val_frames],
            "test": [self.test_frames],
        }
        if self.from_sdf:
            return plan_runs(frames, self.temperatures, self.seed, 100, 500)
        return plan_runs(frames, self.temperatures, self.seed)

    def claim(self, folder: Path) -> None:
        """Record the settings in a folder, or make sure that it was made with the same ones.

        Raises:
            ValueError: If the folder was made with other settings.
        """
        record = folder / "settings.json"
        asked = json.loads(json.dumps(asdict(self)))
        if record.is_file():
            found = json.loads(record.read_text())
            changed = [name for name in asked if found.get(name) != asked[name]]
            if changed:
                details = ", ".join(f"{name} {found.get(name)!r}, now {asked[name]!r}" for name in changed)
                raise ValueError(
                    f"{folder} was begun with other settings ({details}); give another --output, or remove it"
                )
            return
        with replaced_on_success(record) as temporary:
            temporary.write_text(json.dumps(asked, indent=1))
