"""``dkmp nve``: dynamics at constant energy that survive a kill."""

from pathlib import Path
from typing import Any, Callable, Dict, Optional, Union

import numpy as np
from tqdm import tqdm

from dkmp_plugin.evaluation.energy_drift import NUM_BLOCKS, SAMPLES_PER_BLOCK, shadow_energy
from dkmp_plugin.evaluation.molecular_dynamics import molecular_dynamics
from dkmp_plugin.evaluation.nve_files import (
    STRUCTURE_HASH,
    append_energies,
    check_settings,
    has_state,
    read_energies,
    restore_state,
    save_before_largest_change,
    save_state,
    start_energies,
)
from dkmp_plugin.evaluation.nve_summary import Conservation, kinetic_energy, summarise
from dkmp_plugin.evaluation.verlet import VerletDynamics
from dkmp_plugin.files import only_here, sha256_of
from dkmp_plugin.seeds import check_seed

# Twenty times the surface of the sun: no molecule is left, and what a potential says about it means nothing.
_BLOWN_UP = 1e5  # K
_RECORD_INTERVAL = 40  # steps


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
    if not has_state(Path(folder)):
        _check_duration(round(1000.0 * duration / time_step), _RECORD_INTERVAL, time_step)
    dynamics = molecular_dynamics(model, structure, engine, time_step, platform, device=device)
    settings = {
        "model": Path(model).name,
        # A model trained anew under the same name must not continue the old one's run.
        "model_sha256": sha256_of(model) if Path(model).is_file() else None,
        "structure": Path(structure).name,
        STRUCTURE_HASH: sha256_of(structure),
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
    record_interval: int = _RECORD_INTERVAL,
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
        RuntimeError: another process runs in the folder.
    """
    if save_interval % record_interval:
        raise ValueError(
            f"save_interval: {save_interval} was given, a multiple of record_interval ({record_interval}) is "
            "expected"
        )
    folder = Path(folder)
    num_steps = round(1000.0 * duration / time_step)
    with only_here(folder):
        continued = has_state(folder)
        if not continued:
            _check_duration(num_steps, record_interval, time_step)
        check_settings(folder, settings)
        if continued:
            step, *state = restore_state(folder)
            dynamics.set_state(*state)
        else:
            dynamics.equilibrate(temperature, equilibration, seed)
            step = _begin(dynamics, folder, time_step)
        shadow = read_energies(folder)["shadow_energy_mev"]
        largest_change = np.abs(np.diff(shadow)).max(initial=0.0)
        latest = shadow[-1]
        while step < num_steps:
            # To the next multiple: a run that is extended may have ended between two.
            advance = min(record_interval - step % record_interval, num_steps - step)
            before, shadow_before = dynamics.get_state(), latest
            latest = _step_and_record(dynamics, folder, advance, step + advance, time_step)
            if abs(latest - shadow_before) > largest_change:
                largest_change = abs(latest - shadow_before)
                save_before_largest_change(folder, step, before)
            step += advance
            if step % save_interval == 0 or step == num_steps:
                save_state(folder, step, dynamics.get_state())
            if progress is not None:
                progress(step)
        return summarise(folder, dynamics.num_atoms)


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


def _begin(dynamics: VerletDynamics, folder: Path, time_step: float) -> int:
    """The file of energies with a row for the start, and the state to go on from; returns its step."""
    start_energies(folder)
    step = 0
    _step_and_record(dynamics, folder, 1, step, time_step)
    save_state(folder, step, dynamics.get_state())
    return step


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
    if not (np.isfinite(potential) and kinetic < kinetic_energy(_BLOWN_UP, dynamics.num_atoms)):
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
    append_energies(folder, step, (step * time_step / 1000.0, potential, kinetic, total, shadow))
    return shadow
