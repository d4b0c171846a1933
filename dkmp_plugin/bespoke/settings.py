"""What one bespoke potential is made from: the ligand's files and the sizes."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from dkmp_plugin.bespoke.training import width_divisor
from dkmp_plugin.files import replaced_on_success, sha256_of
from dkmp_plugin.labeling.amber import check_prmtop, coordinates_beside, read_amber
from dkmp_plugin.labeling.campaign import SamplingRun, check_temperatures, plan_runs
from dkmp_plugin.labeling.molecule import Molecule
from dkmp_plugin.labeling.sdf import read_sdf
from dkmp_plugin.seeds import check_seed

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
        width: ``embedding_dimension`` of the model; a multiple of its number of heads.
        seed: Of everything random; not negative.

    Raises:
        ValueError: If a size is impossible.
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
        divisor = width_divisor()
        if self.width < 1 or self.width % divisor:
            raise ValueError(
                f"width: {self.width} was given, a positive multiple of {divisor}, the number of heads, is "
                "expected"
            )
        check_seed(self.seed)
        check_temperatures(self.temperatures)
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

        Input files are told apart by their content: they may be moved. Settings of the training may change
        until it has begun, those of the sampling until the labels are finished.

        Raises:
            ValueError: If the folder was made with other settings, or it is not known with which, or the
                input cannot be used.
        """
        record = folder / "settings.json"
        asked = json.loads(json.dumps(asdict(self)))
        files = self._input_files()
        asked[_CONTENT] = {name: sha256_of(path) for name, path in files.items()}
        if not record.is_file():
            foreign = [name for name in _LABELLED + _TRAINED if (folder / name).exists()]
            if foreign:
                raise ValueError(
                    f"{folder} holds {', '.join(foreign)}, but no {record.name} that tells what of: they "
                    "would be taken for this molecule's; give another --output"
                )
            # A mistyped command must not claim the folder.
            self.read_molecule()
            _write_record(record, asked)
            return
        found = json.loads(record.read_text())
        changed = [name for name in asked if name != _CONTENT and found.get(name) != asked[name]]
        # Earlier versions recorded the paths only.
        if _CONTENT in found:
            changed = [name for name in changed if name not in ("ligand", "coordinates")]
        details = [f"{name} {found.get(name)!r}, now {asked[name]!r}" for name in changed]
        for name, digest in found.get(_CONTENT, asked[_CONTENT]).items():
            if asked[_CONTENT].get(name) != digest:
                details.insert(0, f"the content of {files.get(name, name)}")
        if not details:
            return
        remedy = "give another --output, or remove it"
        if len(details) == len(changed) and set(changed) <= _SAMPLING | _TRAINING_ALONE:
            sampled = set(changed) & _SAMPLING
            made = [name for name in (_LABELLED if sampled else ()) + _TRAINED if (folder / name).exists()]
            if not made:
                _write_record(record, {**found, **{name: asked[name] for name in changed}})
                return
            remedy += f"; or remove {', '.join(made)} in it to "
            remedy += "sample and train anew" if sampled else "train anew with its labels"
        raise ValueError(f"{folder} was begun with other settings ({', '.join(details)}); {remedy}")

    def _input_files(self) -> Dict[str, Path]:
        files = {"ligand": Path(self.ligand)}
        if self.from_sdf:
            if not files["ligand"].is_file():
                raise ValueError(f"{self.ligand}: no such file; an Amber prmtop or an SDF file is expected")
        else:
            check_prmtop(files["ligand"])
            files["coordinates"] = Path(self.coordinates or coordinates_beside(files["ligand"]))
            if not files["coordinates"].is_file():
                raise ValueError(f"{self.coordinates}: no such file; coordinates of the prmtop are expected")
        return files


# The record's key of the input files' SHA-256.
_CONTENT = "sha256"
_TRAINING_ALONE = {"epochs", "width"}
# Runs that are planned otherwise are done again, all others are kept.
_SAMPLING = {"temperatures", "train_runs", "train_frames", "val_frames", "test_frames"}
_LABELLED = ("labels.h5", "splits.npz")
# What a training leaves in the folder, and what is made from it.
_TRAINED = ("training", "training_finished", "best.ckpt", "evaluation.json", "model.pt", "report.html")


def _write_record(path: Path, values: Dict[str, Any]) -> None:
    with replaced_on_success(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1))
