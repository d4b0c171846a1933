"""Conformations of one molecule: Langevin dynamics (force field or GFN2-xTB), and strained copies."""

from typing import Sequence, Tuple

import numpy as np
import openmm
from openmm import unit

from dkmp_plugin.ase_dynamics import start_langevin
from dkmp_plugin.seeds import check_seed, openmm_seed


def sample_langevin(
    system: openmm.System,
    positions: np.ndarray,
    *,
    temperature: float,
    num_frames: int,
    seed: int,
    steps_between_frames: int = 500,
    equilibration_steps: int = 2000,
    time_step: float = 0.5,
    friction: float = 5.0,
) -> np.ndarray:
    """Frames of one Langevin trajectory of a small molecule.

    Args:
        system: flexible (no constraints), without surroundings.
        positions: (N, 3) start in Å; minimised first.
        temperature: in kelvin.
        num_frames: M.
        seed: of the velocities and of the random force, from 0 on; another seed is an independent run.
        steps_between_frames: long enough that neighbouring frames decorrelate.
        equilibration_steps: before the first frame.
        time_step: in femtoseconds.
        friction: in 1/ps.

    Returns:
        (M, N, 3) in Å, centred on their centroids.

    Raises:
        ValueError: the System has constraints, an impossible seed, or the dynamics left finite numbers.
    """
    if system.getNumConstraints():
        raise ValueError(
            f"the System has {system.getNumConstraints()} constraints; make it with constraints=None, "
            "frozen bonds teach a model nothing about bond stretching"
        )
    integrator = openmm.LangevinMiddleIntegrator(
        temperature * unit.kelvin, friction / unit.picosecond, time_step * unit.femtosecond
    )
    integrator.setRandomNumberSeed(openmm_seed(seed))
    # For a few dozen atoms the single-threaded Reference platform beats the others' overhead.
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(np.asarray(positions, dtype=np.float64) * unit.angstrom)
    openmm.LocalEnergyMinimizer.minimize(context)
    context.setVelocitiesToTemperature(temperature * unit.kelvin, openmm_seed(seed))
    integrator.step(equilibration_steps)
    frames = []
    for _ in range(num_frames):
        integrator.step(steps_between_frames)
        frame = context.getState(getPositions=True).getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        frames.append(frame - frame.mean(axis=0))
    trajectory = np.array(frames)
    if not np.isfinite(trajectory).all():
        raise ValueError(f"the dynamics at {temperature} K became unstable; use a shorter time_step")
    return trajectory


def sample_gfn2(
    atomic_numbers: Sequence[int],
    positions: np.ndarray,
    *,
    charge: int,
    temperature: float,
    num_frames: int,
    seed: int,
    steps_between_frames: int = 100,
    equilibration_steps: int = 500,
    time_step: float = 0.5,
    friction: float = 5.0,
    bonds: Sequence[Tuple[int, int]] = (),
) -> np.ndarray:
    """Frames of one Langevin trajectory with GFN2-xTB forces (ASE, tblite), for want of a force field.

    Args:
        atomic_numbers: (N,).
        positions: (N, 3) start in Å; relaxed for a few steps first.
        charge: total charge in elementary charges.
        temperature: in kelvin.
        num_frames: M.
        seed: as in :func:`sample_langevin`.
        steps_between_frames: fewer than with a force field, as each costs a GFN2-xTB calculation.
        equilibration_steps: before the first frame.
        time_step: in femtoseconds.
        friction: in 1/ps.
        bonds: pairs of atoms that must stay bonded, all of the molecule's; none: nothing is checked.

    Returns:
        (M, N, 3) in Å, centred on their centroids.

    Raises:
        ValueError: an impossible seed, the bonds changed, the dynamics left finite numbers, or GFN2-xTB did
            not converge on the way.
    """
    from ase import Atoms
    from ase.calculators.calculator import CalculationFailed, InputError
    from ase.optimize import BFGS

    from dkmp_plugin.labeling.gfn2 import ase_calculator

    generator = np.random.default_rng(check_seed(seed))
    atoms = Atoms(numbers=atomic_numbers, positions=positions, calculator=ase_calculator(charge))
    frames = []
    try:
        BFGS(atoms, logfile=None).run(fmax=0.2, steps=30)
        _check_bonds(atomic_numbers, bonds, atoms.positions, "the minimisation", _STABLE_INPUT)
        dynamics = start_langevin(
            atoms,
            temperature=temperature,
            time_step=time_step,
            friction=friction,
            generator=generator,
        )
        dynamics.run(equilibration_steps)
        for index in range(num_frames):
            dynamics.run(steps_between_frames)
            # Coordinates that are not finite have no bonds; they are refused below.
            if np.isfinite(atoms.positions).all():
                where = f"frame {index + 1} of {num_frames} at {temperature:g} K"
                _check_bonds(atomic_numbers, bonds, atoms.positions, where, _STABLE_OR_COLDER)
            frames.append(atoms.positions - atoms.positions.mean(axis=0))
    except (CalculationFailed, InputError, RuntimeError) as error:
        raise ValueError(
            f"GFN2-xTB dynamics at {temperature} K failed after {len(frames)} of {num_frames} frames "
            f"({error}); lower the temperature"
        ) from error
    trajectory = np.array(frames)
    if not np.isfinite(trajectory).all():
        raise ValueError(f"the dynamics at {temperature} K became unstable; use a shorter time_step")
    return trajectory


_STABLE_INPUT = (
    "give a form that is stable in vacuum, such as the neutral one of a zwitterion, or an Amber prmtop, "
    "whose force field keeps the bonds"
)
_STABLE_OR_COLDER = f"lower the temperature if it is heat that breaks them; otherwise {_STABLE_INPUT}"


def _check_bonds(
    atomic_numbers: Sequence[int],
    bonds: Sequence[Tuple[int, int]],
    positions: np.ndarray,
    where: str,
    remedy: str,
) -> None:
    from dkmp_plugin.labeling.connectivity import changed_bonds

    changes = changed_bonds(atomic_numbers, bonds, positions) if len(bonds) else ""
    if changes:
        raise ValueError(
            f"GFN2-xTB in vacuum changes the bonds of the molecule: in {where}, {changes} (atoms counted "
            f"from 1), and the potential would be of another molecule; {remedy}"
        )


def strain(
    frames: np.ndarray,
    generator: np.random.Generator,
    *,
    max_scaling: float = 0.05,
    max_displacement: float = 0.04,
) -> np.ndarray:
    """Strained copies: each frame is scaled along three random axes and every atom displaced at random.

    Args:
        frames: (M, N, 3) in Å.
        generator: source of randomness.
        max_scaling: largest relative stretch or compression along an axis.
        max_displacement: largest standard deviation, in Å, of the displacement per coordinate; each frame
            draws its own between 0 and this.

    Returns:
        (M, N, 3) in Å, centred.
    """
    strained = np.empty_like(frames)
    for index, frame in enumerate(frames):
        axes, _ = np.linalg.qr(generator.standard_normal((3, 3)))
        scaling = 1.0 + generator.uniform(-max_scaling, max_scaling, size=3)
        centred = frame - frame.mean(axis=0)
        stretched = centred @ (axes * scaling) @ axes.T
        width = generator.uniform(0.0, max_displacement)
        strained[index] = stretched + width * generator.standard_normal(frame.shape)
    return strained - strained.mean(axis=1, keepdims=True)
