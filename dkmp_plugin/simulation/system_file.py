"""Reads a serialised OpenMM System that contains a DKMP force."""

from pathlib import Path
from typing import Any, Union


def load_system(xml_path: Union[str, Path]) -> Any:
    """Deserialise a System written with ``openmm.XmlSerializer``.

    The XML embeds the TorchScript module but not the operators it calls, so they are registered first;
    a bare ``XmlSerializer.deserialize`` in a process that has not imported ``dkmp_plugin.ops`` fails with
    "Unknown builtin op: dkmp_plugin::...".

    Args:
        xml_path: The XML file.

    Returns:
        ``openmm.System``.

    Raises:
        ValueError: If the file is missing or not a serialised System.
        RuntimeError: If no backend works on the installed stack.
    """
    from dkmp_plugin.simulation.stack import prepare_backend

    prepare_backend()
    import openmm

    import dkmp_plugin.ops  # noqa: F401  (registers the operators)

    path = Path(xml_path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; a System written with openmm.XmlSerializer is expected")
    try:
        system = openmm.XmlSerializer.deserialize(path.read_text())
    except (openmm.OpenMMException, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a serialised System: {error}") from error
    if not isinstance(system, openmm.System):
        raise ValueError(f"{path} holds a {type(system).__name__}, a serialised System is expected")
    return system
