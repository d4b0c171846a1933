"""The protocol as data: what is compared, on what, with which settings and budgets (protocol.yaml)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List

import yaml

PROTOCOL_FILE = Path(__file__).with_name("protocol.yaml")
# An equal number of epochs, and an equal number of CPU seconds.
BUDGETS = ("epochs", "cpu")


@dataclass(frozen=True)
class Row:
    """One data set with its parts and budgets.

    Attributes:
        name: Key in protocol.yaml.
        labels: Level of theory of the labels.
        energy_unit: Unit of the energies; forces are in it per Å.
        format: Format of the files.
        parts: ``train``, ``validation``, ``test`` -> files below DKMP_DATA, as ``FILE@start:stop:step``.
        batch_size: Structures per optimiser step.
        epochs: Epochs of the equal-epochs runs.
        cpu_seconds: CPU seconds of the equal-CPU runs.
        models: Which models are compared.
        common: What this row changes for every model.
        settings: What this row changes, per model.
    """

    name: str
    labels: str
    energy_unit: str
    format: str
    parts: Dict[str, List[str]]
    batch_size: int
    epochs: int
    cpu_seconds: float
    models: List[str]
    common: Dict[str, Any]
    settings: Dict[str, Dict[str, Any]]


@dataclass(frozen=True)
class Protocol:
    """Everything in protocol.yaml.

    Attributes:
        version: Version of the protocol.
        valid_since: First version whose results of a model still hold, per model.
        common: Settings of every model.
        models: Settings of single models.
        rows: What is compared on what.
    """

    version: int
    valid_since: Dict[str, int]
    common: Dict[str, Any]
    models: Dict[str, Dict[str, Any]]
    rows: Dict[str, Row]

    def settings(self, row: str, model: str) -> Dict[str, Any]:
        """All settings of one model on one row, the row's own changes last."""
        changed = self.rows[row]
        return {**self.common, **changed.common, **self.models[model], **changed.settings.get(model, {})}


def load_protocol(path: Path = PROTOCOL_FILE) -> Protocol:
    """Reads the protocol."""
    contents = yaml.safe_load(path.read_text())
    rows = {}
    for name, row in contents["rows"].items():
        parts = {part: row.pop(part) for part in ("train", "validation", "test")}
        row = {"common": {}, "settings": {}, **row}
        rows[name] = Row(name=name, parts=parts, **row)
    return Protocol(
        contents["version"], contents["valid_since"], contents["common"], contents["models"], rows
    )
