"""One epoch of the stock ``torchmd-train`` as in examples/dkmp.yaml, on a data set made on the spot."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict

import numpy as np
import torch
import yaml

from dkmp_plugin.datasets import DKMPNPZ
from dkmp_plugin.evaluation.prediction import predict
from dkmp_plugin.training.log_dir import best_checkpoint
from gpu.measure import worst_error
from gpu.models import grid_structure

ROOT = Path(__file__).resolve().parents[2]
NUM_ATOMS, NUM_TRAIN, NUM_OTHERS = 18, 64, 8
# As the command does, also where the package is only found by PYTHONPATH, which runs no .pth file.
_TORCHMD_TRAIN = (
    "from dkmp_plugin import _autoload; _autoload.install(); "
    "from torchmdnet.scripts.train import main; main()"
)


def write_springs(path: Path) -> None:
    """Conformations of a cluster held together by springs between all its atoms, energies in kcal/mol."""
    numbers, start = grid_structure(NUM_ATOMS, 1.5)
    pairs = torch.triu_indices(NUM_ATOMS, NUM_ATOMS, offset=1)
    lengths = (start[pairs[0]] - start[pairs[1]]).norm(dim=1)
    generator = torch.Generator().manual_seed(0)
    positions = start + 0.1 * torch.randn(NUM_TRAIN + 2 * NUM_OTHERS, NUM_ATOMS, 3, generator=generator)
    positions.requires_grad_(True)
    stretched = (positions[:, pairs[0]] - positions[:, pairs[1]]).norm(dim=2) - lengths
    energies = (100.0 * stretched**2 / lengths**2).sum(1)
    (gradient,) = torch.autograd.grad(energies.sum(), positions)
    arrays = {"z": numbers, "R": positions, "E": energies, "F": -gradient}
    np.savez(path, **{name: array.detach().numpy() for name, array in arrays.items()})


def check_training(device: str) -> str:
    """Trains, then predicts with the checkpoint on the device and on the CPU."""
    from torchmdnet.models.model import load_model

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_springs(root / "springs.npz")
        borders = (NUM_TRAIN, NUM_TRAIN + NUM_OTHERS, NUM_TRAIN + 2 * NUM_OTHERS)
        data = {
            "energy_unit": "kcal/mol",
            "train": f"springs.npz@:{borders[0]}",
            "val": f"springs.npz@{borders[0]}:{borders[1]}",
            "test": f"springs.npz@{borders[1]}:",
        }
        configuration = {
            **yaml.safe_load((ROOT / "examples" / "dkmp.yaml").read_text()),
            "dataset": "DKMPNPZ",
            "dataset_root": str(root),
            "dataset_arg": data,
            "splits": None,
            "num_epochs": 1,
            "log_dir": str(root / "log"),
        }
        (root / "train.yaml").write_text(yaml.safe_dump(configuration))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
        if device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        command = [sys.executable, "-c", _TORCHMD_TRAIN, "--conf", str(root / "train.yaml")]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root)
        seconds = time.perf_counter() - start
        output = done.stdout + done.stderr
        if done.returncode:
            raise AssertionError(output[-3000:])
        if device != "cpu" and "GPU available: True (cuda), used: True" not in output:
            raise AssertionError(f"the training did not use the GPU: {output[-3000:]}")
        checkpoint = best_checkpoint(root / "log")
        dataset = DKMPNPZ(str(root), **data)
        results: Dict[str, tuple] = {}
        for place in ("cpu", device):
            model = load_model(str(checkpoint), derivative=True, device=place).eval()
            results[place] = predict(model, dataset, range(*borders[:2]))
        pairs = [[torch.from_numpy(part) for part in results[place]] for place in (device, "cpu")]
        error = worst_error(*pairs, 1e-3)
    return (
        f"an epoch of {NUM_TRAIN} structures, losses and optimiser of examples/dkmp.yaml, in {seconds:.0f} s "
        f"with the start; the checkpoint's energies and forces agree with the CPU's to {error:.0e}"
    )
