"""Makes the bundled p-xylene model, dkmp_plugin/simulation/bundled/p_xylene.pt, and the page beside it.

By default with more labels and a longer training than the demo; everything else is the demo's own steps.
Intermediate files land in runs/bundled/; an existing label file is kept. With --existing, the model of a
training that is there (the demo's, say) is exported instead.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict

from dkmp_plugin.files import replaced_on_success
from dkmp_plugin.training.torchmd_train import training_program

ROOT = Path(__file__).resolve().parent.parent
# Relative to ROOT, where all commands run: checkpoints remember these paths.
WORK = Path("runs/bundled")
BUNDLED = ROOT / "dkmp_plugin/simulation/bundled"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--train-runs", type=int, default=8, help="training runs per condition")
    parser.add_argument("--epochs", type=int, default=22, help="of training")
    parser.add_argument(
        "--existing",
        type=Path,
        help="a folder with p_xylene.h5 and training/, such as runs/demo: export what was trained there",
    )
    parser.add_argument(
        "--seed", type=int, default=1001, help="of the sampling; the demo uses 1 and following"
    )
    return parser.parse_args()


def run(*command: Any) -> None:
    subprocess.run(
        [str(part) for part in command], cwd=ROOT, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def train(labels: Path, epochs: int) -> None:
    shutil.rmtree(WORK / "training", ignore_errors=True)
    run(
        *(training_program(), "--conf", "examples/dkmp.yaml", "--dataset-root", labels),
        *("--splits", WORK / "splits.npz", "--log-dir", WORK / "training", "--num-epochs", epochs),
    )


def make_model(arguments: argparse.Namespace) -> Dict[str, Any]:
    """Labels, trains, evaluates and exports; returns the evaluation."""
    folder = arguments.existing or WORK
    labels = folder / "p_xylene.h5"
    if arguments.existing is None:
        if not labels.exists():
            run(
                *(sys.executable, "examples/01_label_p_xylene.py", "--output", labels),
                *("--train-runs", arguments.train_runs, "--seed", arguments.seed),
            )
        train(labels, arguments.epochs)
    evaluation = WORK / "evaluation.json"
    run(
        *(sys.executable, "examples/02_evaluate.py", "--checkpoint", folder / "training"),
        *("--labels", labels, "--output", evaluation, "--keep-best", WORK / "best.ckpt"),
    )
    run(Path(sys.executable).with_name("dkmp"), "export", WORK / "best.ckpt", BUNDLED / "p_xylene.pt")
    return json.loads(evaluation.read_text())


def model_page(evaluation: Dict[str, Any], commands: str) -> str:
    unit, labels = evaluation["energy_unit"], evaluation["labels"]
    rows = "\n".join(
        f"| {group} | {errors['model']['conformations']} | {errors['model']['energy_mae']:.3f} "
        f"| {errors['baseline']['energy_mae']:.3f} | {errors['model']['force_mae']:.3f} "
        f"| {errors['baseline']['force_mae']:.3f} |"
        for group, errors in evaluation["errors"].items()
    )
    return f"""# The bundled model: p-xylene

What `MLPotential("dkmp")` uses without `modelPath`. For trying things out: it knows one molecule, neutral
p-xylene (18 atoms, H and C), in vacuum, and refuses other elements. It is not a general force field.

- Model: `dkmp-c` as in `examples/dkmp.yaml`, {evaluation["parameters"]:,} parameters.
- Labels: {evaluation["level_of_theory"]}, energies and forces; conformations from Langevin dynamics with
  GAFF at 300, 500 and 800 K, and strained ones; {labels["train"]:,} for training, {labels["val"]} for
  validation, {labels["test"]} held out, split by independent run.
- Energies are relative to per-element reference energies (`dkmp info p_xylene.pt` prints them): only
  differences between conformations mean something.
- Made by {commands}.

Mean absolute errors in {unit} and {unit}/Å, beside the trivial baseline (mean energy, zero forces):

| runs | conformations | energy | trivial | force | trivial |
|---|---|---|---|---|---|
{rows}
"""


def main() -> None:
    os.chdir(ROOT)
    arguments = parse_arguments()
    evaluation = make_model(arguments)
    commands = "`python scripts/train_bundled_model.py`"
    if arguments.existing is not None:
        commands = f"`bash scripts/demo.sh`, then `{commands[1:-1]} --existing {arguments.existing}`"
    with replaced_on_success(BUNDLED / "README.md") as temporary:
        temporary.write_text(model_page(evaluation, commands), encoding="utf-8")
    size = (BUNDLED / "p_xylene.pt").stat().st_size
    print(f"written: {BUNDLED / 'p_xylene.pt'} ({size / 1e6:.2f} MB) and README.md")


if __name__ == "__main__":
    main()
