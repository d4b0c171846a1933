"""Short trainings of dkmp-c that differ in one thing: what was tried to lower its error, and what it gave.

    cd scripts; python -m s2ef.levers train NAME '{cutoff_upper: 6.0}'   # YAML settings over the protocol's
    cd scripts; python -m s2ef.levers table                              # Markdown

Errors are those of the validation structures; test structures are never read here. All pilots of one row and
length have the same seed and data, so they compare with each other and with nothing else. Where the code of a
pilot differed from what is committed now, its result file says in words how (its settings ``flags`` and
``layer_shells`` went with that code); "degrees-gain" became revision 2.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any, Dict, List

import torch
import yaml

from dkmp_plugin.files import replaced_on_success
from s2ef.protocol import PROTOCOL_FILE, load_protocol
from s2ef.structures import load_structures
from s2ef.training import Budget, Training

RESULTS = Path(__file__).resolve().parent.parent / "results/s2ef/levers"


def train(arguments: argparse.Namespace) -> None:
    """One pilot; its result file names everything that differs from the protocol."""
    protocol = load_protocol(arguments.protocol)
    row = protocol.rows[arguments.row]
    changes = yaml.safe_load(arguments.settings)
    settings = {**protocol.settings(row.name, arguments.model), **changes}
    structures = load_structures(row)
    training = Training(
        arguments.model,
        settings,
        arguments.learning_rate,
        structures,
        row.batch_size,
        Budget(epochs=arguments.epochs),
    )
    training.run()
    result = {
        "name": arguments.name,
        "row": row.name,
        "model": arguments.model,
        "energy_unit": row.energy_unit,
        "changes": changes,
        "code": arguments.code,
        "epochs": arguments.epochs,
        "learning_rate": arguments.learning_rate,
        "cpu_seconds": training.progress.cpu_seconds,
        "parameters": training.parameters,
        "training_losses": training.progress.losses,
        "validation": dataclasses.asdict(training.errors(structures["validation"])),
    }
    path = arguments.results / f"{row.name}__{arguments.name}.json"
    with replaced_on_success(path) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written: {path}: {result['validation']}")


def markdown(results: List[Dict[str, Any]]) -> str:
    """One line per pilot, best force error first within a row and length."""
    lines = [
        "| data | epochs | pilot | settings | code | force MAE | energy MAE | CPU s | parameters |",
        "|---|---:|---|---|---|---:|---:|---:|---:|",
    ]
    order = sorted(results, key=lambda r: (r["row"], r["epochs"], r["validation"]["force_mae"]))
    for result in order:
        changes = ", ".join(f"{key}: {value}" for key, value in result["changes"].items())
        errors = result["validation"]
        lines.append(
            f"| {result['row']} ({result['energy_unit']}) | {result['epochs']:g} | {result['name']} "
            f"| {changes or 'as the protocol'} | {result['code']} | {errors['force_mae']:.4g} "
            f"| {errors['energy_mae']:.4g} | {result['cpu_seconds']:.0f} | {result['parameters']} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--protocol", type=Path, default=PROTOCOL_FILE, help="data and common settings")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    verbs = parser.add_subparsers(dest="verb", required=True)
    pilot = verbs.add_parser("train", help="one pilot")
    pilot.add_argument("name")
    pilot.add_argument("settings", nargs="?", default="{}", help="YAML mapping of changed settings")
    pilot.add_argument("--model", default="dkmp-c")
    pilot.add_argument("--row", default="chignolin")
    pilot.add_argument("--epochs", type=float, default=2.0)
    pilot.add_argument("--learning-rate", type=float, default=3e-3)
    pilot.add_argument("--code", default="", help="what differs in the code of this pilot, in words")
    verbs.add_parser("table", help="all pilots as a table")
    arguments = parser.parse_args()
    if arguments.verb == "table":
        print(markdown([json.loads(path.read_text()) for path in sorted(arguments.results.glob("*.json"))]))
        return
    torch.set_num_threads(1)
    train(arguments)


if __name__ == "__main__":
    main()
