"""The atoms of an OpenMM topology that a model acts on."""

from typing import Any, Iterable, List, Optional, Tuple


def modelled_atoms(topology: Any, atoms: Optional[Iterable[int]]) -> Tuple[Optional[List[int]], List[int]]:
    """Which atoms of a topology a model acts on.

    Args:
        topology: ``openmm.app.Topology``.
        atoms: Indices in any order; None for all atoms.

    Returns:
        The indices as a list, or None for all; the atomic numbers of these atoms.

    Raises:
        ValueError: an empty selection, an index twice or out of range, or an atom without element.
    """
    every_atom = list(topology.atoms())
    indices = None if atoms is None else [int(index) for index in atoms]
    if indices is not None:
        if not indices:
            raise ValueError(
                "atoms: an empty selection was given, at least one atom index is expected (a list: openmm-ml "
                "uses up generators)"
            )
        outside = [index for index in indices if not 0 <= index < len(every_atom)]
        if outside:
            raise ValueError(
                f"atoms: index {outside[0]} was given, 0 to {len(every_atom) - 1} is expected (the topology "
                f"has {len(every_atom)} atoms)"
            )
        if len(set(indices)) != len(indices):
            raise ValueError("atoms: an index was given twice, every atom may be listed once")
    chosen = every_atom if indices is None else [every_atom[index] for index in indices]
    without_element = [atom for atom in chosen if atom.element is None]
    if without_element:
        atom = without_element[0]
        raise ValueError(
            f"atom {atom.index} ({atom.name} of residue {atom.residue.name}) has no element; set it in the "
            "topology, e.g. with dkmp_plugin.labeling.extraction.complete_elements (virtual sites cannot be "
            "modelled)"
        )
    return indices, [atom.element.atomic_number for atom in chosen]
