"""Figure 5: does the total energy stay constant? DKMP^C, its hard shells, and a classical force field.

Every run: open boundaries, no constraints, velocity Verlet, 0.5 fs (and, to tell what the time step does,
0.25 fs), double precision, from the same conformation after 1 ps of Langevin dynamics at 300 K with its own
potential. Beside the total energy stands the energy that velocity Verlet conserves to fourth order
(dkmp_plugin.evaluation.shadow_energy).

chignolin: 166 atoms, GFN2-xTB + ALPB water labels, trained here with examples/dkmp_chignolin.yaml, beside
    Amber14 + OBC2.
p-xylene: 18 atoms, GFN2-xTB labels, the demo's model (scripts/demo.sh) and the hard shells trained by
    scripts/reproduce_smoothness.py, beside GAFF. Minutes instead of hours.

Each stage is skipped when its result exists, and a run that was killed or is to become longer goes on where
it stopped: call the script again.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List

from shared_data import data_folder

import torch  # isort: skip  (before openmm: its Torch plugin needs torch's libraries)
import numpy as np
import openmm
import yaml
from amber_chignolin import load_amber_chignolin
from matplotlib.figure import Figure
from openmm import app, unit

from dkmp_plugin.datasets.label_file import read_label_file
from dkmp_plugin.evaluation.columns import read_columns
from dkmp_plugin.evaluation.nve import simulate_nve
from dkmp_plugin.evaluation.nve_summary import energy_change, kinetic_temperature, summarise
from dkmp_plugin.files import replaced_on_success
from dkmp_plugin.labeling.extraction import extract_molecule
from dkmp_plugin.simulation import export_model, read_model_info
from dkmp_plugin.training.log_dir import best_checkpoint
from dkmp_plugin.training.torchmd_train import train_to_end, write_configuration

ROOT = Path(__file__).resolve().parent.parent
CONFIGURATION = ROOT / "examples/dkmp_chignolin.yaml"
# name: what the figure calls it, potential, program, time step in fs. Order: cheap and most wanted first.
RUNS: Dict[str, Dict[str, Any]] = {
    name: {"label": label, "model": model, "engine": engine, "time_step_fs": time_step}
    for name, label, model, engine, time_step in (
        ("classical", "classical force field", "classical.xml", "openmm", 0.5),
        ("smooth", "dkmp-c, smooth shells", "smooth.pt", "openmm", 0.5),
        ("hard", "dkmp-c, hard shells", "hard.pt", "openmm", 0.5),
        ("classical-0.25fs", "classical force field, 0.25 fs", "classical.xml", "openmm", 0.25),
        ("smooth-0.25fs", "dkmp-c, smooth shells, 0.25 fs", "smooth.pt", "openmm", 0.25),
        ("smooth-ase", "dkmp-c, smooth shells (ASE)", "smooth.pt", "ase", 0.5),
    )
}
THINNED_ROWS = 400  # of each run in the CSV under version control


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--molecule", choices=("chignolin", "p-xylene"), default="chignolin")
    parser.add_argument("--runs", nargs="*", choices=list(RUNS), default=list(RUNS), help="which [all]")
    parser.add_argument("--duration", type=float, default=20.0, help="picoseconds of each")
    parser.add_argument("--output", type=Path, help="folder of models and runs [runs/nve/MOLECULE]")
    parser.add_argument("--results", type=Path, help="folder for figure and numbers [scripts/results/nve]")
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"), help="p-xylene: scripts/demo.sh's")
    parser.add_argument(
        "--hard-training",
        type=Path,
        default=Path("runs/smoothness/dkmp-c-hard-shells"),
        help="p-xylene: log_dir of the training with hard shells",
    )
    arguments = parser.parse_args()
    arguments.output = arguments.output or Path("runs/nve") / arguments.molecule
    arguments.results = arguments.results or ROOT / "scripts/results/nve"
    return arguments


def export_once(checkpoint: Path, model: Path) -> None:
    if not model.is_file():
        export_model(checkpoint, model, dtype="float64")


def write_start(path: Path, topology: app.Topology, positions: np.ndarray) -> None:
    with replaced_on_success(path) as temporary, temporary.open("w") as file:
        app.PDBFile.writeFile(topology, positions * unit.angstrom, file)


def write_system(path: Path, system: openmm.System) -> None:
    with replaced_on_success(path) as temporary:
        temporary.write_text(openmm.XmlSerializer.serialize(system))


def prepare_chignolin(folder: Path, runs: List[str]) -> None:
    """Labels, the runs' models through the stock torchmd-train, their exports, Amber, the start."""
    if not (folder / "chignolin.h5").is_file():
        label = [sys.executable, str(ROOT / "scripts/label_chignolin.py"), "--output", str(folder)]
        subprocess.run(label, check=True)
    for name, overlap in (("smooth", 1.0), ("hard", 0.0)):
        trained, model = folder / name, f"{name}.pt"
        if (folder / model).is_file() or model not in [RUNS[run]["model"] for run in runs]:
            continue
        if not (trained / "finished").is_file():
            settings = {
                **yaml.safe_load(CONFIGURATION.read_text()),
                "dataset_root": str(folder / "chignolin.h5"),
                "splits": str(folder / "splits.npz"),
                "shell_overlap": overlap,
                "log_dir": str(trained),
            }
            train_to_end(write_configuration(folder / f"{name}.yaml", settings))
            (trained / "finished").touch()
        export_once(best_checkpoint(trained), folder / model)
    if not (folder / "start.pdb").is_file():
        pdb, system = load_amber_chignolin(data_folder() / "chignolin")
        write_system(folder / "classical.xml", system)
        labels = read_label_file(folder / "chignolin.h5")
        # The last 300 K conformation of the training data.
        write_start(folder / "start.pdb", pdb.topology, labels.positions[labels.run == 0][-1])


def prepare_p_xylene(folder: Path, demo: Path, hard_training: Path, runs: List[str]) -> None:
    """Exports of the runs' models, which exist, GAFF of the ligand, the start."""
    folder.mkdir(parents=True, exist_ok=True)
    models = {RUNS[run]["model"] for run in runs}
    if "smooth.pt" in models:
        export_once(demo / "best.ckpt", folder / "smooth.pt")
    if "hard.pt" in models:
        export_once(best_checkpoint(hard_training), folder / "hard.pt")
    if not (folder / "start.pdb").is_file():
        sys.path.insert(0, str(ROOT / "examples"))
        from t4_lysozyme import load_complex

        complex_ = load_complex()
        system = extract_molecule(complex_.system, complex_.ligand)
        write_system(folder / "classical.xml", system)
        topology = app.Topology()
        residue = topology.addResidue("TMP", topology.addChain())
        atoms = list(complex_.topology.atoms())
        for index in complex_.ligand:
            topology.addAtom(atoms[index].name, atoms[index].element, residue)
        write_start(folder / "start.pdb", topology, complex_.positions[complex_.ligand])


def simulate(name: str, arguments: argparse.Namespace) -> None:
    folder = arguments.output
    try:
        simulate_nve(
            folder / RUNS[name]["model"],
            folder / "start.pdb",
            folder / f"run-{name}",
            engine=RUNS[name]["engine"],
            duration=arguments.duration,
            time_step=RUNS[name]["time_step_fs"],
        )
    except ValueError as error:
        # A potential that blows up is a result; what it did until then is in the log.
        print(f"{name}: {error}", file=sys.stderr)


def collect(arguments: argparse.Namespace) -> List[Dict[str, Any]]:
    """Numbers of every run so far; writes the JSON and the thinned CSV."""
    results: List[Dict[str, Any]] = []
    curves = ["run,time_ps,total_energy_change_mev_per_atom,shadow_energy_change_mev_per_atom,temperature_k"]
    for name, run in RUNS.items():
        folder = arguments.output / f"run-{name}"
        if not (folder / "state.npz").is_file():
            continue
        with np.load(folder / "state.npz") as state:
            num_atoms = len(state["positions"])
        try:
            drifts = summarise(folder, num_atoms)
        except ValueError as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        columns = read_columns(folder / "energies.csv")
        change = energy_change(columns, "total", num_atoms)
        shadow = energy_change(columns, "shadow", num_atoms)
        kelvin = kinetic_temperature(columns, num_atoms)
        for row in np.unique(np.linspace(0, len(change) - 1, THINNED_ROWS).astype(int)):
            curves.append(
                f"{name},{columns['time_ps'][row]:.3f},{change[row]:.5f},{shadow[row]:.5f},{kelvin[row]:.1f}"
            )
        result = {"molecule": arguments.molecule, "atoms": num_atoms, "run": name, **run}
        if run["model"].endswith(".pt"):
            result["labels"] = read_model_info(arguments.output / run["model"]).level_of_theory
        result.update({"precision": "double", **asdict(drifts.total)})
        result["shadow_drift"] = drifts.shadow.drift
        result["shadow_drift_error"] = drifts.shadow.drift_error
        result["shadow_fluctuation"] = drifts.shadow.fluctuation
        result["shadow_largest_change"] = drifts.shadow.largest_change
        result["shadow_largest_change_time"] = drifts.shadow.largest_change_time
        result["mean_temperature_k"] = float(kelvin.mean())
        results.append(result)
    prefix = arguments.results / arguments.molecule
    with replaced_on_success(f"{prefix}.json") as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n")
    with replaced_on_success(f"{prefix}.csv") as temporary:
        temporary.write_text("\n".join(curves) + "\n")
    return results


def draw(results: List[Dict[str, Any]], arguments: argparse.Namespace) -> None:
    figure = Figure(figsize=(8, 9), layout="constrained")
    panels = figure.subplots(3, 1, sharex=True)
    for result in results:
        columns = read_columns(arguments.output / f"run-{result['run']}" / "energies.csv")
        total, shadow = (energy_change(columns, name, result["atoms"]) for name in ("total", "shadow"))
        panels[0].plot(columns["time_ps"], total, label=result["label"], linewidth=1)
        if result["run"] != "hard":
            panels[1].plot(columns["time_ps"], total, label=result["label"], linewidth=0.5)
            panels[2].plot(columns["time_ps"], shadow, label=result["label"], linewidth=0.5)
    titles = (
        "total energy",
        "total energy, without hard shells",
        "velocity Verlet's own energy, without hard shells",
    )
    for axes, title in zip(panels, titles, strict=True):
        axes.set_ylabel("change, meV/atom")
        axes.set_title(f"{arguments.molecule}, NVE, GFN2-xTB labels: {title}", fontsize="medium")
        axes.legend(fontsize="small")
    panels[-1].set_xlabel("time, ps")
    with replaced_on_success(arguments.results / f"{arguments.molecule}.png") as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    if arguments.molecule == "chignolin":
        prepare_chignolin(arguments.output, arguments.runs)
    else:
        prepare_p_xylene(arguments.output, arguments.demo, arguments.hard_training, arguments.runs)
    for name in arguments.runs:
        simulate(name, arguments)
    results = collect(arguments)
    draw(results, arguments)
    print(
        f"{arguments.molecule:32s}{'ps':>6s}{'drift, meV/atom/ns':>26s}"
        f"{'fluctuation, meV/atom':>24s}{'the same, shadow energy':>48s}{'mean K':>8s}"
    )
    for result in results:
        drift = f"{result['drift']:.3g} ± {result['drift_error']:.2g}"
        shadow = f"{result['shadow_drift']:.3g} ± {result['shadow_drift_error']:.2g}"
        print(
            f"{result['label']:32s}{result['duration']:6.1f}{drift:>26s}{result['fluctuation']:24.3g}"
            f"{shadow:>26s}{result['shadow_fluctuation']:22.3g}"
            f"{result['mean_temperature_k']:8.0f}"
        )
    print(f"written: {arguments.results}/{arguments.molecule}.*")


if __name__ == "__main__":
    main()
