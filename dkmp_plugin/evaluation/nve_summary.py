"""What a run at constant energy says about a potential: drifts, temperature, a picture."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Dict, NamedTuple, Union

import numpy as np

from dkmp_plugin.evaluation.energy_drift import EnergyDrift, nve_drift
from dkmp_plugin.evaluation.nve_files import read_energies
from dkmp_plugin.evaluation.time_plot import Panel, plot_over_time
from dkmp_plugin.files import replaced_on_success
from dkmp_plugin.units import BOLTZMANN_CONSTANT


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


def summarise(folder: Union[str, Path], num_atoms: int) -> Conservation:
    """Drifts of the run in a folder so far; writes ``drift.json`` and ``energies.png`` beside it.

    Args:
        folder: what :func:`dkmp_plugin.evaluation.nve.run_nve` wrote.
        num_atoms: of the molecule.

    Raises:
        ValueError: the folder holds no energies, too few for a drift, or those of another version.
    """
    folder = Path(folder)
    columns = read_energies(folder)
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
    return columns["kinetic_energy_mev"] / kinetic_energy(1.0, num_atoms)


def kinetic_energy(temperature: float, num_atoms: int) -> float:
    """Mean kinetic energy in meV at a temperature in kelvin."""
    return 1.5 * num_atoms * 1000.0 * BOLTZMANN_CONSTANT * temperature
