"""The files of a run at constant energy: settings, energies, and the state to continue from."""

import json
import zipfile
from pathlib import Path
from typing import Any, Dict, Sequence, Tuple

import numpy as np

from dkmp_plugin.evaluation.columns import read_columns
from dkmp_plugin.files import replaced_on_success

_ENERGIES, _STATE, _BEFORE_LARGEST_CHANGE = "energies.csv", "state.npz", "before_largest_change.npz"
# The setting that tells structures of one name apart.
STRUCTURE_HASH = "structure_sha256"
COLUMNS = (
    "step",
    "time_ps",
    "potential_energy_mev",
    "kinetic_energy_mev",
    "total_energy_mev",
    "shadow_energy_mev",
)


def check_settings(folder: Path, settings: Dict[str, Any]) -> None:
    """Records the settings of a run, or makes sure that they are those of the run in the folder.

    Raises:
        ValueError: they are others.
    """
    path = folder / "settings.json"
    text = json.dumps(settings, indent=1, sort_keys=True)
    if path.is_file():
        stored, wanted = json.loads(path.read_text()), json.loads(text)
        if STRUCTURE_HASH not in stored:
            # The run was begun before structures were hashed.
            wanted.pop(STRUCTURE_HASH, None)
        if stored != wanted:
            sides = [
                (name, stored.get(name, "nothing"), wanted.get(name, "nothing"))
                for name in {**stored, **wanted}
            ]
            changed = [f"{name} {before!r}, now {now!r}" for name, before, now in sides if before != now]
            raise ValueError(
                f"{folder} holds a run with other settings ({path.name}: {'; '.join(changed)}); continue "
                "with those, or give another folder"
            )
        return
    with replaced_on_success(path) as temporary:
        temporary.write_text(text)


def start_energies(folder: Path) -> None:
    """Begins a file of energies without rows."""
    with replaced_on_success(folder / _ENERGIES) as temporary:
        temporary.write_text(",".join(COLUMNS) + "\n")


def append_energies(folder: Path, step: int, values: Sequence[float]) -> None:
    """Appends a row: the number of the step, then the values of the other ``COLUMNS``."""
    with (folder / _ENERGIES).open("a") as file:
        file.write(f"{step}," + ",".join(f"{value:.12g}" for value in values) + "\n")


def read_energies(folder: Path) -> Dict[str, np.ndarray]:
    """The energies so far: name of the column -> (rows,).

    Raises:
        ValueError: there are none, or another version wrote them.
    """
    path = folder / _ENERGIES
    if path.is_file():
        with path.open() as lines:
            _check_columns(path, lines.readline().strip())
    return read_columns(path)


def _check_columns(log: Path, header: str) -> None:
    if header != ",".join(COLUMNS):
        raise ValueError(
            f"{log} has the columns {header}, {','.join(COLUMNS)} are expected: another version wrote it; "
            "give another folder"
        )


def has_state(folder: Path) -> bool:
    """Whether there is a state to continue from."""
    return (folder / _STATE).is_file()


def save_state(folder: Path, step: int, state: Tuple[np.ndarray, np.ndarray]) -> None:
    """Saves the positions and velocities of a step, (N, 3) each, to continue from."""
    _save(folder / _STATE, step, state)


def save_before_largest_change(folder: Path, step: int, state: Tuple[np.ndarray, np.ndarray]) -> None:
    """Saves, as :func:`save_state`, where the largest change of the shadow energy begins."""
    _save(folder / _BEFORE_LARGEST_CHANGE, step, state)


def _save(path: Path, step: int, state: Tuple[np.ndarray, np.ndarray]) -> None:
    positions, velocities = state
    with replaced_on_success(path) as temporary:
        np.savez(temporary, step=step, positions=positions, velocities=velocities)


def restore_state(folder: Path) -> Tuple[int, np.ndarray, np.ndarray]:
    """The saved step, its positions and velocities; rows of energies after it are dropped.

    Raises:
        ValueError: another version wrote the energies, they are missing, or the state is damaged.
    """
    try:
        # Opened here: of a damaged file numpy would leave it open.
        with (folder / _STATE).open("rb") as file, np.load(file) as state:
            step, positions, velocities = int(state["step"]), state["positions"], state["velocities"]
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{folder / _STATE} is damaged, the run cannot go on from it; give another folder, or remove it "
            "to begin anew"
        ) from error
    log = folder / _ENERGIES
    if not log.is_file():
        raise ValueError(
            f"{folder} holds the state of a run, {_STATE}, but not its energies, {log.name}; give another "
            f"folder, or remove {_STATE} to begin anew"
        )
    header, *rows = log.read_text().splitlines()
    _check_columns(log, header)
    # A kill may have cut the last row short; it then comes after the saved state.
    complete = [row for row in rows if row.count(",") == len(COLUMNS) - 1]
    kept = [row for row in complete if int(row.split(",")[0]) <= step]
    with replaced_on_success(log) as temporary:
        temporary.write_text("\n".join([header, *kept]) + "\n")
    return step, positions, velocities
