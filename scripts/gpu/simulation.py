"""The GPU in simulations: ASE, and OpenMM's CUDA platform with T4 lysozyme and p-xylene."""

import sys
import time
from pathlib import Path
from typing import Any, Dict, Tuple

import numpy as np
import torch

from dkmp_plugin.simulation import torchscript
from dkmp_plugin.simulation.bundled_model import BUNDLED_MODEL
from dkmp_plugin.simulation.cuda_graph import CapturedGradient
from dkmp_plugin.simulation.force_module import OpenMMEnergy, fix_shapes, scripted
from dkmp_plugin.simulation.model_file import load_model_file
from dkmp_plugin.simulation.stack import prepare_backend
from gpu.models import grid_structure
from gpu.report import NotHereError

ROOT = Path(__file__).resolve().parents[2]
_ML_GROUP = 7


def _agree(what: str, found: np.ndarray, expected: np.ndarray, tolerance: float) -> float:
    largest = float(np.abs(expected).max())
    if not largest > 1e-6:
        raise AssertionError(f"{what}: nothing to compare, the largest is {largest:.1e}")
    error = float(np.abs(found - expected).max()) / largest
    if not error <= tolerance:
        raise AssertionError(f"{what}: relative error {error:.1e}, allowed {tolerance:.0e}")
    return error


def check_ase(device: str) -> str:
    """Energy, forces and stress, with a skin and without, against the CPU."""
    try:
        from ase import Atoms
    except ImportError:
        raise NotHereError("ase is not installed") from None
    from dkmp_plugin.simulation import DKMPCalculator

    start = grid_structure(18, 1.5)[1].numpy()
    generator = np.random.default_rng(1)
    worst = 0.0
    for periodic in (False, True):
        for skin in (0.0, 1.0):
            atoms = Atoms("C8H10", start, cell=np.diag([9.0, 10.0, 11.0]), pbc=periodic)
            here, there = (DKMPCalculator(BUNDLED_MODEL, skin, place) for place in ("cpu", device))
            for _ in range(6):  # near enough for the list, and too far
                atoms.positions += generator.normal(scale=0.1, size=start.shape)
                results = []
                for calculator in (there, here):
                    atoms.calc = calculator
                    stress = atoms.get_stress() if periodic else np.ones(6)
                    results.append((atoms.get_forces(), np.array(atoms.get_potential_energy()), stress))
                for name, found, expected in zip(("forces", "energy", "stress"), *results, strict=True):
                    worst = max(worst, _agree(name, found, expected, 1e-3))
    seconds = []
    for place in ("cpu", device):
        atoms.calc = DKMPCalculator(BUNDLED_MODEL, 0.0, place)
        for step in range(20):
            if step == 10:
                begin = time.perf_counter()
            atoms.positions += 1e-4
            atoms.get_forces()
        seconds.append((time.perf_counter() - begin) / 10)
    return (
        f"energies, forces, stresses, with a skin and without: relative error {worst:.1e}; 18 atoms "
        f"{1e3 * seconds[1]:.1f} ms, on the CPU {1e3 * seconds[0]:.1f}"
    )


def load_complex() -> Any:
    """T4 lysozyme L99A with p-xylene (examples/t4_lysozyme.py)."""
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        from t4_lysozyme import load_complex
    finally:
        sys.path.remove(str(ROOT / "examples"))
    try:
        return load_complex()
    except ValueError as error:
        raise NotHereError(str(error)) from None


def _context(system: Any, positions: np.ndarray, platform: str) -> Any:
    import openmm

    integrator = openmm.LangevinMiddleIntegrator(300, 1, 0.001)
    integrator.setRandomNumberSeed(1)
    properties = {"Precision": "mixed"} if platform == "CUDA" else {}
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName(platform), properties)
    context.setPositions(positions / 10)
    return context


def _model_part(context: Any) -> Tuple[np.ndarray, np.ndarray]:
    """Energy in kJ/mol and forces (M, 3) in kJ/mol/nm of the model alone."""
    state = context.getState(getEnergy=True, getForces=True, groups={_ML_GROUP})
    return np.array(state.getPotentialEnergy()._value), np.array(state.getForces(asNumpy=True)._value)


def check_python_force(device: str, platform: str, num_steps: int = 200) -> str:
    """The model's forces at places along ML/MM dynamics, against OpenMM's Reference platform and the CPU.

    Without and with a CUDA graph, and of a System that was written to XML and read again.
    """
    if prepare_backend() != "pythonforce":
        raise NotHereError("this stack has TorchForce")
    import openmm
    from openmmml import MLPotential

    names = [openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())]
    if platform not in names:
        failures = "; ".join(openmm.Platform.getPluginLoadFailures())
        raise NotHereError(f"OpenMM has no {platform} platform here: {failures or 'it is not installed'}")
    complex_ = load_complex()

    def system(place: str, **options: Any) -> Any:
        potential = MLPotential("dkmp", **options)
        return potential.createMixedSystem(
            complex_.topology, complex_.system, complex_.ligand, forceGroup=_ML_GROUP, device=place
        )

    reference = _context(system("cpu"), complex_.positions, "Reference")
    ways: Dict[str, Any] = {"eager": system(device)}
    if device != "cpu":
        ways["CUDA graph"] = system(device, useCUDAGraphs=True)
        ways["CUDA graph from XML"] = openmm.XmlSerializer.deserialize(
            openmm.XmlSerializer.serialize(ways["CUDA graph"])
        )
    parts = []
    for name, mixed in ways.items():
        context = _context(mixed, complex_.positions, platform)
        # The first steps compile and capture.
        context.getIntegrator().step(20)
        worst = stepping = 0.0
        for _ in range(4):
            start = time.perf_counter()
            context.getIntegrator().step(num_steps // 4)
            # Asking for the positions waits for platforms that run ahead.
            positions = np.array(context.getState(getPositions=True).getPositions(asNumpy=True)._value)
            stepping += time.perf_counter() - start
            reference.setPositions(positions)
            energy, forces = _model_part(context)
            expected_energy, expected_forces = _model_part(reference)
            worst = max(worst, _agree(f"forces, {name}", forces, expected_forces, 1e-3))
            if abs(energy - expected_energy) > 0.05:
                raise AssertionError(f"{name}: {energy} kJ/mol, expected {expected_energy}")
        parts.append(f"{name} {1e3 * stepping / (num_steps // 4 * 4):.2f} ms/step, forces to {worst:.1e}")
    classical = _context(complex_.system, complex_.positions, platform)
    classical.getIntegrator().step(20)
    start = time.perf_counter()
    classical.getIntegrator().step(num_steps)
    classical.getState(getPositions=True)
    parts.append(f"without the model {1e3 * (time.perf_counter() - start) / num_steps:.2f} ms/step")
    return f"{complex_.topology.getNumAtoms()} atoms on {platform}: " + "; ".join(parts)


def check_out_of_range(device: str) -> str:
    """A CUDA graph whose edges no longer fit must give NaN, and PythonForce an error; never wrong forces."""
    numbers, pos = torch.tensor([6] * 8 + [1] * 10), grid_structure(18, 1.5)[1]
    model, info = load_model_file(BUNDLED_MODEL)
    fix_shapes(model, len(numbers))
    module = torchscript.freeze(scripted(OpenMMEnergy(model, info, numbers, None)).to(device))
    wide = torch.eye(3, dtype=torch.float64) * 3.0
    captured = CapturedGradient(module, pos / 10, wide, torch.device(device))
    before = captured(pos / 10, wide)[1].clone()
    # Each atom meets many images of all others.
    energy, gradient = captured(pos / 10, wide / 5)
    if not (bool(energy.isnan()) and bool(gradient.isnan().any())):
        raise AssertionError(f"a box of 6 Å gave the energy {float(energy)}")
    broken = (pos / 10).clone()
    broken[3, 1] = float("nan")
    if not bool(captured(broken, wide)[0].isnan()):
        raise AssertionError("NaN positions gave an energy")
    if not torch.equal(captured(pos / 10, wide)[1], before):
        raise AssertionError("after NaN the graph gives other forces")
    return "too many edges and NaN positions give NaN, and what comes after is right again"
