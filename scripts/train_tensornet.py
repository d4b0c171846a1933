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
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Optional

import torch
import yaml
from peer_settings import common_settings, stock_settings

from dkmp_plugin.evaluation.held_out import error_text, evaluate_held_out
from dkmp_plugin.evaluation.prediction import best_checkpoint, checkpoints_by_epoch
from dkmp_plugin.files import replaced_on_success

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


def train(arguments: argparse.Namespace, stage: int) -> None:
    """One stage; nothing where it is finished."""
    settings = configuration(arguments, stage)
    log_dir = Path(settings["log_dir"])
    log_dir.mkdir(parents=True, exist_ok=True)
    path = arguments.output / f"stage_{stage}.yaml"
    path.write_text(yaml.safe_dump(settings))
    command = [str(Path(sys.executable).with_name("torchmd-train"))]
    newest = newest_whole_checkpoint(log_dir)
    if newest is not None:
        if checkpoints_by_epoch(log_dir)[0][0] >= settings["num_epochs"] - 1:
            return
        command += ["--load-model", str(newest)]
    elif stage > 0:
        command += ["--load-weights", str(best_checkpoint(arguments.output / f"stage_{stage - 1}"))]
    done = subprocess.run(
        [*command, "--conf", str(path)], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    if done.returncode:
        raise SystemExit(f"torchmd-train ended with status {done.returncode}; see above")


def main() -> None:
    arguments = parse_arguments()
    labels = arguments.demo / "p_xylene.h5"
    if not labels.is_file():
        raise SystemExit(f"{labels} is absent; run scripts/demo.sh first, or name its folder with --demo")
    for stage in range(len(STAGES)):
        train(arguments, stage)
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
