"""Running ``torchmd-train`` as users do, or its reading of the data alone, and what it leaves behind."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import yaml
from torchmdnet.data import DataModule

TORCHMD_TRAIN = str(Path(sys.executable).parent / "torchmd-train")


def torchmd_train(*arguments, processes=1):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [TORCHMD_TRAIN, *map(str, arguments)]
    if processes > 1:
        command += ["--ngpus", str(processes)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)


def checkpoints(configuration_path):
    folder = Path(yaml.safe_load(configuration_path.read_text())["log_dir"])
    return sorted(folder.glob("epoch=*.ckpt"))


def epochs_logged(configuration_path, loss="mse_loss"):
    folder = Path(yaml.safe_load(configuration_path.read_text())["log_dir"])
    with open(folder / "metrics.csv") as file:
        return {float(row["epoch"]) for row in csv.DictReader(file) if row[f"val_total_{loss}"]}


def data_module(configuration, **changes):
    """Of torchmd-net, with the defaults of its command line that it reads."""
    values = {"seed": 1, "standardize": False, "dataset_arg": None, "inference_batch_size": 8}
    values.update(train_size=None, val_size=0.05, test_size=0.1)
    values.update(yaml.safe_load(configuration(**changes).read_text()))
    Path(values["log_dir"]).mkdir(exist_ok=True)
    return DataModule(values)
