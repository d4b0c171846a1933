"""Force error against cutoff and against depth, for dkmp-c and two peers on a fixed budget (Figure 6).

    python scripts/reproduce_parameters.py train     # every point that has no result file yet
    python scripts/reproduce_parameters.py plot      # force MAE on validation structures, PNG

A point is one training of the chignolin row of scripts/s2ef/protocol.yaml (GFN2-xTB labels) with another
cutoff or number of layers, everything else as there, on CPU_SECONDS process CPU seconds of one thread (five
minutes of one core; two trainings fill two). The learning rate is the one that the comparison's search found
for the model; a point that diverges is trained anew with half of it, and its result file says so.
Choosing settings is what such a figure is for, so the errors are those of the validation structures; the
test run stays unseen. Interrupted trainings resume (runs/parameters); results are kept in
scripts/results/parameters. schnetpack's PaiNN needs scripts/install_benchmark_peers.sh and
PYTHONPATH=.venv-peers. Data: DKMP_DATA.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any, Dict, List, NamedTuple

import torch
from s2ef.protocol import Protocol, load_protocol
from s2ef.structures import load_structures
from s2ef.training import Budget, train_to_the_end

from dkmp_plugin.files import replaced_on_success

ROOT = Path(__file__).resolve().parent.parent
ROW = "chignolin"
CPU_SECONDS = 300.0
MODELS = ("dkmp-c", "painn", "equivariant-transformer")
CUTOFFS = (6.0, 8.0, 10.0, 12.0, 14.0)
LAYERS = (3, 5, 7, 9)


class Point(NamedTuple):
    """One training: a model with one setting changed."""

    model: str
    parameter: str
    value: float

    @property
    def name(self) -> str:
        return f"{self.model}__{self.parameter}__{self.value:g}"

    def settings(self, protocol: Protocol) -> Dict[str, Any]:
        """The protocol's settings with this point's change.

        dkmp-c keeps two passes through its shells whatever its depth. Inside 14 Å of an atom lies all of
        chignolin: no cap on the number of neighbours may cut that off.
        """
        settings = {**protocol.settings(ROW, self.model), self.parameter: self.value}
        if self.parameter == "num_layers":
            settings["num_layers"] = int(self.value)
        if self.model == "dkmp-c":
            settings["num_shells"] = max(1, settings["num_layers"] // 2)
        else:
            settings["max_num_neighbors"] = 200
        return settings


def all_points() -> List[Point]:
    """Cutoffs first, the models in turn: an unfinished figure shows all of them."""
    scans = (("cutoff_upper", CUTOFFS), ("num_layers", LAYERS))
    return [
        Point(model, parameter, value) for parameter, values in scans for value in values for model in MODELS
    ]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "scripts/results/parameters")
    parser.add_argument(
        "--searches",
        type=Path,
        default=ROOT / "scripts/results/s2ef",
        help="learning rates of the comparison",
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    train = verbs.add_parser("train", help="train the points that have no result file yet")
    train.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    train.add_argument(
        "--work", type=Path, default=ROOT / "runs/parameters", help="folder of the checkpoints"
    )
    plot = verbs.add_parser("plot", help="draw the figure")
    plot.add_argument("--output", type=Path, default=ROOT / "scripts/results/parameters/force_error.png")
    return parser.parse_args()


def searched_learning_rate(model: str, folder: Path) -> float:
    search = folder / f"{ROW}__{model}__learning_rate.json"
    if not search.is_file():
        raise SystemExit(f"there is no {search}; run scripts/reproduce_s2ef.py train --rows {ROW} first")
    return json.loads(search.read_text())["learning_rate"]


def train(protocol: Protocol, point: Point, arguments: argparse.Namespace) -> None:
    result = arguments.results / f"{point.name}.json"
    if result.is_file():
        return
    structures = load_structures(protocol.rows[ROW])
    learning_rate = searched_learning_rate(point.model, arguments.searches)
    print(f"== {point.name}, learning rate {learning_rate:.2g}", flush=True)
    training = train_to_the_end(
        point.model,
        point.settings(protocol),
        learning_rate,
        structures,
        protocol.rows[ROW].batch_size,
        Budget(cpu_seconds=CPU_SECONDS),
        arguments.work / f"{point.name}.pt",
    )
    values = {
        **point._asdict(),
        "protocol": protocol.version,
        "learning_rate": training.learning_rate,
        "cpu_seconds": training.progress.cpu_seconds,
        "epochs": training.epochs,
        "parameters": training.parameters,
        "validation": dataclasses.asdict(training.errors(structures["validation"])),
    }
    with replaced_on_success(result) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n")
    print(f"written: {result}", flush=True)


def plot(protocol: Protocol, results: Path, output: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = [json.loads(path.read_text()) for path in sorted(results.glob("*.json"))]
    if not found:
        raise SystemExit(f"{results} has no results; train first")
    unit = protocol.rows[ROW].energy_unit
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    titles = (("cutoff_upper", "cutoff (Å)"), ("num_layers", "layers"))
    for axis, (parameter, label) in zip(axes, titles, strict=True):
        for model in MODELS:
            points = [r for r in found if (r["model"], r["parameter"]) == (model, parameter)]
            points.sort(key=lambda point: point["value"])
            if points:
                errors = [point["validation"]["force_mae"] for point in points]
                axis.plot([point["value"] for point in points], errors, "o-", label=model)
        axis.set_xlabel(label)
    axes[0].set_ylabel(f"force MAE ({unit}/Å), validation")
    axes[0].legend()
    figure.suptitle(f"{ROW}, {protocol.rows[ROW].labels} labels, {CPU_SECONDS:g} CPU s per point")
    figure.tight_layout()
    with replaced_on_success(output) as temporary:
        figure.savefig(temporary, dpi=150)
    print(f"written: {output} ({len(found)} of {len(all_points())} points)")


def main() -> None:
    arguments = parse_arguments()
    protocol = load_protocol()
    torch.set_num_threads(1)
    if arguments.verb == "plot":
        plot(protocol, arguments.results, arguments.output)
        return
    for point in all_points():
        if point.model in arguments.models:
            train(protocol, point, arguments)


if __name__ == "__main__":
    main()
