"""Velocity Verlet at constant energy, through OpenMM and through ASE, behind one interface."""

from typing import Any, Protocol, Tuple

import numpy as np

from dkmp_plugin.ase_dynamics import start_langevin
from dkmp_plugin.seeds import check_seed, openmm_seed
from dkmp_plugin.units import energy_factor

_MEV_PER_KILOJOULE_PER_MOLE = 1000.0 * energy_factor("kJ/mol", "eV")
FRICTION = 5.0  # 1/ps, of the Langevin dynamics before the run


class VerletDynamics(Protocol):
    """Dynamics that can be stopped and continued without a trace.

    Positions and velocities are in the program's own units (OpenMM: nm, nm/ps; ASE: Å, Å per ASE time unit),
    so that storing them loses nothing.
    """

    num_atoms: int

    def equilibrate(self, temperature: float, duration: float, seed: int) -> None:
        """Langevin dynamics at ``temperature`` (K) for ``duration`` (ps) from fresh velocities.

        The same seed gives the same dynamics.

        Raises:
            ValueError: see :func:`dkmp_plugin.seeds.check_seed`.
        """

    def step(self, num_steps: int) -> None:
        """Advance by velocity Verlet."""

    def energies(self) -> Tuple[float, float]:
        """Potential and kinetic energy at the same time, in meV."""

    def kick_energy(self) -> float:
        """What one time step of the present forces would give atoms at rest, h^2/2 sum F^2/m, in meV."""

    def get_state(self) -> Tuple[np.ndarray, np.ndarray]:
        """Positions and velocities, (N, 3) each, float64."""

    def set_state(self, positions: np.ndarray, velocities: np.ndarray) -> None:
        """Continue from what :meth:`get_state` returned."""


class OpenMMVerlet:
    """Velocity Verlet of an OpenMM System.

    OpenMM's ``VerletIntegrator`` is a leapfrog: its velocities are half a step behind its positions. Here a
    ``CustomIntegrator`` keeps both at the same time, so that their energies add up to the conserved one.

    Args:
        system: without constraints and virtual sites.
        positions: (N, 3) start in nm.
        time_step: in femtoseconds.
        platform: name of the OpenMM platform; ``Reference`` computes in double precision.

    Raises:
        ValueError: the System has constraints, virtual sites or another number of atoms, or there is no such
            platform.
    """

    def __init__(
        self, system: Any, positions: np.ndarray, time_step: float, platform: str = "Reference"
    ) -> None:
        import openmm

        if system.getNumConstraints():
            raise ValueError(
                f"the System has {system.getNumConstraints()} constraints; make it with constraints=None, so "
                "that the conserved energy is the one of all degrees of freedom"
            )
        # OpenMM places them after a whole step, but here forces are needed in the middle of it.
        num_sites = sum(system.isVirtualSite(index) for index in range(system.getNumParticles()))
        if num_sites:
            raise ValueError(
                f"the System has {num_sites} virtual sites, whose places would lag behind the atoms', so "
                "that even a perfect potential would seem to drift; make it without them, such as with a "
                "water model of three sites"
            )
        if system.getNumParticles() != len(positions):
            raise ValueError(
                f"positions of {len(positions)} atoms were given, the System has {system.getNumParticles()}; "
                "give the structure that the System was made for"
            )
        names = [openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())]
        if platform not in names:
            raise ValueError(f"platform: {platform!r} was given, one of {', '.join(names)} is expected")
        self._openmm = openmm
        self._system = system
        self._time_step = time_step / 1000.0
        self._platform = openmm.Platform.getPlatformByName(platform)
        self._masses = np.array([system.getParticleMass(i)._value for i in range(system.getNumParticles())])
        self.num_atoms = system.getNumParticles()
        integrator = openmm.CustomIntegrator(self._time_step)
        integrator.addComputePerDof("v", "v + 0.5 * dt * f / m")
        integrator.addComputePerDof("x", "x + dt * v")
        integrator.addComputePerDof("v", "v + 0.5 * dt * f / m")
        self._context = openmm.Context(system, integrator, self._platform)
        self._context.setPositions(positions)

    def equilibrate(self, temperature: float, duration: float, seed: int) -> None:
        integrator = self._openmm.LangevinMiddleIntegrator(temperature, FRICTION, self._time_step)
        integrator.setRandomNumberSeed(openmm_seed(seed))
        context = self._openmm.Context(self._system, integrator, self._platform)
        context.setPositions(self._context.getState(getPositions=True).getPositions(asNumpy=True))
        context.setVelocitiesToTemperature(temperature, openmm_seed(seed))
        integrator.step(round(duration / self._time_step))
        state = context.getState(getPositions=True, getVelocities=True)
        self._context.setPositions(state.getPositions(asNumpy=True))
        # Velocities of LangevinMiddleIntegrator lag half a step; as a starting point they are as good as any.
        self._context.setVelocities(state.getVelocities(asNumpy=True))

    def step(self, num_steps: int) -> None:
        self._context.getIntegrator().step(num_steps)

    def energies(self) -> Tuple[float, float]:
        from openmm import unit

        state = self._context.getState(getEnergy=True)
        potential = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        kinetic = state.getKineticEnergy().value_in_unit(unit.kilojoule_per_mole)
        return potential * _MEV_PER_KILOJOULE_PER_MOLE, kinetic * _MEV_PER_KILOJOULE_PER_MOLE

    def kick_energy(self) -> float:
        forces = np.array(self._context.getState(getForces=True).getForces(asNumpy=True)._value)
        # Particles without mass do not move.
        moving = self._masses > 0.0
        work_per_square = (np.square(forces).sum(1)[moving] / self._masses[moving]).sum()
        return float(0.5 * self._time_step**2 * work_per_square * _MEV_PER_KILOJOULE_PER_MOLE)

    def get_state(self) -> Tuple[np.ndarray, np.ndarray]:
        state = self._context.getState(getPositions=True, getVelocities=True)
        return np.array(state.getPositions(asNumpy=True)._value), np.array(
            state.getVelocities(asNumpy=True)._value
        )

    def set_state(self, positions: np.ndarray, velocities: np.ndarray) -> None:
        self._context.setPositions(positions)
        self._context.setVelocities(velocities)


class ASEVerlet:
    """Velocity Verlet of ASE.

    Args:
        atoms: ``ase.Atoms`` with a calculator.
        time_step: in femtoseconds.
    """

    def __init__(self, atoms: Any, time_step: float) -> None:
        from ase import units
        from ase.md.verlet import VelocityVerlet

        self._atoms = atoms
        self._time_step = time_step
        self._dynamics = VelocityVerlet(atoms, time_step * units.fs)
        self.num_atoms = len(atoms)

    def equilibrate(self, temperature: float, duration: float, seed: int) -> None:
        langevin = start_langevin(
            self._atoms,
            temperature=temperature,
            time_step=self._time_step,
            friction=FRICTION,
            generator=np.random.default_rng(check_seed(seed)),
        )
        langevin.run(round(1000.0 * duration / self._time_step))

    def step(self, num_steps: int) -> None:
        self._dynamics.run(num_steps)

    def energies(self) -> Tuple[float, float]:
        return 1000.0 * self._atoms.get_potential_energy(), 1000.0 * self._atoms.get_kinetic_energy()

    def kick_energy(self) -> float:
        from ase import units

        work_per_square = (np.square(self._atoms.get_forces()).sum(1) / self._atoms.get_masses()).sum()
        return float(1000.0 * 0.5 * (self._time_step * units.fs) ** 2 * work_per_square)

    def get_state(self) -> Tuple[np.ndarray, np.ndarray]:
        return self._atoms.get_positions(), self._atoms.get_velocities()

    def set_state(self, positions: np.ndarray, velocities: np.ndarray) -> None:
        self._atoms.set_positions(positions)
        self._atoms.set_velocities(velocities)
