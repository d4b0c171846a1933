"""Reads extended XYZ files as ASE does, but does not stop where a blank line stands between two frames."""

from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any, Iterable, Iterator, List


def read_xyz_frames(path: Path) -> List[Any]:
    """All frames of a file, which may be compressed (``.gz``, ``.bz2``, ``.xz``), as ``ase.Atoms``.

    Args:
        path: The file; its name may hold any sign, ``@`` too.

    Raises:
        ValueError: there is no such file, it cannot be read, or it holds no frame.
    """
    import ase.io
    from ase.io.formats import open_with_compression

    if not path.is_file():
        raise ValueError(f"there is no file {path}; correct dataset_root or the file name")
    try:
        with open_with_compression(str(path)) as file:
            text = StringIO("".join(_without_blank_lines_between_frames(file)))
        # Given an open file, ASE does not look for a selection behind an @ in the name.
        frames = ase.io.read(text, ":", format="extxyz")
    except KeyError as error:
        # ASE looks up the atomic number of each symbol.
        raise ValueError(
            f"{path} has atoms called {error}, element symbols are expected; isotopes are given by their "
            "element, deuterium as H"
        ) from error
    except Exception as error:
        # ASE raises all sorts of errors for damaged files.
        raise ValueError(f"{path} is not a readable extended XYZ file ({error}); write it anew") from error
    assert isinstance(frames, list)
    if not frames:
        raise ValueError(f"{path} holds no structures; at least one is expected")
    return frames


def _without_blank_lines_between_frames(lines: Iterable[str]) -> Iterator[str]:
    """ASE takes a blank line where a number of atoms is expected for the end of the file."""
    rest = iter(lines)
    for line in rest:
        if not line.strip():
            continue
        yield line
        if line.strip().isdecimal():
            # The comment may be blank; a blank line among the atoms is an error, which ASE reports.
            yield from islice(rest, 1 + int(line))
