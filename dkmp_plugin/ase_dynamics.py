"""Langevin dynamics in ASE, set up the same way for every purpose."""

from typing import Any

import numpy as np


def start_langevin(
    atoms: Any, *, temperature: float, time_step: float, friction: float, generator: np.random.Generator
) -> Any:
    """Gives atoms velocities of the Maxwell-Boltzmann distribution and makes their Langevin dynamics.

    Args:
        atoms: ``ase.Atoms`` with a calculator.
        temperature: in kelvin.
        time_step: in femtoseconds.
        friction: in 1/ps.
        generator: of the velocities and of the random forces.

    Returns:
        ASE's ``Langevin``, before its first step.
    """
    from ase import units
    from ase.md.langevin import Langevin

    # ASE's own function for this was renamed between the versions that we support.
    width = np.sqrt(units.kB * temperature * atoms.get_masses())
    atoms.set_momenta(width[:, None] * generator.standard_normal(atoms.positions.shape))
    return Langevin(
        atoms,
        time_step * units.fs,
        temperature_K=temperature,
        friction=friction / (1000.0 * units.fs),
        rng=generator,
        fixcm=False,  # the correct ensemble
    )
