"""What OpenMM adds to the model, what the model adds to OpenMM, and what minimising costs.

Measurements alternate, so that other load on the machine hits all of them; medians of wall-clock time, and
processor time of the whole process beside it. Take the numbers from an idle machine.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

from dkmp_plugin.simulation.stack import prepare_backend

BACKEND = prepare_backend()  # before openmm is imported

import openmm  # noqa: E402
import torch  # noqa: E402
from openmm import app, unit  # noqa: E402
from openmmml import MLPotential  # noqa: E402

from dkmp_plugin.simulation.force_module import OpenMMEnergy, fix_shapes, scripted  # noqa: E402
from dkmp_plugin.simulation.model_file import load_model_file  # noqa: E402
from dkmp_plugin.simulation.potential import BUNDLED_MODEL  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
from t4_lysozyme import complex_files, load_complex  # noqa: E402


def parse_arguments(given: Optional[List[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--platform", default="CPU", help="OpenMM platform")
    parser.add_argument("--repeats", type=int, default=200, help="evaluations of the 18-atom ligand")
    parser.add_argument(
        "--complex-repeats", type=int, default=30, help="steps of the complex; 0: leave it out"
    )
    parser.add_argument("--output", type=Path, help="JSON to write")
    return parser.parse_args(given)


def alternate(actions: Dict[str, Callable[[], Any]], repeats: int) -> Dict[str, Tuple[float, float]]:
    """Median wall-clock and processor milliseconds of each action, one call of each in turn."""
    times: Dict[str, List[Tuple[float, float]]] = {name: [] for name in actions}
    for index in range(repeats + 3):
        for name, action in actions.items():
            wall, processor = time.perf_counter(), time.process_time()
            action()
            if index >= 3:  # the first ones compile
                times[name].append(
                    (1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - processor))
                )
    return {
        name: (statistics.median(w for w, _ in values), statistics.median(p for _, p in values))
        for name, values in times.items()
    }


def ligand_alone(platform: openmm.Platform, repeats: int) -> Dict[str, Tuple[float, float]]:
    """One evaluation of p-xylene: the bare module in PyTorch, and the same through OpenMM."""
    folder = complex_files()[0].parent
    topology = app.AmberPrmtopFile(str(folder / "ligand.prmtop")).topology
    positions = app.AmberInpcrdFile(str(folder / "ligand.crd")).getPositions(asNumpy=True)
    context = openmm.Context(
        MLPotential("dkmp").createSystem(topology), openmm.VerletIntegrator(0.001), platform
    )
    context.setPositions(positions)
    model, info = load_model_file(BUNDLED_MODEL)
    numbers = torch.tensor([atom.element.atomic_number for atom in topology.atoms()])
    fix_shapes(model, len(numbers))
    module = scripted(OpenMMEnergy(model, info, numbers, None))
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    module = torch.jit.freeze(module)
    start = torch.tensor(positions.value_in_unit(unit.nanometer), dtype=torch.float32)

    def bare() -> None:
        pos = start.clone().requires_grad_(True)
        torch.autograd.grad(module(pos), pos)

    return alternate(
        {
            "bare module, energy and forces": bare,
            "OpenMM, energy and forces": lambda: context.getState(getEnergy=True, getForces=True),
        },
        repeats,
    )


def in_the_complex(platform: openmm.Platform, repeats: int) -> Dict[str, Tuple[float, float]]:
    """One step of T4 lysozyme + p-xylene: pure MM, and with the ligand by the model."""
    t4_lysozyme = load_complex()
    mixed = MLPotential("dkmp").createMixedSystem(
        t4_lysozyme.topology, t4_lysozyme.system, t4_lysozyme.ligand
    )
    actions = {}
    for name, system in (("pure MM step", t4_lysozyme.system), ("ML/MM step", mixed)):
        integrator = openmm.LangevinMiddleIntegrator(300, 1, 0.0005)
        context = openmm.Context(system, integrator, platform)
        context.setPositions(t4_lysozyme.positions / 10)
        openmm.LocalEnergyMinimizer.minimize(context, maxIterations=5)
        # The default argument keeps each context alive with its own step.
        actions[name] = lambda context=context: context.getIntegrator().step(1)
    return alternate(actions, repeats)


def main(given: Optional[List[str]] = None) -> int:
    arguments = parse_arguments(given)
    platform = openmm.Platform.getPlatformByName(arguments.platform)
    results = ligand_alone(platform, arguments.repeats)
    if arguments.complex_repeats:
        results.update(in_the_complex(platform, arguments.complex_repeats))
    print(
        f"OpenMM {openmm.version.short_version}, {BACKEND}, {arguments.platform}, torch {torch.__version__}"
    )
    print(f"{'medians':36s}{'wall-clock ms':>15s}{'processor ms':>15s}")
    for name, (wall, processor) in results.items():
        print(f"{name:36s}{wall:15.2f}{processor:15.2f}")
    wall, processor = (
        results["OpenMM, energy and forces"][kind] - results["bare module, energy and forces"][kind]
        for kind in (0, 1)
    )
    print(f"OpenMM's overhead per evaluation, 18 atoms: {wall:.2f} ms ({processor:.2f} ms processor time)")
    if arguments.complex_repeats:
        print(f"ML/MM step / pure MM step: {results['ML/MM step'][0] / results['pure MM step'][0]:.2f}")
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
