"""The ``dkmp`` command. Each verb calls one function of the package."""

import argparse
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, List, Optional, Tuple, Type

from dkmp_plugin.optional import MissingPackageError, require

if TYPE_CHECKING:
    from dkmp_plugin.bespoke.settings import BespokeSettings


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


def _evaluate(arguments: argparse.Namespace) -> int:
    from dkmp_plugin.datasets.labelled_file import read_labelled
    from dkmp_plugin.evaluation.labelled_errors import evaluate_labelled, write_errors

    structures = read_labelled(
        arguments.data,
        arguments.energy_unit,
        arguments.energy_key,
        arguments.forces_key,
        arguments.stress_key,
    )
    errors = evaluate_labelled(arguments.model, structures, arguments.device)
    print(errors.table())
    if arguments.output:
        write_errors(errors, arguments.output)
    return 0


def _rollout(arguments: argparse.Namespace) -> int:
    from dkmp_plugin.evaluation.rollout_files import roll_out_trajectory

    reports = roll_out_trajectory(
        arguments.checkpoint,
        arguments.topology,
        arguments.trajectory,
        arguments.output,
        arguments.rerank_interval,
        arguments.device,
    )
    print("\n\n".join(report.table() for report in reports))
    return 0


def _bespoke_settings(arguments: argparse.Namespace) -> "BespokeSettings":
    from dkmp_plugin.bespoke.settings import BespokeSettings

    names = BespokeSettings.__dataclass_fields__
    given = {name: value for name, value in vars(arguments).items() if name in names and value is not None}
    if "temperatures" in given:
        given["temperatures"] = tuple(given["temperatures"])
    for name in {"ligand", "coordinates"} & set(given):
        given[name] = str(Path(given[name]).absolute())
    settings = BespokeSettings(given["ligand"])
    # Sizes that were asked for win over the quick ones.
    return replace(settings.quick() if arguments.quick else settings, **given)


def _bespoke(arguments: argparse.Namespace) -> int:
    for package in ("openmm", "tblite"):
        require(package, "dkmp bespoke")
    from dkmp_plugin.bespoke.pipeline import make_potential
    from dkmp_plugin.evaluation.held_out import error_text
    from dkmp_plugin.labeling.executors import dask_cluster, in_this_process

    settings = _bespoke_settings(arguments)
    workers = (
        nullcontext(in_this_process) if arguments.scheduler is None else dask_cluster(arguments.scheduler)
    )
    with workers as task_map:
        evaluation = make_potential(settings, arguments.output, task_map)
    print(error_text(evaluation))
    print(f"written: {arguments.output}/model.pt (for MLPotential('dkmp', modelPath=...)) and report.html")
    return 0


def _add_bespoke(verbs: Any) -> None:
    bespoke = verbs.add_parser(
        "bespoke",
        help="make a potential for one ligand: sample, label with GFN2-xTB, train, validate, export",
        description="Makes a potential for one molecule. The same command goes on after an interruption.",
    )
    bespoke.add_argument("ligand", help="Amber prmtop (of the ligand or of a complex), or SDF file")
    bespoke.add_argument("--output", required=True, help="folder for everything that is made")
    bespoke.add_argument(
        "--coordinates", help="Amber coordinates or PDB of the prmtop [file beside it with the same stem]"
    )
    bespoke.add_argument("--residue", help="the ligand's residue name in the prmtop [the only one]")
    bespoke.add_argument(
        "--scheduler",
        help="address of a Dask scheduler whose workers sample and label, e.g. tcp://node1:8786",
    )
    bespoke.add_argument(
        "--quick",
        action="store_true",
        help="sizes that only show that every step works (about a minute); those given besides win",
    )
    bespoke.add_argument(
        "--temperatures", type=float, nargs="+", help="of the sampling in kelvin [300 500 800]"
    )
    for flag, default, text in (
        ("--train-runs", 6, "training runs per condition (a temperature, or strained)"),
        ("--train-frames", 125, "labels per training run"),
        ("--val-frames", 50, "labels per validation run, one per condition"),
        ("--test-frames", 100, "labels per held-out run, one per condition"),
        ("--epochs", 16, "of the training"),
        ("--width", 64, "embedding_dimension of the model"),
        ("--seed", 1, "of everything random"),
    ):
        bespoke.add_argument(flag, type=int, help=f"{text} [{default}]")
    bespoke.set_defaults(run=_bespoke)


def _nve(arguments: argparse.Namespace) -> int:
    from dkmp_plugin.evaluation.nve import simulate_nve

    drifts = simulate_nve(
        arguments.model,
        arguments.structure,
        arguments.output,
        engine=arguments.engine,
        platform=arguments.platform,
        device=arguments.device,
        duration=arguments.duration,
        time_step=arguments.time_step,
        temperature=arguments.temperature,
        equilibration=arguments.equilibration,
        seed=arguments.seed,
    )
    for name, drift in zip(("total energy", "velocity Verlet's own energy"), drifts, strict=True):
        print(
            f"{arguments.output}: {name} over {drift.duration:g} ps: drift {drift.drift:.3g} ± "
            f"{drift.drift_error:.2g} meV/atom/ns, fluctuation {drift.fluctuation:.3g} meV/atom, largest "
            f"change from row to row {drift.largest_change:.3g} meV/atom at {drift.largest_change_time:g} ps"
        )
    return 0


def _add_device(verb: argparse.ArgumentParser, what: str) -> None:
    verb.add_argument("--device", default="cpu", help=f"cpu, cuda or cuda:N, of {what} [cpu]")


def _add_evaluate(verbs: Any) -> None:
    evaluate = verbs.add_parser("evaluate", help="errors of a potential on labelled structures")
    evaluate.add_argument("model", help="model file (.pt) or checkpoint (.ckpt) of dkmp-c")
    evaluate.add_argument(
        "data",
        help="FILE or FILE@start:stop:step: extended XYZ, .npz, label file (.h5) or folder of DeePMD arrays",
    )
    evaluate.add_argument("--energy-unit", help="of .npz (needed) and extended XYZ [eV]; forces: per Å")
    evaluate.add_argument("--energy-key", help="name of the energies in extended XYZ [energy]")
    evaluate.add_argument("--forces-key", help="name of the forces in extended XYZ [forces]")
    evaluate.add_argument("--stress-key", help="name of the stresses in extended XYZ [none is read]")
    evaluate.add_argument("--output", help="file for the numbers (JSON)")
    _add_device(evaluate, "the model")
    evaluate.set_defaults(run=_evaluate)


def _add_nve(verbs: Any) -> None:
    nve = verbs.add_parser("nve", help="dynamics at constant energy: does a potential conserve it?")
    nve.add_argument(
        "model",
        help="model file (.pt) or checkpoint (.ckpt); for comparison amber14-obc2 or an OpenMM System (.xml)",
    )
    nve.add_argument("structure", help="PDB file with all hydrogens; simulated in vacuum, unconstrained")
    nve.add_argument("--output", required=True, help="folder to write; a run that was killed there continues")
    nve.add_argument("--engine", default="openmm", choices=("openmm", "ase"), help="default: openmm")
    nve.add_argument("--platform", default="Reference", help="OpenMM platform [Reference: double precision]")
    _add_device(nve, "the model, in ASE and OpenMM's PythonForce; TorchForce follows --platform")
    nve.add_argument("--duration", type=float, default=20.0, help="picoseconds [20]")
    nve.add_argument("--time-step", type=float, default=0.5, help="femtoseconds [0.5]")
    nve.add_argument("--temperature", type=float, default=300.0, help="kelvin at the start [300]")
    nve.add_argument(
        "--equilibration", type=float, default=1.0, help="picoseconds of Langevin dynamics before [1]"
    )
    nve.add_argument("--seed", type=int, default=1, help="of the velocities at the start [1]")
    nve.set_defaults(run=_nve)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dkmp", description="Dilated message-passing potentials (DKMP).")
    verbs = parser.add_subparsers(dest="verb", required=True)

    export = verbs.add_parser("export", help="turn a training checkpoint into a model file for simulations")
    export.add_argument("checkpoint", help="checkpoint written by torchmd-train (.ckpt)")
    export.add_argument("output", help="model file to write (.pt)")
    export.add_argument(
        "--dtype", choices=("float32", "float64"), help="precision of the model [that of the training]"
    )
    export.add_argument("--device", default="cpu", help="device the weights are stored for")
    export.set_defaults(run=_export)

    info = verbs.add_parser("info", help="describe this installation, or a model")
    info.add_argument("model", nargs="?", help="model file (.pt) or checkpoint (.ckpt) to describe")
    info.set_defaults(run=_info)

    rollout = verbs.add_parser("rollout", help="run a dkmp-r model forward and compare it with a trajectory")
    rollout.add_argument("checkpoint", help="dkmp-r checkpoint written by torchmd-train (.ckpt)")
    rollout.add_argument("topology", help="topology of the whole system (PDB, PSF, prmtop, ...)")
    rollout.add_argument("trajectory", help="true trajectory; FILE#2 takes only the third run in it")
    rollout.add_argument(
        "--output", help="file for the predicted trajectory (.pdb; or .dcd or .xtc, a .pdb beside it)"
    )
    rollout.add_argument(
        "--rerank-interval",
        type=int,
        help="rank neighbours anew after this many steps, 0 for never [as in the training]",
    )
    _add_device(rollout, "the model")
    rollout.set_defaults(run=_rollout)
    _add_bespoke(verbs)
    _add_evaluate(verbs)
    _add_nve(verbs)
    return parser


def _expected_errors() -> Tuple[Type[Exception], ...]:
    """Errors that are told without a traceback. Who has not imported openmm cannot meet OpenMM's."""
    openmm: Any = sys.modules.get("openmm")
    expected = (ValueError, RuntimeError, OSError, MissingPackageError)
    return expected if openmm is None else (*expected, openmm.OpenMMException)


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
    except _expected_errors() as error:
        print(f"dkmp {arguments.verb}: error: {error}", file=sys.stderr)
        return 2
