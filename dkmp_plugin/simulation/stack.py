"""Which OpenMM stack is installed, whether TorchForce can work on it, and loading its plugins."""

import glob
import os
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Dict, List, Optional

# Measured: other combinations crash the process or fail at run time (DESIGN, section 2).
TORCHFORCE_PINS = {"torch": "2.9", "openmm": "8.4", "openmmtorch": "1.5"}
_INSTALL = "pip install 'dkmp-plugin[torchforce]'"


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


def installed_stack() -> Stack:
    """Look up the installed versions without importing anything."""
    versions: Dict[str, Optional[str]] = {}
    for package in ("torch", "torchmd-net", "openmm", "openmmml", "openmmtorch"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return Stack(versions)


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
    for package in ("torch", "openmm", "openmmtorch"):
        import_module(package)
    import openmm

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
