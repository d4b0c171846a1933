"""The atoms of an OpenMM topology that a model acts on."""

import warnings
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


def warn_of_free_valences(topology: Any, indices: List[int], stacklevel: int = 2) -> None:
    """Warn where modelled atoms are bonded to others and the cut bonds are not capped by hydrogens.

    From 1.8 on openmm-ml caps them: hydrogens that the topology bonds to nothing are among the atoms.

    Args:
        topology: ``openmm.app.Topology``.
        indices: The modelled atoms.
        stacklevel: As of ``warnings.warn``, seen from the caller.
    """
    modelled, cut, bonded = set(indices), [], set()
    for first, second in topology.bonds():
        bonded |= {first.index, second.index}
        if (first.index in modelled) != (second.index in modelled):
            cut.append((first, second))
    hydrogens = [atom.index for atom in topology.atoms() if atom.element and atom.element.symbol == "H"]
    caps = (modelled - bonded).intersection(hydrogens)
    if len(cut) > len(caps):
        first, second = cut[0]
        warnings.warn(
            f"the modelled atoms are bonded to others, at {len(cut)} bonds ({first.name} and {second.name} "
            f"of residue {first.residue.name} {first.residue.id}), which openmm-ml before 1.8 does not cap: "
            "the model sees free valences, which its training data hardly had; model whole molecules, or use "
            "the stack 'latest', where hydrogens cap such bonds",
            stacklevel=stacklevel + 1,
        )
