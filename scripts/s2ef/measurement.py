"""Time and memory of one model, in its own process; `python -m s2ef.measurement ROW MODEL` prints them."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict

import torch

from s2ef.protocol import load_protocol
from s2ef.structures import load_structures
from s2ef.training import Budget, Training

_SCRIPTS = Path(__file__).resolve().parent.parent


def resident_memory(field: str) -> float:
    """``VmRSS`` (now) or ``VmHWM`` (peak) of this process in MiB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def measure(row_name: str, model: str, rounds: int = 10) -> Dict[str, float]:
    """Fresh weights: they do not matter for time and memory.

    Returns:
        ``inference_cpu_ms``: CPU milliseconds for energy and forces of one structure, the least of several
        rounds. ``training_memory_mib``: peak resident memory over a few training steps, less what the
        process held before the model was built.
    """
    protocol = load_protocol()
    row = protocol.rows[row_name]
    structures = load_structures(row)
    before = resident_memory("VmRSS")
    settings = protocol.settings(row_name, model)
    training = Training(model, settings, 1e-3, structures, row.batch_size, Budget(epochs=1))
    for indices in torch.arange(4 * row.batch_size).split(row.batch_size):
        training.train_step(indices)
    memory = resident_memory("VmHWM") - before
    inputs = structures["test"].batch(torch.zeros(1, dtype=torch.long))
    training.averaged.eval()
    times = []
    for _ in range(rounds):
        start = time.process_time()
        training.averaged(*inputs)
        times.append(time.process_time() - start)
    return {"inference_cpu_ms": 1e3 * min(times), "training_memory_mib": memory}


def measure_in_new_process(row: str, model: str) -> Dict[str, float]:
    """:func:`measure` where nothing else has been allocated before."""
    command = [sys.executable, "-m", "s2ef.measurement", row, model]
    paths = [str(_SCRIPTS), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(measure(*sys.argv[1:])))
