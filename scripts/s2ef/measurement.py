"""Time and memory of one model, in a process of its own."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict

import torch
from measuring import resident_memory

from s2ef.protocol import load_protocol
from s2ef.structures import load_structures
from s2ef.training import Budget, Training

_SCRIPTS = Path(__file__).resolve().parent.parent


def measure(protocol_file: Path, row_name: str, model: str, rounds: int = 10) -> Dict[str, float]:
    """Fresh weights: they do not matter for time and memory.

    Returns:
        ``inference_cpu_ms``: CPU milliseconds for energy and forces of one structure, the least of several
        rounds. ``training_memory_mib``: peak resident memory over a few training steps, less what the
        process held before the model was built.
    """
    protocol = load_protocol(protocol_file)
    row = protocol.rows[row_name]
    structures = load_structures(row)
    before = resident_memory("VmRSS")
    settings = protocol.settings(row_name, model)
    training = Training(model, settings, 1e-3, structures, row.batch_size, Budget(epochs=1))
    for _ in range(4):
        training.train_step(torch.arange(min(row.batch_size, len(structures["train"]))))
    memory = resident_memory("VmHWM") - before
    inputs = structures["test"].batch(torch.zeros(1, dtype=torch.long))
    training.averaged.eval()
    times = []
    for _ in range(rounds):
        start = time.process_time()
        training.averaged(*inputs)
        times.append(time.process_time() - start)
    return {"inference_cpu_ms": 1e3 * min(times), "training_memory_mib": memory}


def measure_in_new_process(protocol_file: Path, row: str, model: str) -> Dict[str, float]:
    """:func:`measure` where nothing else has been allocated before."""
    command = [sys.executable, "-m", "s2ef.measurement", str(protocol_file), row, model]
    paths = [str(_SCRIPTS), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode != 0:
        raise SystemExit(f"measuring {model} on {row} failed; see above")
    return json.loads(done.stdout.splitlines()[-1])


# python -m s2ef.measurement PROTOCOL ROW MODEL
if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(measure(Path(sys.argv[1]), *sys.argv[2:])))
