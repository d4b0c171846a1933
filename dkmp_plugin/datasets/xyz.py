"""Whether an XYZ file ends with a whole frame: mdtraj silently drops one that was cut."""

from pathlib import Path


def check_xyz_is_whole(path: Path) -> None:
    """Refuse an XYZ file whose last frame is incomplete.

    Args:
        path: The file; every frame has the number of atoms, a comment, and a line for each atom.

    Raises:
        ValueError: it is truncated, or no XYZ file.
    """
    # mdtraj reads frames of one size only.
    with open(path, encoding="utf-8", errors="replace") as file:
        first = file.readline().split()
        if len(first) != 1 or not first[0].isdigit() or int(first[0]) == 0:
            raise ValueError(f"{path} is no XYZ trajectory: its first line is not the number of atoms")
        size, last_number, last = int(first[0]) + 2, 1, ""
        for number, line in enumerate(file, start=2):
            # The comment after a number may be empty; empty lines at the end are none.
            if line.strip() or (number % size == 2 and last_number == number - 1):
                last_number, last = number, line
    if last_number % size or len(last.split()) < 4:
        raise ValueError(
            f"{path} is truncated: its last frame has {last_number % size or size} of {size} lines, or its "
            "last line is incomplete; copy the file again, or cut it to whole frames"
        )
