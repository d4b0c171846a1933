"""The ``dkmp`` command. Each verb calls one function of the package."""

import argparse
import sys
from typing import List, Optional


def _export(arguments: argparse.Namespace) -> int:
    from dkmp_plugin.simulation.export import export_model

    info = export_model(
        arguments.checkpoint, arguments.output, dtype=arguments.dtype, device=arguments.device
    )
    print(
        f"{arguments.output}: {info.model}, {info.num_parameters:,} weights, elements {info.elements}, "
        f"energies in {info.energy_unit}, cutoff {info.cutoff:g} Å, "
        f"labels: {info.level_of_theory or 'unknown'}"
    )
    return 0


def _info(arguments: argparse.Namespace) -> int:
    from dkmp_plugin.simulation.diagnosis import describe_installation, describe_model

    if arguments.model is not None:
        print(describe_model(arguments.model))
        return 0
    text, healthy = describe_installation()
    print(text)
    return 0 if healthy else 1


def _rollout(arguments: argparse.Namespace) -> int:
    from dkmp_plugin.evaluation.rollout_files import roll_out_trajectory

    reports = roll_out_trajectory(
        arguments.checkpoint,
        arguments.topology,
        arguments.trajectory,
        arguments.output,
        arguments.rerank_interval,
    )
    print("\n\n".join(report.table() for report in reports))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dkmp", description="Dilated message-passing potentials (DKMP).")
    verbs = parser.add_subparsers(dest="verb", required=True)

    export = verbs.add_parser("export", help="turn a training checkpoint into a model file for simulations")
    export.add_argument("checkpoint", help="checkpoint written by torchmd-train (.ckpt)")
    export.add_argument("output", help="model file to write (.pt)")
    export.add_argument(
        "--dtype", default="float32", choices=("float32", "float64"), help="precision of the model"
    )
    export.add_argument("--device", default="cpu", help="device the weights are stored for")
    export.set_defaults(run=_export)

    info = verbs.add_parser("info", help="describe this installation, or an exported model")
    info.add_argument("model", nargs="?", help="model file (.pt) to describe")
    info.set_defaults(run=_info)

    rollout = verbs.add_parser("rollout", help="run a dkmp-r model forward and compare it with a trajectory")
    rollout.add_argument("checkpoint", help="dkmp-r checkpoint written by torchmd-train (.ckpt)")
    rollout.add_argument("topology", help="topology of the whole system (PDB, PSF, prmtop, ...)")
    rollout.add_argument("trajectory", help="true trajectory; FILE#2 takes only the third run in it")
    rollout.add_argument(
        "--output", help="file for the predicted trajectory (.dcd or .xtc; a .pdb beside it)"
    )
    rollout.add_argument(
        "--rerank-interval", type=int, default=0, help="rank neighbours anew after this many steps (0: never)"
    )
    rollout.set_defaults(run=_rollout)
    return parser


def main(argv: Optional[List[str]] = None) -> int:
    """Entry point of ``dkmp``.

    Args:
        argv: Arguments, ``sys.argv[1:]`` when None.

    Returns:
        Exit status: 0 success, 1 something is wrong with the stack, 2 bad input.
    """
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"dkmp {arguments.verb}: error: {error}", file=sys.stderr)
        return 2
