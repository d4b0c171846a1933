"""Energy and force errors on the held-out runs, beside the trivial baseline (mean energy, zero forces)."""

import argparse
import json
import shutil
from pathlib import Path

from dkmp_plugin.evaluation.held_out import error_text, evaluate_held_out
from dkmp_plugin.files import replaced_on_success
from dkmp_plugin.training.log_dir import best_checkpoint


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=Path("runs/demo/training"),
        help="a checkpoint, or a log_dir of torchmd-train: its best checkpoint",
    )
    parser.add_argument("--labels", type=Path, default=Path("runs/demo/p_xylene.h5"), help="label file")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/demo/evaluation.json"), help="numbers to write"
    )
    parser.add_argument("--device", default="cpu", help="where the model runs: cpu, cuda or cuda:N")
    parser.add_argument("--keep-best", type=Path, help="copy the checkpoint that was evaluated to this path")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    checkpoint = arguments.checkpoint
    if checkpoint.is_dir():
        checkpoint = best_checkpoint(checkpoint)
    evaluation = evaluate_held_out(checkpoint, arguments.labels, arguments.device)
    print(error_text(evaluation))
    if arguments.keep_best:
        with replaced_on_success(arguments.keep_best) as temporary:
            shutil.copyfile(checkpoint, temporary)
    with replaced_on_success(arguments.output) as temporary:
        temporary.write_text(json.dumps(evaluation, indent=1))
    print(f"written: {arguments.output}")


if __name__ == "__main__":
    main()
