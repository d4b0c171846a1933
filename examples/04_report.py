"""Pictures (PNG) and one self-contained HTML page with the numbers of the demo."""

import argparse
import json
from pathlib import Path
from typing import Any, Dict

from dkmp_plugin.evaluation.columns import read_columns
from dkmp_plugin.evaluation.held_out import error_table
from dkmp_plugin.evaluation.html_page import Table, write_html
from dkmp_plugin.evaluation.learning_curve import plot_learning_curve
from dkmp_plugin.evaluation.time_plot import Panel, plot_over_time


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--evaluation", type=Path, default=Path("runs/demo/evaluation.json"))
    parser.add_argument("--simulation", type=Path, default=Path("runs/demo/simulation"), help="folder")
    parser.add_argument(
        "--training", type=Path, default=Path("runs/demo/training"), help="torchmd-train's log_dir"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/demo/report.html"), help="page to write")
    return parser.parse_args()


def simulation_table(simulation: Dict[str, Any]) -> Table:
    speed, milliseconds = simulation["ns_per_day"], simulation["milliseconds_per_step"]
    rmsd = simulation["ligand_rmsd_angstrom"]
    energies = simulation["end_point_energies_kj_per_mol"]
    rows = [
        ["simulated at lambda = 1", f"{simulation['simulated_ps']:.2f} ps ({simulation['steps']} steps)"],
        ["ML/MM speed", f"{speed['ml_mm']:.3f} ns/day ({milliseconds['ml_mm']:.1f} ms per step)"],
        ["pure MM speed, same run", f"{speed['mm']:.3f} ns/day ({milliseconds['mm']:.1f} ms per step)"],
        ["ML/MM step time / pure MM step time", f"{simulation['step_time_ratio']:.2f}"],
        ["temperature, mean", f"{simulation['temperature_k']:.0f} K"],
        ["ligand temperature, mean", f"{simulation['ligand_temperature_k']:.0f} K"],
        [
            "ligand internal RMSD to the start (heavy atoms), mean and maximum",
            f"{rmsd['mean']:.3f} and {rmsd['max']:.3f} Å",
        ],
        ["energy at lambda = 0", f"{energies['lambda_0']:.4f} kJ/mol"],
        ["energy of the pure MM System", f"{energies['mm']:.4f} kJ/mol"],
        ["energy at lambda = 1", f"{energies['lambda_1']:.4f} kJ/mol"],
        ["energy of the ML/MM System without interpolation", f"{energies['ml_mm']:.4f} kJ/mol"],
    ]
    return Table(
        "Simulation",
        ("quantity", "value"),
        rows,
        f"{simulation['atoms']} atoms, {simulation['ligand_atoms']} of them by the model; OpenMM platform "
        f"{simulation['platform']}. The model's energy is relative to the reference energies of its labels.",
    )


def main() -> None:
    arguments = parse_arguments()
    evaluation = json.loads(arguments.evaluation.read_text())
    simulation = json.loads((arguments.simulation / "simulation.json").read_text())
    dynamics_picture = arguments.output.with_name("energy_and_temperature.png")
    plot_over_time(
        dynamics_picture,
        read_columns(arguments.simulation / "state.csv"),
        "time_ps",
        "time (ps)",
        (
            Panel("energy (kJ/mol)", {"potential energy": "potential_energy_kj_per_mol"}),
            Panel("temperature (K)", {"all atoms": "temperature_k", "ligand": "ligand_temperature_k"}),
            Panel("RMSD (Å)", {"ligand, heavy atoms, to the start": "ligand_rmsd_angstrom"}),
        ),
    )
    learning_picture = arguments.output.with_name("learning_curve.png")
    plot_learning_curve(learning_picture, arguments.training, evaluation["energy_unit"])
    write_html(
        arguments.output,
        "DKMP^C in T4 lysozyme L99A: p-xylene by a trained potential",
        "The ligand p-xylene is described by a DKMP^C potential trained with torchmd-train on "
        f"{evaluation['level_of_theory']} labels, the rest by Amber ff96 in OBC2 implicit solvent.",
        (error_table(evaluation), simulation_table(simulation)),
        {
            "Energy, temperature and ligand RMSD over time": dynamics_picture,
            "Validation errors during training": learning_picture,
        },
    )
    print(f"written: {arguments.output}, {dynamics_picture}, {learning_picture}")


if __name__ == "__main__":
    main()
