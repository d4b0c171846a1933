"""DKMP^R inside OpenMM: predicts adenylate kinase frame by frame and writes a DCD file.

    torchmd-train --conf examples/dkmp_r_adk.yaml
    python examples/dkmp_r_openmm.py runs/dkmp_r_adk 4

One step is one predicted frame: 20 frames of the DIMS path that the model was trained on.
"""

import sys
from pathlib import Path

from openmm.app import DCDReporter, PDBFile

from dkmp_plugin.datasets.adk import dims_test_files
from dkmp_plugin.datasets.trajectory_files import load_runs, load_topology
from dkmp_plugin.files import replaced_on_success
from dkmp_plugin.simulation import DKMPPropagator, export_propagator
from dkmp_plugin.training.log_dir import best_checkpoint


def main(log_dir: str, num_steps: int) -> None:
    model = Path(log_dir) / "propagator.pt"
    info = export_propagator(best_checkpoint(log_dir), model)
    print(f"{model}: elements {info.elements}, lag {info.dataset['lag']} frames")
    topology_file, first_run, _ = dims_test_files()
    topology = load_topology(topology_file)
    (run,) = load_runs(first_run, topology)

    propagator = DKMPPropagator(model, topology.to_openmm(), run.positions[0] / 10)
    simulation = propagator.create_simulation()
    simulation.reporters.append(DCDReporter(str(Path(log_dir) / "propagated.dcd"), 1))
    simulation.step(num_steps)
    positions = simulation.context.getState(positions=True).getPositions()
    with replaced_on_success(Path(log_dir) / "propagated.pdb") as temporary, temporary.open("w") as file:
        PDBFile.writeFile(propagator.topology, positions, file)
    print(
        f"{num_steps} frames on {simulation.context.getPlatform().getName()}: {log_dir}/propagated.dcd, .pdb"
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
