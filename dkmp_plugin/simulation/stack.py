"""Which OpenMM stack is installed, whether TorchForce can work on it, and loading its plugins."""

import glob
import logging
import os
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Dict, List, Optional

# Measured: other combinations crash the process or fail at run time.
TORCHFORCE_PINS = {"torch": "2.9", "openmm": "8.4", "openmmtorch": "1.5"}
_INSTALL = "pip install 'dkmp-plugin[torchforce]'"
# The first series in which PythonForce takes a subset of the particles and clones without crashing.
PYTHONFORCE_OPENMM = (8, 6)


@dataclass(frozen=True)
class Stack:
    """Versions of the packages that simulations need; None where a package is absent."""

    versions: Dict[str, Optional[str]]

    @property
    def problems(self) -> List[str]:
        """Why TorchForce cannot be used on this stack; empty if it can."""
        found = []
        for package, pin in TORCHFORCE_PINS.items():
            installed = self.versions[package]
            if installed is None:
                found.append(f"{package} is not installed, {pin}.* is needed")
            elif installed.split("+")[0].split(".")[:2] != pin.split("."):
                found.append(f"{package} {installed} is installed, {pin}.* is needed")
        return found

    @property
    def torchforce(self) -> bool:
        """Whether this is the stack on which TorchForce is known to work."""
        return not self.problems

    @property
    def pythonforce(self) -> bool:
        """Whether OpenMM is new enough for PythonForce."""
        openmm = self.versions["openmm"]
        return openmm is not None and tuple(map(int, openmm.split(".")[:2])) >= PYTHONFORCE_OPENMM

    @property
    def backend(self) -> Optional[str]:
        """The backend that ``auto`` stands for: ``torchforce``, ``pythonforce``, or None."""
        if self.torchforce:
            return "torchforce"
        return "pythonforce" if self.pythonforce else None


def installed_stack() -> Stack:
    """Look up the installed versions without importing anything."""
    versions: Dict[str, Optional[str]] = {}
    for package in ("torch", "torchmd-net", "openmm", "openmmml", "openmmtorch"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return Stack(versions)


def prepare_backend(backend: str = "auto") -> str:
    """Make a backend usable in this process.

    Args:
        backend: ``torchforce``, ``pythonforce``, or ``auto`` for the best that the stack allows.

    Returns:
        ``torchforce`` or ``pythonforce``.

    Raises:
        RuntimeError: If the backend cannot work with the installed packages.
    """
    stack = installed_stack()
    chosen = stack.backend if backend == "auto" else backend
    if chosen == "pythonforce":
        if not stack.pythonforce:
            wanted = ".".join(map(str, PYTHONFORCE_OPENMM))
            raise RuntimeError(
                f"PythonForce needs openmm {wanted} or newer, {stack.versions['openmm']} is installed; use "
                "backend='torchforce', or: pip install 'dkmp-plugin[latest]'"
            )
        return chosen
    # Also where nothing works: the error names what TorchForce needs.
    require_torchforce()
    return "torchforce"


def _not_about_simtk(record: logging.LogRecord) -> bool:
    return "simtk.openmm" not in record.getMessage()


def require_torchforce() -> None:
    """Make TorchForce usable in this process: check the stack, then load OpenMM's Torch plugins.

    The plugins link against torch's libraries, so they fail to load when openmm is imported before
    torch; those are loaded again here.

    Raises:
        RuntimeError: If the installed versions are not the ones TorchForce is known to work with.
    """
    problems = installed_stack().problems
    if problems:
        raise RuntimeError(
            "TorchForce cannot be used with the installed packages, it would crash: "
            + "; ".join(problems)
            + f". Install the matching versions: {_INSTALL}"
        )
    # In this order: the plugins need torch's libraries in the process.
    for package in ("torch", "openmm"):
        import_module(package)
    import openmm

    # openmmtorch 1.5 imports OpenMM by its old name, whose advice is not for our users.
    root = logging.getLogger()
    root.addFilter(_not_about_simtk)
    try:
        import_module("openmmtorch")
    finally:
        root.removeFilter(_not_about_simtk)

    loaded = {os.path.basename(name) for name in openmm.pluginLoadedLibNames}
    folder = os.path.join(openmm.version.openmm_library_path, "plugins")
    for library in sorted(glob.glob(os.path.join(folder, "libOpenMMTorch*"))):
        if os.path.basename(library) in loaded:
            continue
        try:
            openmm.Platform.loadPluginLibrary(library)
        except openmm.OpenMMException:
            # A platform this machine does not have, e.g. CUDA; OpenMM itself says so when it is asked for.
            continue
        openmm.pluginLoadedLibNames = (*openmm.pluginLoadedLibNames, library)
