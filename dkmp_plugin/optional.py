"""Packages that only some of the work needs, and how to install them.

ASE, SciPy and matplotlib are none of them: torchmd-net brings them along.
"""

from importlib.util import find_spec

_EXTRAS = {
    "deeptime": "trajectories",
    "distributed": "bespoke",
    "mdtraj": "trajectories",
    "openmm": "torchforce",
    "openmmml": "torchforce",
    "rdkit": "bespoke",
    "tblite": "bespoke",
}
# Those that no extra brings, or not alone.
_OTHERS = {
    "MDAnalysisTests": "--no-deps MDAnalysisTests",
    "egnn_pytorch": "egnn-pytorch einops",
    "tables": "tables",
}


class MissingPackageError(ImportError):
    """A package is not installed; the message has the command that installs it."""


def require(package: str, purpose: str) -> None:
    """Make sure that an optional package can be imported.

    Args:
        package: Its name in ``import``.
        purpose: What needs it, to begin the message with.

    Raises:
        MissingPackageError: If it is not installed.
    """
    if find_spec(package) is None:
        wanted = _OTHERS.get(package) or f"'dkmp-plugin[{_EXTRAS[package]}]'"
        raise MissingPackageError(
            f"{purpose} needs {package}, which is not installed; run: pip install {wanted}", name=package
        )
