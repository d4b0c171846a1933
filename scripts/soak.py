"""Long dynamics of p-xylene in vacuum by the bundled model: memory must not grow, steps must not get slower.

Prints one row per tenth of the run and a verdict; exit status 1 when resident memory grows by more than the
limit after the warm-up, or the energy is not finite. Processor time is counted, not wall-clock.
"""

import argparse
import math
import resource
import sys
import time
from pathlib import Path
from typing import List, Optional

from dkmp_plugin.simulation.stack import prepare_backend

BACKEND = prepare_backend()  # before openmm is imported

import openmm  # noqa: E402
from openmm import app, unit  # noqa: E402
from openmmml import MLPotential  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
from t4_lysozyme import complex_files  # noqa: E402

ROWS = 10


def parse_arguments(arguments: Optional[List[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=100_000, help="of 1 fs")
    parser.add_argument("--warm-up", type=int, default=1000, help="steps before memory is first read")
    parser.add_argument("--platform", default="CPU", help="OpenMM platform")
    parser.add_argument("--limit", type=float, default=5.0, help="growth of resident memory in MB")
    return parser.parse_args(arguments)


def resident_megabytes() -> float:
    """Resident memory of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


def make_simulation(platform: str) -> app.Simulation:
    """p-xylene alone, minimised, at 300 K."""
    folder = complex_files()[0].parent
    topology = app.AmberPrmtopFile(str(folder / "ligand.prmtop")).topology
    system = MLPotential("dkmp").createSystem(topology)
    integrator = openmm.LangevinMiddleIntegrator(300 * unit.kelvin, 1 / unit.picosecond, 1 * unit.femtosecond)
    integrator.setRandomNumberSeed(1)
    simulation = app.Simulation(topology, system, integrator, openmm.Platform.getPlatformByName(platform))
    simulation.context.setPositions(app.AmberInpcrdFile(str(folder / "ligand.crd")).getPositions())
    simulation.minimizeEnergy(maxIterations=50)
    simulation.context.setVelocitiesToTemperature(300 * unit.kelvin, 1)
    return simulation


def is_healthy(growth: float, limit: float, energies: List[float]) -> bool:
    """Whether memory grew by no more than the limit (both in MB) and all energies are finite."""
    return growth <= limit and all(map(math.isfinite, energies))


def main(given: Optional[List[str]] = None) -> int:
    arguments = parse_arguments(given)
    simulation = make_simulation(arguments.platform)
    print(
        f"OpenMM {openmm.version.short_version}, {BACKEND} on {arguments.platform}, "
        f"{arguments.steps} steps of 1 fs"
    )
    simulation.step(arguments.warm_up)
    first = resident_megabytes()
    print(f"{'steps':>8s}{'CPU ms per step':>18s}{'resident MB':>14s}{'energy kJ/mol':>16s}")
    energies, milliseconds = [], []
    for row in range(1, ROWS + 1):
        steps = arguments.steps // ROWS
        start = time.process_time()
        simulation.step(steps)
        milliseconds.append(1e3 * (time.process_time() - start) / steps)
        state = simulation.context.getState(getEnergy=True)
        energies.append(state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole))
        print(
            f"{row * steps:8d}{milliseconds[-1]:18.3f}{resident_megabytes():14.1f}{energies[-1]:16.2f}",
            flush=True,
        )
    growth = resident_megabytes() - first
    healthy = is_healthy(growth, arguments.limit, energies)
    print(
        f"memory grew by {growth:.2f} MB from {first:.1f} MB (limit {arguments.limit:g} MB); "
        f"processor time per step, last tenth / first: {milliseconds[-1] / milliseconds[0]:.2f}; "
        f"{'passed' if healthy else 'FAILED'}"
    )
    return 0 if healthy else 1


if __name__ == "__main__":
    sys.exit(main())
