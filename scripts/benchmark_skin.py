"""What a skin saves: steps of dynamics through OpenMM with and without one, chignolin and periodic water.

Processor time of this process per step, medians over blocks of steps that take turns: wall-clock time means
nothing beside other load. The model is examples/dkmp.yaml's with random weights; so the atoms fly rather than
vibrate, and neighbours are searched more often than in real dynamics. Structures: DKMP_DATA (../shared/data).
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Tuple

from shared_data import data_folder
from torchmdnet_settings import TORCHMDNET_SETTINGS

from dkmp_plugin.simulation.stack import prepare_backend

BACKEND = prepare_backend()  # before openmm is imported

import numpy as np  # noqa: E402
import openmm  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402
from openmm import app, unit  # noqa: E402
from openmmml import MLPotential  # noqa: E402
from torchmdnet.models.model import create_model  # noqa: E402

from dkmp_plugin.datasets.deepmd import read_deepmd  # noqa: E402
from dkmp_plugin.simulation import export_model  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
DATA = data_folder()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--skins", type=float, nargs="+", default=[0.0, 0.5, 1.0, 2.0], help="Å [0 0.5 1 2]")
    parser.add_argument("--steps", type=int, default=40, help="of 0.5 fs in a block [40]")
    parser.add_argument("--rounds", type=int, default=5, help="blocks of each contestant [5]")
    parser.add_argument("--platform", default="CPU", help="OpenMM platform [CPU]")
    return parser.parse_args()


def random_model(folder: Path) -> Path:
    """An exported dkmp-c with the settings of examples/dkmp.yaml and random weights."""
    torch.manual_seed(1)
    settings: Dict[str, Any] = {
        **TORCHMDNET_SETTINGS,
        **yaml.safe_load((ROOT / "examples/dkmp.yaml").read_text()),
        "max_num_neighbors": 0,
        "energy_unit": "kcal/mol",
    }
    model = create_model(settings)
    model.representation_model.trained_elements[[1, 6, 7, 8, 16]] = True
    state = {"model." + name: value for name, value in model.state_dict().items()}
    torch.save({"hyper_parameters": settings, "state_dict": state}, folder / "model.ckpt")
    export_model(folder / "model.ckpt", folder / "model.pt")
    return folder / "model.pt"


def chignolin() -> Tuple[app.Topology, np.ndarray]:
    """Topology and positions in Å."""
    pdb = app.PDBFile(str(DATA / "chignolin" / "chignolin.pdb"))
    return pdb.topology, np.array(pdb.getPositions(asNumpy=True).value_in_unit(unit.angstrom))


def water() -> Tuple[app.Topology, np.ndarray]:
    """Topology with the box, and positions in Å, of 192 atoms."""
    structures = read_deepmd(DATA / "water192" / "data_0" / "set.000")
    topology = app.Topology()
    residue = topology.addResidue("HOH", topology.addChain())
    for number in structures.atomic_numbers[:192]:
        element = app.Element.getByAtomicNumber(int(number))
        topology.addAtom(element.symbol, element, residue)
    topology.setPeriodicBoxVectors((structures.boxes[0] / 10).tolist() * unit.nanometer)
    return topology, structures.positions[:192]


def milliseconds(
    topology: app.Topology, positions: np.ndarray, model: Path, arguments: argparse.Namespace
) -> Dict[float, float]:
    """Median processor milliseconds per step of every skin."""
    platform = openmm.Platform.getPlatformByName(arguments.platform)
    contexts = {}
    for skin in arguments.skins:
        system = MLPotential("dkmp", modelPath=str(model), staticShapes=False, skin=skin).createSystem(
            topology
        )
        contexts[skin] = openmm.Context(system, openmm.LangevinMiddleIntegrator(300, 1, 0.0005), platform)
        contexts[skin].setPositions(positions / 10)
        contexts[skin].setVelocitiesToTemperature(300, 1)
        contexts[skin].getIntegrator().step(5)  # compiles
    times: Dict[float, List[float]] = {skin: [] for skin in contexts}
    for _ in range(arguments.rounds):
        for skin, context in contexts.items():
            start = time.process_time()
            context.getIntegrator().step(arguments.steps)
            times[skin].append(1e3 * (time.process_time() - start) / arguments.steps)
    return {skin: statistics.median(values) for skin, values in times.items()}


def main() -> int:
    arguments = parse_arguments()
    if not DATA.is_dir():
        print(f"{DATA} is absent; set DKMP_DATA to the folder of the shared data sets", file=sys.stderr)
        return 2
    print(f"OpenMM {openmm.version.short_version}, {BACKEND}, {arguments.platform}; processor ms per step")
    print(f"{'':32s}" + "".join(f"{'skin ' + format(skin, 'g') + ' Å':>14s}" for skin in arguments.skins))
    with tempfile.TemporaryDirectory() as folder:
        model = random_model(Path(folder))
        for name, (topology, positions) in (
            ("chignolin, 166 atoms", chignolin()),
            ("water, 192 atoms, 12 Å box", water()),
        ):
            times = milliseconds(topology, positions, model, arguments)
            print(f"{name:32s}" + "".join(f"{value:14.2f}" for value in times.values()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
