"""Figure 5: does the total energy of chignolin stay constant? DKMP^C, its hard shells, and Amber14 + OBC2.

Every run: 166 atoms, open boundaries, no constraints, velocity Verlet, 0.5 fs, double precision, from the
same conformation after 1 ps of Langevin dynamics at 300 K with its own potential. The models are trained on
GFN2-xTB + ALPB water labels with examples/dkmp_chignolin.yaml. Each stage is skipped when its result exists,
and a run that was killed or is to become longer goes on where it stopped: call the script again.
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List

import torch  # isort: skip  (before openmm: its Torch plugin needs torch's libraries)
import numpy as np
from matplotlib.figure import Figure

from dkmp_plugin.datasets.label_file import read_label_file
from dkmp_plugin.evaluation.nve import simulate_nve, summarise
from dkmp_plugin.evaluation.prediction import best_checkpoint
from dkmp_plugin.evaluation.report import read_columns
from dkmp_plugin.files import replaced_on_success
from dkmp_plugin.simulation import export_model

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "scripts/results/nve"
CONFIGURATION = ROOT / "examples/dkmp_chignolin.yaml"
# name: what the figure calls it, potential, program. Order: cheap and most wanted first.
RUNS: Dict[str, Dict[str, str]] = {
    "amber14-obc2": {"label": "Amber14 + OBC2", "model": "amber14-obc2", "engine": "openmm"},
    "smooth": {"label": "dkmp-c, smooth shells", "model": "smooth.pt", "engine": "openmm"},
    "hard": {"label": "dkmp-c, hard shells", "model": "hard.pt", "engine": "openmm"},
    "smooth-ase": {"label": "dkmp-c, smooth shells (ASE)", "model": "smooth.pt", "engine": "ase"},
}
THINNED_ROWS = 400  # of each run in the CSV under version control


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("runs/nve"), help="folder of models and runs")
    parser.add_argument("--runs", nargs="*", choices=list(RUNS), default=list(RUNS), help="which [all]")
    parser.add_argument("--duration", type=float, default=20.0, help="picoseconds of each")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for figure and numbers")
    return parser.parse_args()


def train(folder: Path) -> None:
    """Labels, both trainings through the stock torchmd-train, and both exports in float64."""
    if not (folder / "chignolin.h5").is_file():
        label = [sys.executable, str(ROOT / "scripts/label_chignolin.py"), "--output", str(folder)]
        subprocess.run(label, check=True)
    for name, overlap in (("smooth", "1.0"), ("hard", "0")):
        if (folder / f"{name}.pt").is_file():
            continue
        trained = folder / name
        if not (trained / "finished").is_file():
            command = [str(Path(sys.executable).with_name("torchmd-train")), "--conf", str(CONFIGURATION)]
            command += ["--dataset-root", str(folder / "chignolin.h5")]
            command += ["--splits", str(folder / "splits.npz")]
            command += ["--shell-overlap", overlap, "--log-dir", str(trained)]
            interrupted = sorted(trained.glob("epoch=*.ckpt"), key=lambda path: path.stat().st_mtime)
            if interrupted:
                command += ["--load-model", str(interrupted[-1])]
            subprocess.run(command, check=True)
            (trained / "finished").touch()
        export_model(best_checkpoint(trained), folder / f"{name}.pt", dtype="float64")


def write_start(folder: Path) -> Path:
    """The last 300 K conformation of the training data as a PDB file: where every run starts."""
    path = folder / "start.pdb"
    if not path.is_file():
        from openmm import app, unit

        data = Path(os.environ.get("DKMP_DATA", ROOT.parent / "shared/data")) / "chignolin"
        labels = read_label_file(folder / "chignolin.h5")
        positions = labels.positions[labels.run == 0][-1]
        with (data / "chignolin.pdb").open() as file:
            topology = app.PDBFile(file).topology
        with replaced_on_success(path) as temporary, temporary.open("w") as file:
            app.PDBFile.writeFile(topology, positions * unit.angstrom, file)
    return path


def simulate(name: str, arguments: argparse.Namespace) -> None:
    run = RUNS[name]
    model = arguments.output / run["model"] if run["model"].endswith(".pt") else run["model"]
    try:
        simulate_nve(
            model,
            write_start(arguments.output),
            arguments.output / f"run-{name}",
            engine=run["engine"],
            duration=arguments.duration,
        )
    except ValueError as error:
        # A potential that blows up is a result; what it did until then is in the log.
        print(f"{name}: {error}", file=sys.stderr)


def collect(arguments: argparse.Namespace) -> List[Dict[str, Any]]:
    """Numbers of every run so far; writes the JSON and the thinned CSV."""
    results, curves = [], ["run,time_ps,total_energy_change_mev_per_atom,temperature_k"]
    for name, run in RUNS.items():
        folder = arguments.output / f"run-{name}"
        if not (folder / "energies.csv").is_file():
            continue
        with np.load(folder / "state.npz") as state:
            num_atoms = len(state["positions"])
        try:
            drift = summarise(folder, num_atoms)
        except ValueError as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        columns = read_columns(folder / "energies.csv")
        change = (columns["total_energy_mev"] - columns["total_energy_mev"][0]) / num_atoms
        kelvin = 2.0 * columns["kinetic_energy_mev"] / (3 * num_atoms * 0.08617333262)
        for row in np.unique(np.linspace(0, len(change) - 1, THINNED_ROWS).astype(int)):
            curves.append(f"{name},{columns['time_ps'][row]:.3f},{change[row]:.5f},{kelvin[row]:.1f}")
        results.append(
            {
                "run": name,
                **run,
                "labels": "GFN2-xTB + ALPB water"
                if run["model"].endswith(".pt")
                else "classical force field",
                "precision": "double",
                "time_step_fs": 0.5,
                "atoms": num_atoms,
                **asdict(drift),
            }
        )
    with replaced_on_success(arguments.results / "results.json") as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n")
    with replaced_on_success(arguments.results / "energies.csv") as temporary:
        temporary.write_text("\n".join(curves) + "\n")
    return results


def draw(results: List[Dict[str, Any]], arguments: argparse.Namespace) -> None:
    figure = Figure(figsize=(8, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for result in results:
        columns = read_columns(arguments.output / f"run-{result['run']}" / "energies.csv")
        change = (columns["total_energy_mev"] - columns["total_energy_mev"][0]) / result["atoms"]
        above.plot(columns["time_ps"], change, label=result["label"], linewidth=1)
        if result["run"] != "hard":
            below.plot(columns["time_ps"], change, label=result["label"], linewidth=0.5)
    for axes, title in ((above, "all"), (below, "without hard shells")):
        axes.set_ylabel("change of total energy, meV/atom")
        axes.set_title(f"chignolin, NVE, 0.5 fs, models of GFN2-xTB labels: {title}", fontsize="medium")
        axes.legend(fontsize="small")
    below.set_xlabel("time, ps")
    with replaced_on_success(arguments.results / "figure5.png") as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    train(arguments.output)
    for name in arguments.runs:
        simulate(name, arguments)
    results = collect(arguments)
    draw(results, arguments)
    print(f"{'':30s}{'ps':>6s}{'drift, meV/atom/ns':>26s}{'fluctuation, meV/atom':>24s}")
    for result in results:
        drift = f"{result['drift']:.3g} ± {result['drift_error']:.2g}"
        print(f"{result['label']:30s}{result['duration']:6.1f}{drift:>26s}{result['fluctuation']:24.3g}")
    print(f"written: {arguments.results}")


if __name__ == "__main__":
    main()
