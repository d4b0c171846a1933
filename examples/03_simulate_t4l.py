"""Simulates T4 lysozyme L99A with p-xylene: the ligand by the trained model, the rest by Amber (OBC2).

Blocks of ML/MM steps alternate with blocks of pure-MM steps, so that both speeds are measured under the
same load. Writes a trajectory (DCD + PDB), a CSV of energies and temperatures, and the numbers (JSON).
"""

import argparse
import json
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Tuple

import torch  # isort: skip  (before openmm: its Torch plugin needs torch's libraries)
import numpy as np
import openmm
from openmm import app, unit
from openmmml import MLPotential
from t4_lysozyme import Complex, load_complex
from tqdm import tqdm

from dkmp_plugin.evaluation.dynamics import internal_rmsd, temperature
from dkmp_plugin.files import replaced_on_success

TIME_STEP = 0.001  # ps
CSV_COLUMNS = (
    "step",
    "time_ps",
    "potential_energy_kj_per_mol",
    "temperature_k",
    "ligand_temperature_k",
    "ligand_rmsd_angstrom",
)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=Path("runs/demo/model.pt"), help="exported model")
    parser.add_argument("--output", type=Path, default=Path("runs/demo/simulation"), help="folder to write")
    parser.add_argument("--minimization-iterations", type=int, default=50, help="before the equilibration")
    parser.add_argument("--equilibration-steps", type=int, default=300, help="ML/MM steps before the first")
    parser.add_argument("--steps", type=int, default=2000, help="ML/MM steps of 1 fs")
    parser.add_argument("--block", type=int, default=100, help="ML/MM steps between pure-MM blocks")
    parser.add_argument("--mm-block", type=int, default=25, help="pure-MM steps in each block")
    parser.add_argument("--report-interval", type=int, default=10, help="steps between CSV rows and frames")
    parser.add_argument("--temperature", type=float, default=300.0, help="kelvin")
    parser.add_argument("--platform", default="CPU", help="OpenMM platform")
    parser.add_argument("--torch-threads", type=int, default=1, help="threads of the ML model")
    parser.add_argument("--seed", type=int, default=1, help="of velocities and random forces")
    return parser.parse_args()


def make_context(system: openmm.System, arguments: argparse.Namespace) -> openmm.Context:
    integrator = openmm.LangevinMiddleIntegrator(
        arguments.temperature * unit.kelvin, 1.0 / unit.picosecond, TIME_STEP * unit.picosecond
    )
    integrator.setRandomNumberSeed(arguments.seed)
    return openmm.Context(system, integrator, openmm.Platform.getPlatformByName(arguments.platform))


def potential_energy(context: openmm.Context) -> float:
    """In kJ/mol."""
    energy = context.getState(getEnergy=True).getPotentialEnergy()
    return energy.value_in_unit(unit.kilojoule_per_mole)


def positions_of(context: openmm.Context) -> np.ndarray:
    """In Å."""
    return context.getState(getPositions=True).getPositions(asNumpy=True).value_in_unit(unit.angstrom)


def check_end_points(
    mixed: openmm.Context, mm: openmm.Context, not_interpolated: openmm.System, arguments: argparse.Namespace
) -> Dict[str, float]:
    """Energies (kJ/mol) at both ends of the interpolation beside those of the Systems they must equal."""
    ml_mm = make_context(not_interpolated, arguments)
    positions = mixed.getState(getPositions=True).getPositions()
    mm.setPositions(positions)
    ml_mm.setPositions(positions)
    energies = {"mm": potential_energy(mm), "ml_mm": potential_energy(ml_mm)}
    for end in (0, 1):  # ends at 1: the ML/MM side
        mixed.setParameter("lambda_interpolate", end)
        energies[f"lambda_{end}"] = potential_energy(mixed)
    tolerance = 1e-5 * abs(energies["mm"]) + 0.05
    for end, expected in (("lambda_0", "mm"), ("lambda_1", "ml_mm")):
        if abs(energies[end] - energies[expected]) > tolerance:
            raise SystemExit(f"the energy at {end} is {energies[end]} kJ/mol, expected {energies[expected]}")
    return energies


@dataclass
class Recorder:
    """Writes a frame and a CSV row for states of the ML/MM simulation, and keeps the rows."""

    ligand: List[int]
    heavy: List[int]  # the ligand's atoms other than hydrogen: rotating methyl groups are no deformation
    masses: np.ndarray
    reference: np.ndarray
    dcd: app.DCDFile
    csv: Any
    rows: List[Tuple[float, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.csv.write(",".join(CSV_COLUMNS) + "\n")

    def record(self, context: openmm.Context, step: int) -> None:
        state = context.getState(getEnergy=True, getPositions=True, getVelocities=True)
        positions = state.getPositions(asNumpy=True)
        velocities = state.getVelocities(asNumpy=True).value_in_unit(unit.nanometer / unit.picosecond)
        row = (
            step,
            step * TIME_STEP,
            state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole),
            temperature(velocities, self.masses),
            temperature(velocities[self.ligand], self.masses[self.ligand]),
            internal_rmsd(positions.value_in_unit(unit.angstrom)[self.heavy], self.reference),
        )
        self.dcd.writeModel(positions)
        self.csv.write(f"{row[0]}," + ",".join(f"{value:.5f}" for value in row[1:]) + "\n")
        self.rows.append(row)


def simulate(
    mixed: openmm.Context, mm: openmm.Context, recorder: Recorder, arguments: argparse.Namespace
) -> Dict[str, float]:
    """Runs the alternating blocks; returns seconds per step of both Systems, without the recording."""
    seconds = {"ml_mm": 0.0, "mm": 0.0}
    steps = {"ml_mm": 0, "mm": 0}

    def advance(name: str, context: openmm.Context, num_steps: int) -> None:
        start = time.perf_counter()
        context.getIntegrator().step(num_steps)
        context.getState()  # waits for platforms that run ahead
        seconds[name] += time.perf_counter() - start
        steps[name] += num_steps

    with tqdm(total=arguments.steps, desc="ML/MM dynamics", unit="step") as bar:
        while steps["ml_mm"] < arguments.steps:
            for _ in range(0, arguments.block, arguments.report_interval):
                advance("ml_mm", mixed, arguments.report_interval)
                recorder.record(mixed, steps["ml_mm"])
                bar.update(arguments.report_interval)
            advance("mm", mm, arguments.mm_block)
    return {name: seconds[name] / steps[name] for name in seconds}


def summarise(
    recorder: Recorder, seconds_per_step: Dict[str, float], end_points: Dict[str, float]
) -> Dict[str, Any]:
    rows = np.array(recorder.rows)
    column = dict(zip(CSV_COLUMNS, rows.T, strict=True))
    nanoseconds_per_day = {
        name: 86400 / seconds * TIME_STEP * 1e-3 for name, seconds in seconds_per_step.items()
    }
    return {
        "steps": int(rows[-1, 0]),
        "simulated_ps": float(rows[-1, 1]),
        "atoms": len(recorder.masses),
        "ligand_atoms": len(recorder.ligand),
        "milliseconds_per_step": {name: 1e3 * value for name, value in seconds_per_step.items()},
        "ns_per_day": nanoseconds_per_day,
        "step_time_ratio": seconds_per_step["ml_mm"] / seconds_per_step["mm"],
        "temperature_k": float(column["temperature_k"].mean()),
        "ligand_temperature_k": float(column["ligand_temperature_k"].mean()),
        "ligand_rmsd_angstrom": {
            "mean": float(column["ligand_rmsd_angstrom"].mean()),
            "max": float(column["ligand_rmsd_angstrom"].max()),
        },
        "end_point_energies_kj_per_mol": end_points,
    }


def prepare(
    t4_lysozyme: Complex, arguments: argparse.Namespace
) -> Tuple[openmm.Context, openmm.Context, Dict[str, float]]:
    """Contexts of the ML/MM and the pure-MM System, minimised and brought to temperature; end points."""
    potential = MLPotential("dkmp", modelPath=str(arguments.model))
    common = (t4_lysozyme.topology, t4_lysozyme.system, t4_lysozyme.ligand)
    mixed = make_context(potential.createMixedSystem(*common, interpolate=True), arguments)
    mm = make_context(t4_lysozyme.system, arguments)
    print("minimising ...", flush=True)
    mixed.setPositions(t4_lysozyme.positions * unit.angstrom)
    openmm.LocalEnergyMinimizer.minimize(mixed, maxIterations=arguments.minimization_iterations)
    end_points = check_end_points(mixed, mm, potential.createMixedSystem(*common), arguments)

    mixed.setVelocitiesToTemperature(arguments.temperature * unit.kelvin, arguments.seed)
    # Strong friction brings the minimised structure to temperature within these few steps.
    friction = mixed.getIntegrator().getFriction()
    mixed.getIntegrator().setFriction(50.0 / unit.picosecond)
    for _ in tqdm(range(arguments.equilibration_steps), desc="equilibration", unit="step"):
        mixed.getIntegrator().step(1)
    mixed.getIntegrator().setFriction(friction)
    state = mixed.getState(getPositions=True, getVelocities=True)
    mm.setPositions(state.getPositions())
    mm.setVelocities(state.getVelocities())
    return mixed, mm, end_points


def main() -> None:
    arguments = parse_arguments()
    # The ligand is small: more torch threads would only compete with OpenMM's.
    torch.set_num_threads(arguments.torch_threads)
    t4_lysozyme = load_complex()
    mixed, mm, end_points = prepare(t4_lysozyme, arguments)
    topology, ligand = t4_lysozyme.topology, t4_lysozyme.ligand
    masses = np.array([atom.element.mass.value_in_unit(unit.dalton) for atom in topology.atoms()])
    heavy = [index for index in ligand if masses[index] > 1.5]
    output = arguments.output
    with ExitStack() as files:

        def temporary(name: str) -> Path:
            return files.enter_context(replaced_on_success(output / name))

        start = positions_of(mixed)
        with open(temporary("start.pdb"), "w") as pdb:
            app.PDBFile.writeFile(topology, start * unit.angstrom, pdb)
        dcd_path, csv_path, json_path = map(temporary, ("trajectory.dcd", "state.csv", "simulation.json"))
        with open(dcd_path, "wb") as dcd, open(csv_path, "w") as csv:
            recorder = Recorder(
                ligand,
                heavy,
                masses,
                start[heavy],
                app.DCDFile(dcd, topology, TIME_STEP * unit.picosecond, interval=arguments.report_interval),
                csv,
            )
            seconds_per_step = simulate(mixed, mm, recorder, arguments)
        numbers = summarise(recorder, seconds_per_step, end_points)
        numbers.update(
            platform=arguments.platform, torch_threads=torch.get_num_threads(), model=str(arguments.model)
        )
        json_path.write_text(json.dumps(numbers, indent=1))
    print(json.dumps(numbers, indent=1))
    print(f"written: start.pdb, trajectory.dcd, state.csv and simulation.json in {output}")


if __name__ == "__main__":
    main()
