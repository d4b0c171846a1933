"""Whether a DCD file ends with a whole frame: mdtraj silently drops one that was cut."""

import struct
from pathlib import Path
from typing import BinaryIO, Optional, Tuple

# The length, 84, that stands before and after the first record, in either byte order, of 32 or 64 bits.
_LENGTHS = ("<i", ">i", "<q", ">q")
# Where the first record, CORD and 20 integers, says what follows.
_FIXED_ATOMS, _BOX, _FOURTH_DIMENSION, _CHARMM_VERSION = 36, 44, 48, 80


def check_dcd_is_whole(path: Path) -> None:
    """Refuse a DCD file whose last frame is incomplete.

    Args:
        path: The file, of CHARMM, NAMD, OpenMM or X-PLOR.

    Raises:
        ValueError: it is truncated, damaged, or no DCD file.
    """
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; a DCD trajectory is expected")
    with open(path, "rb") as file:
        try:
            first, further = _frame_sizes(file, path.stat().st_size)
        except (struct.error, EOFError) as error:
            raise ValueError(
                f"{path} is no DCD trajectory, or its header is truncated or damaged; copy the file again, "
                "or give it the suffix of its format"
            ) from error
        length = path.stat().st_size - file.tell()
    frame = first if length < first else further
    remainder = (length if length < first else length - first) % frame
    if remainder:
        raise ValueError(
            f"{path} is truncated: its last frame has {remainder} of {frame} bytes; copy the file again, or "
            "cut it to whole frames (mdconvert)"
        )


def _frame_sizes(file: BinaryIO, file_size: int) -> Tuple[int, int]:
    """Bytes of the first frame and of each further one, which lacks fixed atoms; the file is left there.

    Raises:
        struct.error, EOFError: there is no such header.
    """
    beginning = file.read(12)
    known = [length for length in _LENGTHS if beginning.startswith(struct.pack(length, 84) + b"CORD")]
    if not known:
        raise EOFError
    length, integer = struct.Struct(known[0]), known[0][0] + "i"

    def record(size: Optional[int] = None) -> bytes:
        (given,) = length.unpack(file.read(length.size))
        if not 0 <= given <= file_size or size not in (None, given):
            raise EOFError
        content = file.read(given)
        if file.read(length.size) != length.pack(given):
            raise EOFError
        return content

    file.seek(0)
    header = record(84)
    record()  # title
    (num_atoms,) = struct.unpack(integer, record(4))
    fixed, box, fourth, charmm = (
        struct.unpack_from(integer, header, place)[0]
        for place in (_FIXED_ATOMS, _BOX, _FOURTH_DIMENSION, _CHARMM_VERSION)
    )
    if not 0 <= fixed <= num_atoms:
        raise EOFError
    if fixed:
        record(4 * (num_atoms - fixed))  # indices of the others
    # X-PLOR knows no boxes: half of its time step is where CHARMM says whether there is one.
    around = 6 * 8 + 2 * length.size if charmm and box else 0
    dimensions = 4 if charmm and fourth == 1 else 3

    def size(atoms: int) -> int:
        return around + dimensions * (4 * atoms + 2 * length.size)

    return size(num_atoms), size(num_atoms - fixed)
