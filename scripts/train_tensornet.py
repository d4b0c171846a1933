"""Trains torchmd-net's TensorNet on the demo's labels of p-xylene: the peer of scripts/benchmark_openmm.py.

Stock `torchmd-train`, one thread; called again, it goes on from the newest checkpoint. Prints the errors on
the held-out runs beside those of the demo's dkmp-c and saves them in tensornet.json. Labels: GFN2-xTB.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Optional

import torch
import yaml

from dkmp_plugin.config import HYPERPARAMETERS
from dkmp_plugin.evaluation.held_out import error_text, evaluate_held_out
from dkmp_plugin.evaluation.prediction import best_checkpoint, checkpoints_by_epoch
from dkmp_plugin.files import replaced_on_success

ROOT = Path(__file__).resolve().parent.parent
# Width, basis, batches and loss as in examples/dkmp.yaml; depth and cutoff are TensorNet's own. Its learning
# rate falls whenever an epoch brings nothing: torchmd-net's own schedule.
TENSORNET = {
    "model": "tensornet",
    "num_layers": 2,
    "cutoff_upper": 5.0,
    "equivariance_invariance_group": "O(3)",
    "lr": 1.0e-3,
    "lr_factor": 0.5,
    "lr_patience": 0,
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--demo", type=Path, default=ROOT / "runs/demo", help="folder of scripts/demo.sh")
    parser.add_argument("--output", type=Path, default=ROOT / "runs/tensornet", help="folder to write")
    parser.add_argument("--epochs", type=int, default=20, help="of the training, in all")
    return parser.parse_args()


def configuration(arguments: argparse.Namespace) -> Dict[str, Any]:
    """torchmd-train's settings."""
    ours = {parameter.name for parameter in HYPERPARAMETERS}
    common = yaml.safe_load((ROOT / "examples/dkmp.yaml").read_text())
    stock = {name: value for name, value in common.items() if name not in ours}
    return {
        **stock,
        **TENSORNET,
        "dataset_root": str(arguments.demo / "p_xylene.h5"),
        "splits": str(arguments.demo / "splits.npz"),
        "log_dir": str(arguments.output / "training"),
        "num_epochs": arguments.epochs,
    }


def newest_whole_checkpoint(log_dir: Path) -> Optional[Path]:
    """The newest checkpoint that a killed training has left whole."""
    for _, path in checkpoints_by_epoch(log_dir):
        try:
            torch.load(path, map_location="cpu", weights_only=True)
        except Exception:
            # Whatever is wrong with it, the one before will do.
            continue
        return path
    return None


def train(arguments: argparse.Namespace) -> None:
    settings = configuration(arguments)
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "tensornet.yaml"
    path.write_text(yaml.safe_dump(settings))
    command = [str(Path(sys.executable).with_name("torchmd-train"))]
    newest = newest_whole_checkpoint(Path(settings["log_dir"]))
    if newest is not None:
        command += ["--load-model", str(newest)]
    command += ["--conf", str(path)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(f"torchmd-train ended with status {done.returncode}; see above")


def main() -> None:
    arguments = parse_arguments()
    labels = arguments.demo / "p_xylene.h5"
    if not labels.is_file():
        raise SystemExit(f"{labels} is absent; run scripts/demo.sh first, or name its folder with --demo")
    train(arguments)
    best = arguments.output / "best.ckpt"
    with replaced_on_success(best) as temporary:
        shutil.copyfile(best_checkpoint(arguments.output / "training"), temporary)
    evaluations = {"tensornet": evaluate_held_out(best, labels)}
    if (arguments.demo / "best.ckpt").is_file():
        evaluations["dkmp-c"] = evaluate_held_out(arguments.demo / "best.ckpt", labels)
    for name, evaluation in evaluations.items():
        print(f"{name}: {error_text(evaluation)}")
    with replaced_on_success(arguments.output / "tensornet.json") as temporary:
        temporary.write_text(json.dumps(evaluations, indent=1))


if __name__ == "__main__":
    main()
