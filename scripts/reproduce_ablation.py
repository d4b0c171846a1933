"""Does dilation matter: the partitions of the paper's Table 7, trained alike on adenylate kinase.

    python scripts/reproduce_ablation.py --epochs 3

Every partition is trained by torchmd-train with examples/dkmp_r_adk.yaml (DIMS runs 1 and 2, biased
transition paths) for the same steps and the same number of edges, and measured on the validation run. The
numbers also go to results.json in the output folder.
"""

import argparse
import csv
import json
import resource
import sys
from pathlib import Path
from typing import Any, Dict

import yaml
from shared_data import data_folder

from dkmp_plugin.config import PARTITIONS
from dkmp_plugin.files import replaced_on_success
from dkmp_plugin.training.torchmd_train import run_training, write_configuration

ROOT = Path(__file__).resolve().parents[1]


def train(partition: str, seed: int, arguments: argparse.Namespace) -> float:
    """Last validation error in Å² per coordinate."""
    configuration = yaml.safe_load((ROOT / "examples" / "dkmp_r_adk.yaml").read_text())
    folder = Path(arguments.output) / f"{partition}_{seed}"
    configuration["dataset_root"] = str(arguments.data)
    configuration["dataset_arg"]["selection"] = arguments.selection
    configuration.update(
        partition=partition, seed=seed, num_epochs=arguments.epochs, log_dir=str(folder / "log")
    )
    path = write_configuration(folder / "configuration.yaml", configuration)
    run_training(path, log=folder / "output.txt")
    with open(folder / "log" / "metrics.csv") as file:
        losses = [row["val_total_mse_loss"] for row in csv.DictReader(file) if row["val_total_mse_loss"]]
    return float(losses[-1])


def main() -> None:
    data = data_folder() / "adk"
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=data, help="folder of dims_002.dcd")
    parser.add_argument("--selection", default="full")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="*", default=[1])
    parser.add_argument("--partitions", nargs="*", default=PARTITIONS, choices=PARTITIONS)
    parser.add_argument("--output", default="runs/ablation")
    arguments = parser.parse_args()
    if not (arguments.data / "dims_002.dcd").is_file():
        sys.exit(f"{arguments.data}/dims_002.dcd is missing; name its folder with --data")
    print(f"DIMS, {arguments.selection}, {arguments.epochs} epochs; MSE on run 3 in Å² per coordinate")
    results: Dict[str, Any] = {"selection": arguments.selection, "epochs": arguments.epochs, "runs": []}
    for seed in arguments.seeds:
        for partition in arguments.partitions:
            begin = resource.getrusage(resource.RUSAGE_CHILDREN)
            error = train(partition, seed, arguments)
            end = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds = end.ru_utime + end.ru_stime - begin.ru_utime - begin.ru_stime
            print(f"seed {seed}  {partition:10s} {error:.4f}  ({seconds:.0f} CPU seconds)", flush=True)
            results["runs"].append(
                {"seed": seed, "partition": partition, "mse": error, "cpu_seconds": round(seconds)}
            )
            with replaced_on_success(Path(arguments.output) / "results.json") as temporary:
                temporary.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
