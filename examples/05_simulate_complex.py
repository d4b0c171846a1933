"""Simulates a complex: the ligand by a potential that `dkmp bespoke` makes for it, the rest by Amber.

    python examples/05_simulate_complex.py host-guest
    python examples/05_simulate_complex.py t4-lysozyme
    python examples/05_simulate_complex.py thrombin
    python examples/05_simulate_complex.py t4-lysozyme-water

Makes the ligand's potential first where it is not there (the same as the `dkmp bespoke` command it prints).
Writes a trajectory, a table of energies, a checkpoint and a summary; called again with the same settings,
it goes on from the checkpoint. --heavy-hydrogens makes hydrogens 3 Da heavy and steps 2 fs long.
With --quick, everything is as small as it can be: the potential is of no use, but every step is taken.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Dict

from dkmp_plugin.simulation.stack import prepare_backend

prepare_backend()  # before openmm is imported

import numpy as np  # noqa: E402
import openmm  # noqa: E402
from complexes import COMPLEXES, PreparedComplex, Setup  # noqa: E402
from openmm import app, unit  # noqa: E402
from openmmml import MLPotential  # noqa: E402

from dkmp_plugin.bespoke.pipeline import make_potential  # noqa: E402
from dkmp_plugin.bespoke.settings import BespokeSettings  # noqa: E402
from dkmp_plugin.evaluation.dynamics import internal_rmsd  # noqa: E402
from dkmp_plugin.files import replaced_on_success, sha256_of  # noqa: E402
from dkmp_plugin.simulation.model_source import read_info  # noqa: E402


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("complex", choices=sorted(COMPLEXES))
    parser.add_argument("--output", type=Path, help="folder to write [runs/demo/COMPLEX, or COMPLEX-quick]")
    parser.add_argument("--model", type=Path, help="a potential that is there [made in OUTPUT/ligand]")
    parser.add_argument("--steps", type=int, default=10_000, help="of 1 or 2 fs [10000]")
    parser.add_argument("--minimization-iterations", type=int, default=200, help="before the first [200]")
    parser.add_argument("--padding", type=float, default=1.0, help="water around the complex in nm [1.0]")
    parser.add_argument("--cutoff", type=float, help="of forces in implicit solvent in nm [none]")
    parser.add_argument("--heavy-hydrogens", action="store_true", help="3 Da, and steps of 2 fs")
    parser.add_argument("--report-interval", type=int, default=100, help="steps between frames [100]")
    parser.add_argument("--platform", default="CPU", help="OpenMM platform [CPU]")
    parser.add_argument("--quick", action="store_true", help="smallest sizes: shows that every step works")
    return parser.parse_args()


def time_step(arguments: argparse.Namespace) -> float:
    """In femtoseconds."""
    return 2.0 if arguments.heavy_hydrogens else 1.0


def setup(arguments: argparse.Namespace) -> Setup:
    """How the complex becomes a System."""
    hydrogen_mass = 3.0 * unit.dalton if arguments.heavy_hydrogens else None
    return Setup(arguments.padding, arguments.cutoff, hydrogen_mass)


def claim(output: Path, settings: Dict[str, Any]) -> bool:
    """Records the settings of a simulation, or makes sure that its checkpoint was made with the same ones.

    Args:
        output: Folder of the simulation.
        settings: Whatever the atoms, their energies and the files depend on.

    Returns:
        Whether there is a checkpoint to go on from.

    Raises:
        ValueError: If the checkpoint was made with other settings, or it is not known with which.
    """
    record = output / "settings.json"
    if not (output / "checkpoint.chk").exists():
        with replaced_on_success(record) as temporary:
            temporary.write_text(json.dumps(settings, indent=1))
        return False
    remedy = "give another --output, or remove it"
    if not record.is_file():
        raise ValueError(f"{output} holds a checkpoint, but no {record.name} that tells what of; {remedy}")
    found = json.loads(record.read_text())
    changed = [
        f"{name} {found.get(name)}, now {value}"
        for name, value in settings.items()
        if found.get(name) != value
    ]
    if changed:
        raise ValueError(
            f"the checkpoint in {output} was made with other settings ({'; '.join(changed)}); {remedy}"
        )
    return True


def ligand_potential(arguments: argparse.Namespace, output: Path) -> Path:
    """The exported potential of the ligand; made where it is missing."""
    files = COMPLEXES[arguments.complex][0]()
    settings = BespokeSettings(str(files.prmtop), str(files.coordinates), files.residue)
    print(
        f"dkmp bespoke {files.prmtop} --coordinates {files.coordinates} --residue {files.residue} "
        f"--output {output}" + (" --quick" if arguments.quick else "")
    )
    make_potential(settings.quick() if arguments.quick else settings, output)
    return output / "model.pt"


def make_simulation(prepared: PreparedComplex, model: Path, arguments: argparse.Namespace) -> app.Simulation:
    mixed = MLPotential("dkmp", modelPath=str(model)).createMixedSystem(
        prepared.topology, prepared.system, prepared.ligand
    )
    integrator = openmm.LangevinMiddleIntegrator(
        300 * unit.kelvin, 1 / unit.picosecond, time_step(arguments) * unit.femtosecond
    )
    platform = openmm.Platform.getPlatformByName(arguments.platform)
    return app.Simulation(prepared.topology, mixed, integrator, platform)


def summarise(
    simulation: app.Simulation, prepared: PreparedComplex, model: Path, output: Path
) -> Dict[str, Any]:
    """What the run has come to; written to ``summary.json``.

    Raises:
        SystemExit: If an energy or a position is not finite.
    """
    rows = np.atleast_1d(np.genfromtxt(output / "state.csv", delimiter=",", names=True))
    energies, temperatures = rows["Potential_Energy_kJmole"], rows["Temperature_K"]
    state = simulation.context.getState(getPositions=True)
    end = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    if not (np.isfinite(energies).all() and np.isfinite(end).all()):
        raise SystemExit("an energy or a position is not finite")
    start = app.PDBFile(str(output / "start.pdb")).getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    ligand = prepared.ligand
    later = len(rows) // 2
    summary = {
        "atoms": len(end),
        "modelled_atoms": len(ligand),
        "labels_of_the_model": read_info(model).level_of_theory,
        "time_ps": round(state.getTime().value_in_unit(unit.picosecond), 6),
        "steps": simulation.currentStep,
        "rows": len(rows),
        "all_energies_finite": True,
        "potential_energy_kj_per_mol": {
            "first": float(energies[0]),
            "last": float(energies[-1]),
            "standard_deviation_of_the_second_half": float(np.std(energies[later:])),
        },
        "temperature_k_of_the_second_half": float(np.mean(temperatures[later:])),
        "ligand_internal_rmsd_angstrom": internal_rmsd(end[ligand], start[ligand]),
        "platform": simulation.context.getPlatform().getName(),
    }
    with replaced_on_success(output / "summary.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=1))
    return summary


def simulate(arguments: argparse.Namespace) -> None:
    """Makes the potential, and the simulation or the rest of it.

    Raises:
        ValueError: If input cannot be used, or the folder was begun with other settings.
        RuntimeError: If the potential cannot be made.
    """
    folder = arguments.complex + ("-quick" if arguments.quick else "")
    output = arguments.output or Path("runs/demo") / folder
    steps, interval = arguments.steps, arguments.report_interval
    iterations = arguments.minimization_iterations
    if arguments.quick:
        steps, interval, iterations = 20, 10, 5
    if not 1 <= interval <= steps:
        raise ValueError(
            f"--steps {steps} and --report-interval {interval} were given, an interval from 1 to the number "
            "of steps is expected: without a frame there is nothing to summarise"
        )
    model = arguments.model or ligand_potential(arguments, output / "ligand")
    files, prepare = COMPLEXES[arguments.complex]
    chosen = setup(arguments)
    settings = {
        "complex": arguments.complex,
        "SHA-256 of the model": sha256_of(model),
        "time step in fs": time_step(arguments),
        "hydrogen mass in Da": chosen.hydrogen_mass and chosen.hydrogen_mass.value_in_unit(unit.dalton),
        "cutoff in nm": chosen.cutoff,
        "padding in nm": chosen.padding,
        "report interval": interval,
        "platform": arguments.platform,
    }
    resumed = claim(output, settings)
    prepared = prepare(files(), chosen)
    simulation = make_simulation(prepared, model, arguments)
    print(f"{prepared.topology.getNumAtoms()} atoms, {len(prepared.ligand)} of them by {model}")
    checkpoint = output / "checkpoint.chk"
    if resumed:
        simulation.loadCheckpoint(str(checkpoint))
        print(f"going on at step {simulation.currentStep}")
    else:
        simulation.context.setPositions(prepared.positions * unit.angstrom)
        simulation.minimizeEnergy(maxIterations=iterations)
        simulation.context.setVelocitiesToTemperature(300 * unit.kelvin, 1)
        state = simulation.context.getState(getPositions=True)
        with replaced_on_success(output / "start.pdb") as temporary, temporary.open("w") as file:
            app.PDBFile.writeFile(prepared.topology, state.getPositions(), file)
    simulation.reporters += [
        app.DCDReporter(str(output / "trajectory.dcd"), interval, append=resumed),
        app.StateDataReporter(
            str(output / "state.csv"),
            interval,
            append=resumed,
            step=True,
            potentialEnergy=True,
            temperature=True,
        ),
        app.CheckpointReporter(str(checkpoint), interval),
    ]
    simulation.step(max(0, steps - simulation.currentStep))
    summary = summarise(simulation, prepared, model, output)
    print(f"{simulation.currentStep} steps of {time_step(arguments):g} fs, {summary}; written: {output}")


def main() -> int:
    try:
        simulate(parse_arguments())
    except (ValueError, RuntimeError, OSError) as error:
        print(f"{Path(__file__).name}: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
