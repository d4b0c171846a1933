"""Dynamics of a molecule from the files of its potential and its structure, in OpenMM or ASE."""

from pathlib import Path
from typing import Union

from dkmp_plugin.evaluation.pdb_file import check_no_atom_is_dropped, read_pdb
from dkmp_plugin.evaluation.verlet import ASEVerlet, OpenMMVerlet, VerletDynamics
from dkmp_plugin.optional import require

# Amber14 with the OBC2 implicit solvent, as the conformations of chignolin were sampled with.
AMBER14_OBC2 = ("amber14-all.xml", "implicit/obc2.xml")
CLASSICAL = "amber14-obc2"


def molecular_dynamics(
    model: Union[str, Path],
    structure: Union[str, Path],
    engine: str = "openmm",
    time_step: float = 0.5,
    platform: str = "Reference",
    device: str = "cpu",
) -> VerletDynamics:
    """Dynamics of the molecule in a PDB file, in vacuum, without constraints.

    Args:
        model: exported model (``.pt``) or checkpoint (``.ckpt``); for comparison, in OpenMM only,
            ``amber14-obc2`` or the file of an OpenMM System (``.xml``).
        structure: PDB file with all hydrogens.
        engine: ``openmm`` or ``ase``.
        time_step: in femtoseconds.
        platform: OpenMM platform; ``Reference`` computes in double precision. ASE has none.
        device: where ASE and OpenMM's PythonForce run the model; with TorchForce the platform decides.

    Raises:
        ValueError: a file is missing, the model, the structure and the engine do not fit together, or the
            device is not there or has no say.
        RuntimeError, MissingPackageError: OpenMM or its packages for models are not installed.
    """
    if engine not in ("openmm", "ase"):
        raise ValueError(f"engine: {engine!r} was given, 'openmm' or 'ase' is expected")
    if not Path(structure).is_file():
        raise ValueError(f"{structure}: no such file; a PDB file with all hydrogens is expected")
    if engine == "ase":
        if platform != "Reference":
            raise ValueError(
                f"platform: {platform!r} was given, but ASE has no platforms; leave it out, or use "
                "engine='openmm' (device says where ASE runs the model)"
            )
        return _ase_dynamics(model, structure, time_step, device)
    if device != "cpu" and (str(model) == CLASSICAL or Path(model).suffix == ".xml"):
        raise ValueError(
            f"device: '{device}' was given, but for {model} OpenMM's platform decides where it runs, and a "
            "saved System itself for its model; leave it out"
        )
    from dkmp_plugin.simulation.stack import prepare_backend

    # Loads torch before openmm.
    backend = None if str(model) == CLASSICAL else prepare_backend()
    require("openmm", "dynamics with OpenMM")
    from openmm import app, unit

    pdb = read_pdb(app.PDBFile, structure, lambda pdb: pdb.topology.getNumAtoms())
    check_no_atom_is_dropped(structure, pdb.topology.getNumAtoms())
    # In vacuum, whatever the file says; some programs write a box of 1 Å where there is none.
    pdb.topology.setPeriodicBoxVectors(None)
    if Path(model).suffix == ".xml":
        from dkmp_plugin.simulation import load_system

        system = load_system(model)
    elif str(model) == CLASSICAL:
        system = app.ForceField(*AMBER14_OBC2).createSystem(
            pdb.topology, nonbondedMethod=app.NoCutoff, constraints=None, removeCMMotion=False
        )
    else:
        require("openmmml", "dynamics of a model with OpenMM")
        from openmmml import MLPotential

        potential = MLPotential("dkmp", modelPath=str(model))
        # TorchForce refuses any device but takes the platform's, by default the CPU as well.
        place = {} if backend == "torchforce" and device == "cpu" else {"device": device}
        system = potential.createSystem(pdb.topology, removeCMMotion=False, **place)
    positions = pdb.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    return OpenMMVerlet(system, positions, time_step, platform)


def _ase_dynamics(
    model: Union[str, Path], structure: Union[str, Path], time_step: float, device: str
) -> ASEVerlet:
    if str(model) == CLASSICAL or Path(model).suffix == ".xml":
        raise ValueError(f"{model} runs in OpenMM only; use engine='openmm'")
    import ase.io

    from dkmp_plugin.simulation import DKMPCalculator

    # The first model: after the last one ASE sees an empty image where the file ends with END.
    atoms = read_pdb(lambda file: ase.io.read(file, index=0, format="proteindatabank"), structure, len)
    atoms.set_cell(None)
    atoms.set_pbc(False)
    atoms.calc = DKMPCalculator(model, device=device)
    return ASEVerlet(atoms, time_step)
