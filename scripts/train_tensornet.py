"""Trains torchmd-net's TensorNet on the demo's labels of p-xylene: the peer of scripts/benchmark_openmm.py.

Stock `torchmd-train`, one thread, in two stages: the second starts from the best weights of the first and
lowers its learning rate in smaller steps. Called again, it goes on from the newest checkpoint. Prints the
errors on the held-out runs beside those of the demo's dkmp-c and saves them in tensornet.json. Labels:
GFN2-xTB.
"""

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import Any, Dict, List, Union

from peer_settings import common_settings, stock_settings

from dkmp_plugin.evaluation.held_out import error_text, evaluate_held_out
from dkmp_plugin.files import replaced_on_success
from dkmp_plugin.training.log_dir import best_checkpoint
from dkmp_plugin.training.torchmd_train import train_to_end, write_configuration

ROOT = Path(__file__).resolve().parent.parent
# Width, basis, batches and loss as in examples/dkmp.yaml; depth and cutoff are TensorNet's own.
TENSORNET = {
    "model": "tensornet",
    "num_layers": 2,
    "cutoff_upper": 5.0,
    "equivariance_invariance_group": "O(3)",
}
# Learning rates, and their factors after an epoch that brings nothing.
STAGES = ((1.0e-3, 0.5), (5.0e-4, 0.8))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--demo", type=Path, default=ROOT / "runs/demo", help="folder of scripts/demo.sh")
    parser.add_argument("--output", type=Path, default=ROOT / "runs/tensornet", help="folder to write")
    parser.add_argument("--epochs", type=int, nargs=2, default=[24, 17], help="of each stage")
    return parser.parse_args()


def configuration(arguments: argparse.Namespace, stage: int) -> Dict[str, Any]:
    """torchmd-train's settings of one stage."""
    return {
        **stock_settings(common_settings()),
        **TENSORNET,
        "dataset_root": str(arguments.demo / "p_xylene.h5"),
        "splits": str(arguments.demo / "splits.npz"),
        "log_dir": str(arguments.output / f"stage_{stage}"),
        "num_epochs": arguments.epochs[stage],
        "lr": STAGES[stage][0],
        "lr_factor": STAGES[stage][1],
        "lr_patience": 0,
    }


def train(arguments: argparse.Namespace, stage: int) -> None:
    """One stage; nothing where it is finished."""
    path = write_configuration(arguments.output / f"stage_{stage}.yaml", configuration(arguments, stage))
    weights: List[Union[str, Path]] = []
    if stage > 0:
        weights = ["--load-weights", best_checkpoint(arguments.output / f"stage_{stage - 1}")]
    train_to_end(path, *weights, environment={**os.environ, "OMP_NUM_THREADS": "1"})


def main() -> None:
    arguments = parse_arguments()
    labels = arguments.demo / "p_xylene.h5"
    if not labels.is_file():
        raise SystemExit(f"{labels} is absent; run scripts/demo.sh first, or name its folder with --demo")
    try:
        for stage in range(len(STAGES)):
            train(arguments, stage)
    except (RuntimeError, ValueError) as error:
        raise SystemExit(str(error)) from error
    best = arguments.output / "best.ckpt"
    with replaced_on_success(best) as temporary:
        shutil.copyfile(best_checkpoint(arguments.output / f"stage_{len(STAGES) - 1}"), temporary)
    evaluations = {"tensornet": evaluate_held_out(best, labels)}
    if (arguments.demo / "best.ckpt").is_file():
        evaluations["dkmp-c"] = evaluate_held_out(arguments.demo / "best.ckpt", labels)
    for name, evaluation in evaluations.items():
        print(f"{name}: {error_text(evaluation)}")
    with replaced_on_success(arguments.output / "tensornet.json") as temporary:
        temporary.write_text(json.dumps(evaluations, indent=1))


if __name__ == "__main__":
    main()
