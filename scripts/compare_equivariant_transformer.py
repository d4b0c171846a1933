"""Trains dkmp-c and torchmd-net's equivariant-transformer on the demo's label file for the same time.

Both stock `torchmd-train` runs go at once, one thread each, so that both meet the same load; the time is
what the demo's training took (runs/demo/training/seconds.txt) unless --seconds says otherwise. Prints the
errors on the held-out runs and saves them as JSON. Labels: GFN2-xTB (see the printed level of theory).
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict

from peer_settings import EQUIVARIANT_TRANSFORMER, EXAMPLE, common_settings, stock_settings
from tqdm import tqdm

from dkmp_plugin.files import replaced_on_success
from dkmp_plugin.training.torchmd_train import training_program, write_configuration

ROOT = Path(__file__).resolve().parent.parent


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=int, help="training time of each [what the demo's training took]")
    parser.add_argument("--configuration", type=Path, default=EXAMPLE)
    parser.add_argument("--demo", type=Path, default=ROOT / "runs/demo", help="folder of scripts/demo.sh")
    parser.add_argument("--output", type=Path, default=ROOT / "runs/compare_equivariant_transformer")
    return parser.parse_args()


def training_seconds(arguments: argparse.Namespace) -> int:
    if arguments.seconds is not None:
        return arguments.seconds
    path = arguments.demo / "training/seconds.txt"
    if not path.is_file():
        raise SystemExit(f"there is no {path}; run scripts/demo.sh first, or give --seconds")
    return int(path.read_text())


def configurations(arguments: argparse.Namespace) -> Dict[str, Dict[str, Any]]:
    """torchmd-train settings of both models, on the demo's labels, without an end other than the time."""
    common = common_settings(arguments.configuration)
    common.update(
        dataset_root=str(arguments.demo / "p_xylene.h5"),
        splits=str(arguments.demo / "splits.npz"),
        num_epochs=100_000,
        early_stopping_patience=100_000,
        # torchmd-net's own schedule for both: it needs no number of epochs.
        lr_factor=0.6,
        lr_patience=0,
    )
    common.pop("lr_schedule", None)
    return {
        "dkmp-c": common,
        "equivariant-transformer": {**stock_settings(common), **EQUIVARIANT_TRANSFORMER},
    }


def train_together(settings: Dict[str, Dict[str, Any]], seconds: int, output: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # Lightning takes Trainer arguments that torchmd-train does not set from the environment.
    environment["PL_TRAINER_MAX_TIME"] = time.strftime("00:%H:%M:%S", time.gmtime(seconds))
    processes = {}
    for name, values in settings.items():
        folder = output / name
        folder.mkdir(parents=True, exist_ok=True)
        for checkpoint in folder.glob("*.ckpt"):
            checkpoint.unlink()
        configuration = write_configuration(output / f"{name}.yaml", {**values, "log_dir": str(folder)})
        with open(output / f"{name}.log", "w") as log:
            processes[name] = subprocess.Popen(
                [training_program(), "--conf", configuration],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
    for _ in tqdm(range(seconds), desc="training both", unit="s"):
        if all(process.poll() is not None for process in processes.values()):
            break
        time.sleep(1)
    for name, process in processes.items():
        if process.wait() != 0:
            raise SystemExit(f"training {name} failed; see {output / name}.log")


def evaluate(name: str, output: Path, demo: Path) -> Dict[str, Any]:
    result = output / f"{name}.json"
    command = [sys.executable, str(ROOT / "examples/02_evaluate.py"), "--checkpoint", str(output / name)]
    command += ["--labels", str(demo / "p_xylene.h5"), "--output", str(result)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads(result.read_text())


def main() -> None:
    arguments = parse_arguments()
    seconds = training_seconds(arguments)
    settings = configurations(arguments)
    train_together(settings, seconds, arguments.output)
    evaluations = {name: evaluate(name, arguments.output, arguments.demo) for name in settings}
    first = evaluations["dkmp-c"]
    unit = first["energy_unit"]
    print(f"{seconds} s of training each, one thread each, at once; labels: {first['level_of_theory']}")
    print(f"{'held-out runs':34s}{'model':26s}{'energy MAE':>12s}{'force MAE':>12s}   ({unit}, {unit}/Å)")
    for group, errors in first["errors"].items():
        rows = {name: evaluation["errors"][group]["model"] for name, evaluation in evaluations.items()}
        rows["mean energy, zero forces"] = errors["baseline"]
        for name, values in rows.items():
            print(f"{group:34s}{name:26s}{values['energy_mae']:12.3f}{values['force_mae']:12.3f}")
    path = arguments.output / "comparison.json"
    with replaced_on_success(path) as temporary:
        temporary.write_text(json.dumps({"seconds": seconds, **evaluations}, indent=1))
    print(f"written: {path}")


if __name__ == "__main__":
    main()
