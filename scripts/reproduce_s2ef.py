"""Energies and forces of dkmp-c and its peers on equal terms (Table 3 of the paper, on other data).

Protocol: scripts/s2ef/protocol.yaml, fixed before the first result. Two budgets per model and row: the same
number of epochs, and the same number of process CPU seconds of a single-threaded training.

    python scripts/reproduce_s2ef.py train                      # everything, one run after the other
    python scripts/reproduce_s2ef.py train --rows chignolin --models dkmp-c painn --budgets epochs
    python scripts/reproduce_s2ef.py table                      # Markdown; --csv FILE
    python scripts/reproduce_s2ef.py evaluate chignolin FILE@0:300   # trained models on other structures
    python scripts/reproduce_s2ef.py displace 3bpa              # their forces outside the training data
    python scripts/reproduce_s2ef.py energies chignolin         # their energies' mean errors, file by file

To measure again rather than to fill the table, name folders of your own: --results FOLDER before the verb,
--work FOLDER behind train and evaluate.

An interrupted training goes on from its checkpoint (runs/s2ef). A finished one leaves a result file in
scripts/results/s2ef, from which the table is made, and is not repeated. schnetpack's PaiNN needs
scripts/install_benchmark_peers.sh and PYTHONPATH=.venv-peers. Data: DKMP_DATA (../shared/data).
"""

import argparse
import dataclasses
import json
import platform
import shutil
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np
import torch
from s2ef.measurement import measure_in_new_process
from s2ef.protocol import BUDGETS, PROTOCOL_FILE, Protocol, Row, load_protocol
from s2ef.structures import Structures, load_structures
from s2ef.table import load_results, markdown, write_csv
from s2ef.training import Budget, Diverged, Training, train_to_the_end

from dkmp_plugin import __version__
from dkmp_plugin.files import replaced_on_success

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "scripts/results/s2ef"
DISPLACEMENTS = (0.0, 0.05, 0.1, 0.2, 0.3)  # Å
DISPLACED_STRUCTURES = 20


def parse_arguments(protocol: Protocol) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--protocol", type=Path, default=PROTOCOL_FILE, help="what is compared")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    verbs = parser.add_subparsers(dest="verb", required=True)
    train = verbs.add_parser("train", help="train what has no result file yet")
    train.add_argument("--rows", nargs="+", choices=list(protocol.rows), default=list(protocol.rows))
    train.add_argument("--models", nargs="+", choices=list(protocol.models), default=list(protocol.models))
    train.add_argument("--budgets", nargs="+", choices=BUDGETS, default=list(BUDGETS))
    train.add_argument("--work", type=Path, default=ROOT / "runs/s2ef", help="folder of the checkpoints")
    table = verbs.add_parser("table", help="print the result files as a table")
    table.add_argument("--csv", type=Path, help="write the table to this file too")
    evaluate = verbs.add_parser(
        "evaluate", help="errors of trained models on other structures of a row's molecule"
    )
    displace = verbs.add_parser(
        "displace", help="largest forces of trained models on test structures with displaced atoms"
    )
    energies = verbs.add_parser("energies", help="mean error and scatter of trained models' energies")
    for verb in (evaluate, displace, energies):
        verb.add_argument("row", choices=list(protocol.rows))
        verb.add_argument("--models", nargs="+", choices=list(protocol.models), default=list(protocol.models))
        verb.add_argument("--budget", choices=BUDGETS, default="epochs")
        verb.add_argument("--work", type=Path, default=ROOT / "runs/s2ef", help="folder of the checkpoints")
    evaluate.add_argument(
        "files", nargs="+", help="FILE@start:stop:step below DKMP_DATA, in the row's format"
    )
    return parser.parse_args()


def write_json(path: Path, values: Dict[str, Any]) -> None:
    with replaced_on_success(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n")
    print(f"written: {path}", flush=True)


def measurement(protocol_file: Path, row: Row, model: str, path: Path) -> Dict[str, float]:
    """Inference time and training memory, the same for both budgets: measured once."""
    if not path.is_file():
        write_json(path, measure_in_new_process(protocol_file, row.name, model))
    return json.loads(path.read_text())


def searched_checkpoint(work: Path, row: Row, model: str, learning_rate: float, epochs: float) -> Path:
    """The rate falls over so many epochs: a search of another length cannot go on from it."""
    return work / f"{row.name}__{model}__rate_{learning_rate}__{epochs:g}_epochs.pt"


def choose_learning_rate(
    protocol: Protocol, row: Row, model: str, structures: Dict[str, Any], path: Path, work: Path
) -> float:
    """A training with every candidate not tried before; the lowest validation force MAE wins."""
    settings = protocol.settings(row.name, model)
    if len(settings["learning_rates"]) == 1:
        return settings["learning_rates"][0]
    errors = json.loads(path.read_text())["validation_force_mae"] if path.is_file() else {}
    missing = [candidate for candidate in settings["learning_rates"] if str(candidate) not in errors]
    if not missing:
        return json.loads(path.read_text())["learning_rate"]
    for candidate in missing:
        epochs = settings["learning_rate_search_epochs"]
        budget, checkpoint = Budget(epochs=epochs), searched_checkpoint(work, row, model, candidate, epochs)
        training = Training(model, settings, candidate, structures, row.batch_size, budget, checkpoint)
        try:
            training.run()
        except Diverged as error:
            print(error, flush=True)
            errors[str(candidate)] = None
        else:
            errors[str(candidate)] = training.errors(structures["validation"]).force_mae
    finite = {float(candidate): error for candidate, error in errors.items() if error is not None}
    best = min(finite, key=lambda candidate: finite[candidate])
    write_json(
        path,
        {
            "row": row.name,
            "model": model,
            "protocol": protocol.version,
            "learning_rate": best,
            "validation_force_mae": errors,
        },
    )
    return best


def train(protocol: Protocol, row: Row, model: str, budget: str, arguments: argparse.Namespace) -> None:
    prefix = arguments.results / f"{row.name}__{model}"
    result = prefix.with_name(f"{prefix.name}__{budget}.json")
    settings = protocol.settings(row.name, model)
    structures = load_structures(row)
    search = prefix.with_name(f"{prefix.name}__learning_rate.json")
    measured = prefix.with_name(f"{prefix.name}__measurement.json")
    learning_rate = choose_learning_rate(protocol, row, model, structures, search, arguments.work)
    if result.is_file():
        trained = json.loads(result.read_text())
        if trained.get("searched_learning_rate", trained["learning_rate"]) == learning_rate:
            return
    print(f"== {row.name}, {model}, equal {budget}", flush=True)
    limit = Budget(epochs=row.epochs) if budget == "epochs" else Budget(cpu_seconds=row.cpu_seconds)
    checkpoint = arguments.work / f"{row.name}__{model}__{budget}.pt"
    searched = searched_checkpoint(arguments.work, row, model, learning_rate, row.epochs)
    if budget == "epochs" and searched.is_file():
        # The search has trained this very model.
        with replaced_on_success(checkpoint) as temporary:
            shutil.copyfile(searched, temporary)
    training = train_to_the_end(model, settings, learning_rate, structures, row.batch_size, limit, checkpoint)
    progress = training.progress
    write_json(
        result,
        {
            "row": row.name,
            "labels": row.labels,
            "energy_unit": row.energy_unit,
            "model": model,
            "budget": budget,
            "protocol": protocol.version,
            "settings": settings,
            # Lower than the searched one where a training at that rate diverged.
            "learning_rate": training.learning_rate,
            "searched_learning_rate": learning_rate,
            "batch_size": row.batch_size,
            "structures": {part: len(members) for part, members in structures.items()},
            "parameters": training.parameters,
            "epochs": training.epochs,
            "steps": progress.step,
            "cpu_seconds": progress.cpu_seconds,
            "cpu_seconds_per_epoch": progress.cpu_seconds / training.epochs,
            **measurement(arguments.protocol, row, model, measured),
            "validation": dataclasses.asdict(training.errors(structures["validation"])),
            "test": dataclasses.asdict(training.errors(structures["test"])),
            "training_losses": progress.losses,
            "versions": {
                "dkmp_plugin": __version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        },
    )


def trained(
    row: Row, structures: Dict[str, Structures], protocol: Protocol, arguments: argparse.Namespace
) -> Iterator[Tuple[Dict[str, Any], Training]]:
    """Result and training of every model of a row whose checkpoint is at hand."""
    found = False
    for result in load_results(arguments.results, protocol):
        model, budget = result["model"], result["budget"]
        if (result["row"], budget) != (row.name, arguments.budget) or model not in arguments.models:
            continue
        checkpoint = arguments.work / f"{row.name}__{model}__{budget}.pt"
        if not checkpoint.is_file():
            print(
                f"{model}: there is no {checkpoint}; train it with --results and --work of its own",
                flush=True,
            )
            continue
        found = True
        yield (
            result,
            Training(
                model,
                result["settings"],
                result["learning_rate"],
                structures,
                row.batch_size,
                Budget(epochs=row.epochs),
                checkpoint,
            ),
        )
    if not found:
        raise SystemExit(f"{arguments.work}: no checkpoint of {row.name}, equal {arguments.budget}")


def evaluate(protocol: Protocol, arguments: argparse.Namespace) -> None:
    """Prints the errors of every finished training of a row."""
    row = dataclasses.replace(
        protocol.rows[arguments.row], parts={**protocol.rows[arguments.row].parts, "test": arguments.files}
    )
    structures = load_structures(row)
    found = []
    for result, training in trained(row, structures, protocol, arguments):
        # What this checkpoint took, which need not be the training of the result file.
        spent = training.progress.cpu_seconds
        found.append(
            {
                **result,
                "epochs": training.epochs,
                "cpu_seconds": spent,
                "cpu_seconds_per_epoch": spent / training.epochs,
                "test": dataclasses.asdict(training.errors(structures["test"])),
            }
        )
    print(f"{found[0]['test']['conformations']} structures of {', '.join(arguments.files)}")
    print(markdown(found))


def displace(protocol: Protocol, arguments: argparse.Namespace) -> None:
    """Prints the largest force components where atoms are displaced further and further.

    A force field may be wrong where it has not been trained, but its forces must not explode there.
    """
    row = protocol.rows[arguments.row]
    structures = load_structures(row)
    test = structures["test"]
    chosen = torch.linspace(0, len(test) - 1, min(DISPLACED_STRUCTURES, len(test))).long()
    noise = torch.randn(test.pos[chosen].shape, generator=torch.Generator().manual_seed(1))
    displaced = [
        dataclasses.replace(
            test,
            pos=test.pos[chosen] + width * noise,
            energy=test.energy[chosen],
            forces=test.forces[chosen],
            box=None if test.box is None else test.box[chosen],
        )
        for width in DISPLACEMENTS
    ]
    print(
        f"{row.name}, {len(chosen)} test structures, atoms displaced at random: largest component of any "
        f"force, median [largest] over the structures, {row.energy_unit}/Å\n"
    )
    print("| standard deviation, Å | " + " | ".join(f"{width:g}" for width in DISPLACEMENTS) + " |")
    print("|---|" + "---:|" * len(DISPLACEMENTS))
    if test.box is None:
        shortest = [min(float(torch.pdist(pos).min()) for pos in at.pos) for at in displaced]
        print("| shortest distance, Å | " + " | ".join(f"{distance:.2f}" for distance in shortest) + " |")
    for result, training in trained(row, structures, protocol, arguments):
        cells = []
        for at in displaced:
            largest = training.predict(at)[1].abs().amax(dim=(1, 2))
            cells.append(f"{float(largest.median()):.3g} [{float(largest.max()):.3g}]")
        print(f"| {result['model']} | " + " | ".join(cells) + " |")


def energies(protocol: Protocol, arguments: argparse.Namespace) -> None:
    """Prints mean error and scatter of the energies, file by file, and what models have in common.

    A mean error that grows with a run's temperature, or errors that models share, say more than their size.
    """
    row = protocol.rows[arguments.row]
    structures = load_structures(row)
    files = [*row.parts["train"], *row.parts["test"]]
    alone = [{"train": [file], "validation": [], "test": []} for file in files]
    parts = [load_structures(dataclasses.replace(row, parts=part))["train"] for part in alone]
    errors: Dict[str, List[np.ndarray]] = {}
    for result, training in trained(row, structures, protocol, arguments):
        errors[result["model"]] = [(training.predict(part)[0] - part.energy).numpy() for part in parts]
    test = {model: np.concatenate(of[len(row.parts["train"]) :]) for model, of in errors.items()}
    print(
        f"{row.name}: errors of energies, {row.energy_unit}, mean ± standard deviation of every file, and "
        f"their correlation on the test structures\n"
    )
    print("| | " + " | ".join([*files, *errors]) + " |")
    print("|---|" + "---:|" * (len(files) + len(errors)))
    for model, of_files in errors.items():
        cells = [f"{of.mean():.2g} ± {of.std():.2g}" for of in of_files]
        cells += [f"{np.corrcoef(test[model], other)[0, 1]:.2f}" for other in test.values()]
        print(f"| {model} | " + " | ".join(cells) + " |")


def print_table(protocol: Protocol, arguments: argparse.Namespace) -> None:
    results = load_results(arguments.results, protocol)
    if not results:
        raise SystemExit(f"{arguments.results} has no results of protocol {protocol.version}; train first")
    print(markdown(results))
    if arguments.csv is not None:
        write_csv(arguments.csv, results)


def main() -> None:
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--protocol", type=Path, default=PROTOCOL_FILE)
    # The choices of the other options come from the protocol.
    protocol = load_protocol(first.parse_known_args()[0].protocol)
    arguments = parse_arguments(protocol)
    if arguments.verb == "table":
        print_table(protocol, arguments)
        return
    torch.set_num_threads(1)
    of_trained = {"evaluate": evaluate, "displace": displace, "energies": energies}
    if arguments.verb in of_trained:
        of_trained[arguments.verb](protocol, arguments)
        return
    for name in arguments.rows:
        row = protocol.rows[name]
        for budget in arguments.budgets:
            for model in row.models:
                if model in arguments.models:
                    train(protocol, row, model, budget, arguments)


if __name__ == "__main__":
    main()
