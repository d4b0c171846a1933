"""What OpenMM adds to the model, what the model adds to OpenMM, and openmm-ml's TensorNet beside it.

Tables (choose with --tables):
  ligand        one evaluation of p-xylene: the bare module in PyTorch, and the same through OpenMM
  complex       one step of T4 lysozyme + p-xylene (2,621 atoms, OBC2): pure MM, and the ligand by the model
  minimisation  twenty iterations of OpenMM's minimiser on both (openmm-ml issue 94: 60 times longer)
  start         making a System of p-xylene, a Context of it, and the first ten steps
  speed         many steps of p-xylene and of the complex: the first tenth and the last (openmm-ml issue 62)
  tensornet     p-xylene and the complex by this model and by openmm-ml's own `torchmdnet` potential, a
                TensorNet trained on the same labels (scripts/train_tensornet.py); needs the latest stack

Run from the default stack, the last table is made by .venv-latest/bin/python (scripts/test_latest_stack.sh
--install-only makes it). Contestants take turns, so that other load on the machine hits all of them; medians
of wall-clock time, and processor time of the whole process beside it. Take the numbers from an idle machine.
"""

import argparse
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

from dkmp_plugin.simulation.stack import prepare_backend

BACKEND = prepare_backend()  # before openmm is imported

import numpy as np  # noqa: E402
import openmm  # noqa: E402
import torch  # noqa: E402
from openmm import app, unit  # noqa: E402
from openmmml import MLPotential  # noqa: E402

from dkmp_plugin.datasets.label_file import read_label_file, split_indices  # noqa: E402
from dkmp_plugin.files import replaced_on_success  # noqa: E402
from dkmp_plugin.simulation.force_module import OpenMMEnergy, fix_shapes, scripted  # noqa: E402
from dkmp_plugin.simulation.model_file import load_model_file  # noqa: E402
from dkmp_plugin.simulation.potential import BUNDLED_MODEL  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples"))
from t4_lysozyme import complex_files, load_complex  # noqa: E402

LATEST = ROOT / ".venv-latest" / "bin" / "python"
# Milliseconds: wall-clock, processor.
Times = Dict[str, Tuple[float, float]]


def parse_arguments(given: Optional[List[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES), help="[all]")
    parser.add_argument("--platform", default="CPU", help="OpenMM platform [CPU]")
    parser.add_argument(
        "--model", type=Path, default=BUNDLED_MODEL, help="of p-xylene, of the table start [the bundled one]"
    )
    parser.add_argument("--repeats", type=int, default=200, help="evaluations of the 18-atom ligand [200]")
    parser.add_argument("--complex-repeats", type=int, default=30, help="steps of the complex [30]")
    parser.add_argument(
        "--speed-steps", type=int, default=10_000, help="of p-xylene; the complex a 20th [10000]"
    )
    parser.add_argument(
        "--tensornet",
        type=Path,
        default=ROOT / "runs/tensornet/best.ckpt",
        help="checkpoint of the TensorNet [runs/tensornet/best.ckpt]",
    )
    parser.add_argument(
        "--labels",
        type=Path,
        default=ROOT / "runs/demo/p_xylene.h5",
        help="its labels [runs/demo/p_xylene.h5]",
    )
    parser.add_argument("--latest-python", type=Path, default=LATEST, help="[.venv-latest/bin/python]")
    parser.add_argument("--output", type=Path, help="JSON to write")
    return parser.parse_args(given)


def measured(action: Callable[[], Any]) -> Tuple[float, float]:
    """Milliseconds of wall-clock and of processor time."""
    wall, processor = time.perf_counter(), time.process_time()
    action()
    return 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - processor)


def alternate(actions: Dict[str, Callable[[], Any]], repeats: int, warm_up: int = 3) -> Times:
    """Median milliseconds of each action, one call of each in turn."""
    times: Dict[str, List[Tuple[float, float]]] = {name: [] for name in actions}
    for index in range(repeats + warm_up):
        for name, action in actions.items():
            sample = measured(action)
            if index >= warm_up:  # the first ones compile
                times[name].append(sample)
    return {
        name: (statistics.median(w for w, _ in values), statistics.median(p for _, p in values))
        for name, values in times.items()
    }


def context_of(system: openmm.System, positions: Any, platform: openmm.Platform) -> openmm.Context:
    """A context at 0.5 fs, at the given positions in nm."""
    context = openmm.Context(system, openmm.LangevinMiddleIntegrator(300, 1, 0.0005), platform)
    context.setPositions(positions)
    return context


def p_xylene() -> Tuple[app.Topology, Any]:
    """Topology and positions in nm of p-xylene alone."""
    folder = complex_files()[0].parent
    topology = app.AmberPrmtopFile(str(folder / "ligand.prmtop")).topology
    positions = app.AmberInpcrdFile(str(folder / "ligand.crd")).getPositions(asNumpy=True)
    return topology, positions.value_in_unit(unit.nanometer)


def complex_contexts(platform: openmm.Platform, **potentials: MLPotential) -> Dict[str, openmm.Context]:
    """T4 lysozyme + p-xylene: ``MM``, and with the ligand by each potential; not minimised."""
    t4_lysozyme = load_complex()
    systems = {"MM": t4_lysozyme.system}
    for name, potential in potentials.items():
        systems[name] = potential.createMixedSystem(
            t4_lysozyme.topology, t4_lysozyme.system, t4_lysozyme.ligand
        )
    return {
        name: context_of(system, t4_lysozyme.positions / 10, platform) for name, system in systems.items()
    }


def steps_of(contexts: Dict[str, openmm.Context], prefix: str = "") -> Dict[str, Callable[[], None]]:
    """One step of each."""
    for context in contexts.values():
        openmm.LocalEnergyMinimizer.minimize(context, maxIterations=5)
    # The default argument keeps each context alive with its own step.
    return {
        prefix + name + " step": lambda context=context: context.getIntegrator().step(1)
        for name, context in contexts.items()
    }


def table_ligand(arguments: argparse.Namespace, platform: openmm.Platform) -> Times:
    topology, positions = p_xylene()
    context = context_of(MLPotential("dkmp").createSystem(topology), positions, platform)
    model, info = load_model_file(BUNDLED_MODEL)
    numbers = torch.tensor([atom.element.atomic_number for atom in topology.atoms()])
    fix_shapes(model, len(numbers))
    module = scripted(OpenMMEnergy(model, info, numbers, None))
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    module = torch.jit.freeze(module)
    start = torch.tensor(positions, dtype=torch.float32)

    def bare() -> None:
        pos = start.clone().requires_grad_(True)
        torch.autograd.grad(module(pos), pos)

    bare_name, name = "bare module, energy and forces", "OpenMM, energy and forces"
    times = alternate(
        {bare_name: bare, name: lambda: context.getState(getEnergy=True, getForces=True)}, arguments.repeats
    )
    wall, processor = (times[name][kind] - times[bare_name][kind] for kind in (0, 1))
    print(f"OpenMM's overhead per evaluation, 18 atoms: {wall:.2f} ms ({processor:.2f} ms processor time)")
    return times


def table_complex(arguments: argparse.Namespace, platform: openmm.Platform) -> Times:
    contexts = complex_contexts(platform, **{"ML/MM": MLPotential("dkmp")})
    times = alternate(steps_of(contexts), arguments.complex_repeats)
    print(f"ML/MM step / pure MM step: {times['ML/MM step'][0] / times['MM step'][0]:.2f}")
    return times


def table_minimisation(arguments: argparse.Namespace, platform: openmm.Platform) -> Times:
    contexts = complex_contexts(platform, **{"ML/MM": MLPotential("dkmp")})
    start = contexts["MM"].getState(getPositions=True).getPositions()

    def minimise(context: openmm.Context) -> None:
        context.setPositions(start)
        openmm.LocalEnergyMinimizer.minimize(context, maxIterations=20)

    actions = {
        f"{name} minimisation, 20 iterations": lambda context=context: minimise(context)
        for name, context in contexts.items()
    }
    times = alternate(actions, repeats=1, warm_up=1)
    mm, ml_mm = (times[name][0] for name in actions)
    print(f"ML/MM minimisation / MM minimisation: {ml_mm / mm:.2f}")
    return times


def table_start(arguments: argparse.Namespace, platform: openmm.Platform) -> Times:
    topology, positions = p_xylene()
    potential = MLPotential("dkmp", modelPath=str(arguments.model))
    made: Dict[str, Any] = {}

    def make_system() -> None:
        made["system"] = potential.createSystem(topology)

    def make_context() -> None:
        made["context"] = context_of(made["system"], positions, platform)

    return alternate(
        {
            "createSystem": make_system,
            "Context": make_context,
            "the first ten steps": lambda: made["context"].getIntegrator().step(10),
        },
        repeats=5,
        warm_up=1,
    )


def table_speed(arguments: argparse.Namespace, platform: openmm.Platform) -> Times:
    topology, positions = p_xylene()
    alone = context_of(MLPotential("dkmp").createSystem(topology), positions, platform)
    in_complex = complex_contexts(platform, **{"ML/MM": MLPotential("dkmp")})["ML/MM"]
    times: Times = {}
    for name, context, steps in (
        ("p-xylene", alone, arguments.speed_steps),
        ("complex", in_complex, arguments.speed_steps // 20),
    ):
        openmm.LocalEnergyMinimizer.minimize(context, maxIterations=20)
        context.setVelocitiesToTemperature(300, 1)
        tenth = max(1, steps // 10)
        context.getIntegrator().step(tenth // 5 + 3)  # compiles
        parts = [measured(lambda c=context, n=tenth: c.getIntegrator().step(n)) for _ in range(10)]
        for part, (wall, processor) in (("first", parts[0]), ("last", parts[-1])):
            times[f"{name}, a step of the {part} tenth"] = wall / tenth, processor / tenth
        ratio = parts[-1][1] / parts[0][1]
        print(f"{name}, {10 * tenth} steps: processor time of the last tenth / the first: {ratio:.2f}")
    return times


def table_tensornet(arguments: argparse.Namespace, platform: openmm.Platform) -> Times:
    if BACKEND == "torchforce":
        return _by_the_latest_stack(arguments)
    if not arguments.tensornet.is_file():
        print(f"TensorNet: {arguments.tensornet} is absent; scripts/train_tensornet.py makes it")
        return {}
    _keep_layout_of_weights()
    potentials = {
        "dkmp-c": MLPotential("dkmp"),
        # Positions in Å, energies in kcal/mol.
        "TensorNet": MLPotential(
            "torchmdnet", modelPath=str(arguments.tensornet), lengthScale=0.1, energyScale=4.184
        ),
    }
    topology, positions = p_xylene()
    alone = {
        name: context_of(potential.createSystem(topology), positions, platform)
        for name, potential in potentials.items()
    }
    for name, context in alone.items() if arguments.labels.is_file() else ():
        error = force_error(context, arguments.labels)
        print(f"{name} in OpenMM: force MAE on held-out runs {error:.3f} kcal/mol/Å (GFN2-xTB labels)")
    actions = {
        f"{name}, energy and forces": lambda context=context: context.getState(getEnergy=True, getForces=True)
        for name, context in alone.items()
    }
    times = alternate(actions, arguments.repeats)
    contexts = complex_contexts(platform, **potentials)
    times.update(alternate(steps_of(contexts, "complex: "), arguments.complex_repeats))
    return times


def _keep_layout_of_weights() -> None:
    """Makes torchmd-net 3.1 load TensorNet's weights as they are.

    openmm-ml 1.8 passes it ``check_errors``, from which it concludes that the checkpoint is of an earlier
    version and permutes the weights: forces are then off by 10 kcal/mol/Å (:func:`force_error` shows it).
    """
    import torchmdnet.models.model

    load_model = torchmdnet.models.model.load_model
    torchmdnet.models.model.load_model = functools.partial(load_model, compatibility_load=False)


def force_error(context: openmm.Context, label_file: Path) -> float:
    """Mean absolute error in kcal/mol/Å of a context's forces on every fourth held-out conformation."""
    labels = read_label_file(label_file)
    errors = []
    for conformation in split_indices(labels)["test"][::4]:
        context.setPositions(labels.positions[conformation] / 10)
        forces = context.getState(getForces=True).getForces(asNumpy=True)
        forces = forces.value_in_unit(unit.kilocalories_per_mole / unit.angstrom)
        errors.append(np.abs(forces - labels.forces[conformation]).mean())
    return float(np.mean(errors))


def _by_the_latest_stack(arguments: argparse.Namespace) -> Times:
    """This script again, by the other environment's Python."""
    if not arguments.latest_python.is_file():
        print(f"TensorNet: no {arguments.latest_python}; bash scripts/test_latest_stack.sh --install-only")
        return {}
    sys.stdout.flush()
    command = [str(arguments.latest_python), __file__, "--tables", "tensornet"]
    for name in ("platform", "repeats", "complex_repeats", "tensornet", "labels"):
        command += ["--" + name.replace("_", "-"), str(getattr(arguments, name))]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "times.json"
        done = subprocess.run([*command, "--output", str(output)])
        if done.returncode:
            raise SystemExit(f"the latest stack's part ended with status {done.returncode}; see above")
        times = json.loads(output.read_text()).get("tensornet", {})
    return {name: (wall, processor) for name, (wall, processor) in times.items()}


TABLES: Dict[str, Callable[[argparse.Namespace, openmm.Platform], Times]] = {
    "ligand": table_ligand,
    "complex": table_complex,
    "minimisation": table_minimisation,
    "start": table_start,
    "speed": table_speed,
    "tensornet": table_tensornet,
}


def main(given: Optional[List[str]] = None) -> int:
    arguments = parse_arguments(given)
    platform = openmm.Platform.getPlatformByName(arguments.platform)
    print(
        f"OpenMM {openmm.version.short_version}, {BACKEND}, {arguments.platform}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads",
        flush=True,
    )
    results: Dict[str, Times] = {}
    for name in arguments.tables:
        times = TABLES[name](arguments, platform)
        results[name] = times
        if times and not (name == "tensornet" and BACKEND == "torchforce"):  # those are printed already
            print(f"{name + ': medians':44s}{'wall-clock ms':>15s}{'processor ms':>15s}")
            for what, (wall, processor) in times.items():
                print(f"{what:44s}{wall:15.2f}{processor:15.2f}", flush=True)
    if arguments.output:
        with replaced_on_success(arguments.output) as temporary:
            temporary.write_text(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
