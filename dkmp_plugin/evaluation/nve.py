"""``dkmp nve``: dynamics at constant energy that survive a kill, and what they say about a potential."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, Dict, NamedTuple, Optional, Tuple, Union

import numpy as np
from tqdm import tqdm

from dkmp_plugin.evaluation.columns import read_columns
from dkmp_plugin.evaluation.energy_drift import (
    NUM_BLOCKS,
    SAMPLES_PER_BLOCK,
    EnergyDrift,
    nve_drift,
    shadow_energy,
)
from dkmp_plugin.evaluation.time_plot import Panel, plot_over_time
from dkmp_plugin.evaluation.verlet import VerletDynamics, molecular_dynamics
from dkmp_plugin.files import replaced_on_success, sha256_of
from dkmp_plugin.seeds import check_seed
from dkmp_plugin.units import BOLTZMANN_CONSTANT

# Twenty times the surface of the sun: no molecule is left, and what a potential says about it means nothing.
_BLOWN_UP = 1e5  # K
_LOG, _STATE, _BEFORE_LARGEST_CHANGE = "energies.csv", "state.npz", "before_largest_change.npz"
_STRUCTURE_HASH = "structure_sha256"
COLUMNS = (
    "step",
    "time_ps",
    "potential_energy_mev",
    "kinetic_energy_mev",
    "total_energy_mev",
    "shadow_energy_mev",
)


class Conservation(NamedTuple):
    """How well a run conserved its energies.

    Attributes:
        total: of the potential plus the kinetic energy.
        shadow: of what velocity Verlet itself conserves
            (:func:`dkmp_plugin.evaluation.energy_drift.shadow_energy`).
    """

    total: EnergyDrift
    shadow: EnergyDrift


_CONSERVED = Conservation._fields


def simulate_nve(
    model: Union[str, Path],
    structure: Union[str, Path],
    folder: Union[str, Path],
    *,
    engine: str = "openmm",
    platform: str = "Reference",
    device: str = "cpu",
    duration: float = 20.0,
    time_step: float = 0.5,
    temperature: float = 300.0,
    equilibration: float = 1.0,
    seed: int = 1,
) -> Conservation:
    """The ``dkmp nve`` command: :func:`molecular_dynamics`, then :func:`run_nve` with a progress bar.

    Args:
        model: exported model (``.pt``), checkpoint (``.ckpt``), ``amber14-obc2``, or an OpenMM
            System (``.xml``).
        structure: PDB file with all hydrogens.
        folder: where to write, and to continue from.
        engine: ``openmm`` or ``ase``.
        platform: OpenMM platform.
        device: of the model; see :func:`molecular_dynamics`.
        duration: in picoseconds.
        time_step: in femtoseconds.
        temperature: in kelvin.
        equilibration: Langevin dynamics before the run, in picoseconds.
        seed: of the start.

    Returns:
        The drifts over the whole run.

    Raises:
        ValueError: an impossible duration, time step, temperature or seed; and see the two functions.
    """
    _check_positive("time_step", time_step, "fs")
    _check_positive("duration", duration, "ps")
    _check_positive("temperature", temperature, "K", or_zero=True)
    _check_positive("equilibration", equilibration, "ps", or_zero=True)
    check_seed(seed)
    dynamics = molecular_dynamics(model, structure, engine, time_step, platform, device=device)
    settings = {
        "model": Path(model).name,
        # A model trained anew under the same name must not continue the old one's run.
        "model_sha256": sha256_of(model) if Path(model).is_file() else None,
        "structure": Path(structure).name,
        _STRUCTURE_HASH: sha256_of(structure),
        "engine": engine,
        "platform": platform if engine == "openmm" else None,
        "time_step_fs": time_step,
        "temperature_k": temperature,
        "equilibration_ps": equilibration,
        "seed": seed,
    }
    if device != "cpu":  # not among the settings of earlier versions, which knew no other
        settings["device"] = device
    with tqdm(
        total=round(1000.0 * duration / time_step), desc=f"NVE {Path(folder).name}", unit="step"
    ) as bar:
        return run_nve(
            dynamics,
            folder,
            settings,
            duration=duration,
            time_step=time_step,
            temperature=temperature,
            equilibration=equilibration,
            seed=seed,
            progress=lambda step: bar.update(step - bar.n),
        )


def run_nve(
    dynamics: VerletDynamics,
    folder: Union[str, Path],
    settings: Dict[str, Any],
    *,
    duration: float,
    time_step: float,
    temperature: float = 300.0,
    equilibration: float = 1.0,
    seed: int = 1,
    record_interval: int = 40,
    save_interval: int = 200,
    progress: Optional[Callable[[int], Any]] = None,
) -> Conservation:
    """Run, or continue, dynamics at constant energy.

    The folder receives ``energies.csv`` (a row per ``record_interval`` steps), ``state.npz`` (positions,
    velocities, step) and, at the end, ``drift.json`` and ``energies.png``. Called again after a kill it goes
    on from the last saved state: at most ``save_interval`` steps are computed twice, and the result is the
    one of an uninterrupted run. Called again with a longer duration it extends the run.

    ``before_largest_change.npz`` is the state, as in ``state.npz``, at the last row before the largest change
    of the shadow energy between two rows: where to look when it jumps.

    Args:
        dynamics: the molecule and its potential.
        folder: where to write.
        settings: what makes two runs the same run (model, structure, time step, ...): kept in
            ``settings.json``, and a continuation with others is refused.
        duration: in picoseconds.
        time_step: of ``dynamics``, in femtoseconds.
        temperature: in kelvin, of the Langevin dynamics before the run.
        equilibration: length of that dynamics in picoseconds.
        seed: of its velocities and random forces.
        record_interval: steps between rows.
        save_interval: steps between saved states; a multiple of ``record_interval``.
        progress: called with the number of finished steps after each row.

    Returns:
        The drifts over the whole run.

    Raises:
        ValueError: the duration is too short for a drift, the folder holds a run with other settings or of
            another version, or the energy is no longer finite, or so large that no molecule is left.
    """
    if save_interval % record_interval:
        raise ValueError(f"save_interval {save_interval} is no multiple of record_interval {record_interval}")
    folder = Path(folder)
    num_steps = round(1000.0 * duration / time_step)
    if not (folder / _STATE).is_file():
        _check_duration(num_steps, record_interval, time_step)
    _check_settings(folder, settings)
    step = _restore(dynamics, folder)
    if step is None:
        dynamics.equilibrate(temperature, equilibration, seed)
        _start_log(folder)
        step = 0
        _step_and_record(dynamics, folder, 1, step, time_step)
        _save(folder / _STATE, step, dynamics.get_state())
    shadow = read_columns(folder / _LOG)["shadow_energy_mev"]
    largest_change = np.abs(np.diff(shadow)).max(initial=0.0)
    latest = shadow[-1]
    while step < num_steps:
        # To the next multiple: a run that is extended may have ended between two.
        advance = min(record_interval - step % record_interval, num_steps - step)
        before, shadow_before = dynamics.get_state(), latest
        latest = _step_and_record(dynamics, folder, advance, step + advance, time_step)
        if abs(latest - shadow_before) > largest_change:
            largest_change = abs(latest - shadow_before)
            _save(folder / _BEFORE_LARGEST_CHANGE, step, before)
        step += advance
        if step % save_interval == 0 or step == num_steps:
            _save(folder / _STATE, step, dynamics.get_state())
        if progress is not None:
            progress(step)
    return summarise(folder, dynamics.num_atoms)


def summarise(folder: Union[str, Path], num_atoms: int) -> Conservation:
    """Drifts of the run in a folder so far; writes ``drift.json`` and ``energies.png`` beside it."""
    folder = Path(folder)
    log = folder / _LOG
    with log.open() as lines:
        _check_columns(log, lines.readline().strip())
    columns = read_columns(log)
    drifts = Conservation(
        *(nve_drift(columns["time_ps"], columns[f"{name}_energy_mev"], num_atoms) for name in _CONSERVED)
    )
    with replaced_on_success(folder / "drift.json") as temporary:
        values = {name: asdict(drift) for name, drift in zip(_CONSERVED, drifts, strict=True)}
        temporary.write_text(json.dumps(values, indent=1))
    for name in _CONSERVED:
        columns[name] = energy_change(columns, name, num_atoms)
    columns["temperature"] = kinetic_temperature(columns, num_atoms)
    panels = [
        Panel(
            "change since the start, meV/atom", {"total energy": "total", "velocity Verlet's own": "shadow"}
        ),
        Panel("temperature, K", {"kinetic energy": "temperature"}),
    ]
    plot_over_time(folder / "energies.png", columns, "time_ps", "time, ps", panels)
    return drifts


def energy_change(columns: Dict[str, np.ndarray], name: str, num_atoms: int) -> np.ndarray:
    """Change of the ``total`` or ``shadow`` energy since the start, meV per atom, from ``energies.csv``."""
    energy = columns[f"{name}_energy_mev"]
    return (energy - energy[0]) / num_atoms


def kinetic_temperature(columns: Dict[str, np.ndarray], num_atoms: int) -> np.ndarray:
    """Temperature in kelvin of all degrees of freedom, from ``energies.csv``."""
    return columns["kinetic_energy_mev"] / _kinetic_energy(1.0, num_atoms)


def _kinetic_energy(temperature: float, num_atoms: int) -> float:
    """Mean kinetic energy in meV at a temperature in kelvin."""
    return 1.5 * num_atoms * 1000.0 * BOLTZMANN_CONSTANT * temperature


def _check_columns(log: Path, header: str) -> None:
    if header != ",".join(COLUMNS):
        raise ValueError(
            f"{log} has the columns {header}, {','.join(COLUMNS)} are expected: another version wrote it; "
            "give another folder"
        )


def _check_positive(name: str, value: float, unit: str, or_zero: bool = False) -> None:
    if not (0.0 <= value < float("inf") and (value > 0.0 or or_zero)):
        expected = "at least" if or_zero else "more than"
        raise ValueError(f"{name}: {value} was given, {expected} 0 {unit} is expected")


def _check_duration(num_steps: int, record_interval: int, time_step: float) -> None:
    fewest = (NUM_BLOCKS * SAMPLES_PER_BLOCK - 1) * record_interval
    if num_steps < fewest:
        raise ValueError(
            f"duration: {num_steps * time_step / 1000.0:g} ps was given, at least "
            f"{fewest * time_step / 1000.0:g} ps is expected: a drift needs {NUM_BLOCKS * SAMPLES_PER_BLOCK} "
            f"rows of {record_interval} steps"
        )


def _check_settings(folder: Path, settings: Dict[str, Any]) -> None:
    path = folder / "settings.json"
    text = json.dumps(settings, indent=1, sort_keys=True)
    if path.is_file():
        stored, wanted = json.loads(path.read_text()), json.loads(text)
        if _STRUCTURE_HASH not in stored:
            # The run was begun before structures were hashed.
            wanted.pop(_STRUCTURE_HASH, None)
        if stored != wanted:
            raise ValueError(
                f"{folder} holds a run with other settings ({path.name}); continue with those, or give "
                "another folder"
            )
        return
    with replaced_on_success(path) as temporary:
        temporary.write_text(text)


def _start_log(folder: Path) -> None:
    with replaced_on_success(folder / _LOG) as temporary:
        temporary.write_text(",".join(COLUMNS) + "\n")


def _step_and_record(
    dynamics: VerletDynamics, folder: Path, num_steps: int, step: int, time_step: float
) -> float:
    """Advance by ``num_steps``, at least one, and append a row for the step reached, number ``step``.

    Returns the shadow energy.
    """
    dynamics.step(num_steps - 1)
    before = dynamics.energies()[0]
    dynamics.step(1)
    potential, kinetic = dynamics.energies()
    if not (np.isfinite(potential) and kinetic < _kinetic_energy(_BLOWN_UP, dynamics.num_atoms)):
        raise ValueError(
            f"the dynamics blew up after {step * time_step / 1000.0:g} ps, kinetic energy {kinetic:.3g} meV: "
            "the potential is not smooth or not made for such structures, or the time step is too long"
        )
    kick = dynamics.kick_energy()
    # One step ahead for the second difference of the potential energy, and back.
    state = dynamics.get_state()
    dynamics.step(1)
    after = dynamics.energies()[0]
    dynamics.set_state(*state)
    total = potential + kinetic
    shadow = shadow_energy(total, (before, potential, after), kick)
    values = (step * time_step / 1000.0, potential, kinetic, total, shadow)
    with (folder / _LOG).open("a") as log:
        log.write(f"{step}," + ",".join(f"{value:.12g}" for value in values) + "\n")
    return shadow


def _save(path: Path, step: int, state: Tuple[np.ndarray, np.ndarray]) -> None:
    positions, velocities = state
    with replaced_on_success(path) as temporary:
        np.savez(temporary, step=step, positions=positions, velocities=velocities)


def _restore(dynamics: VerletDynamics, folder: Path) -> Optional[int]:
    """Continue from the saved state, dropping rows after it; None where there is none."""
    path = folder / _STATE
    if not path.is_file():
        return None
    with np.load(path) as state:
        step = int(state["step"])
        dynamics.set_state(state["positions"], state["velocities"])
    log = folder / _LOG
    header, *rows = log.read_text().splitlines()
    _check_columns(log, header)
    # A kill may have cut the last row short; it then comes after the saved state.
    complete = [row for row in rows if row.count(",") == len(COLUMNS) - 1]
    kept = [row for row in complete if int(row.split(",")[0]) <= step]
    with replaced_on_success(log) as temporary:
        temporary.write_text("\n".join([header, *kept]) + "\n")
    return step
