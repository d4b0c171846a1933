"""PDB files of whole molecules: damaged ones, and atoms that a reader would leave out, are refused."""

from pathlib import Path
from typing import Any, Callable, TextIO, Union


def read_pdb(read: Callable[[TextIO], Any], structure: Union[str, Path], count: Callable[[Any], int]) -> Any:
    """What a program reads from a PDB file.

    Args:
        read: its reader of open files.
        structure: the file.
        count: number of atoms in what it reads.

    Raises:
        ValueError: the reader fails, or finds no atoms.
    """
    reason = "it holds no atoms"
    with open(structure) as file:
        try:
            contents = read(file)
            if count(contents):
                return contents
        except Exception as error:
            # What the readers raise for damaged files is of any type.
            reason = f"{type(error).__name__}: {error}"
    raise ValueError(f"{structure} cannot be read as a PDB file with all hydrogens ({reason})")


def check_no_atom_is_dropped(structure: Union[str, Path], num_atoms: int) -> None:
    """OpenMM takes the first of a residue's atoms of one name, and some programs call them all C, H or O.

    Args:
        structure: PDB file.
        num_atoms: how many OpenMM has read.

    Raises:
        ValueError: the file has more.
    """
    num_records, alternatives = 0, set()
    for line in Path(structure).read_text().splitlines():
        if line.startswith("ENDMDL"):
            break
        if line.startswith(("ATOM", "HETATM")):
            if line[16:17].strip():
                alternatives.add((line[12:16], line[17:27]))
            else:
                num_records += 1
    num_records += len(alternatives)
    if num_atoms < num_records:
        raise ValueError(
            f"{structure} has {num_records} atoms, but OpenMM reads {num_atoms}, because names repeat within "
            "a residue; give every atom of a residue a name of its own (C1, C2, H1, ...)"
        )
