"""Writing files so that a reader never meets half of one, no input is lost and no second writer is there.

Also which content a file has.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Union


@contextmanager
def replaced_on_success(path: Union[str, Path]) -> Iterator[Path]:
    """Gives a temporary name beside ``path`` and renames it when the block ends without an error.

    Args:
        path: the file to write. Its folder is made where it is missing.

    Yields:
        The temporary path to write to; it keeps the suffix, which some writers look at.

    Raises:
        Whatever the block raises; the temporary file is then removed and ``path`` is left as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def only_here(folder: Union[str, Path]) -> Iterator[None]:
    """Keeps a second process out of a folder; the lock ends with the process, however that ends.

    Args:
        folder: made where it is missing, and then removed again where nothing but the lock has come into it.

    Raises:
        RuntimeError: another process works there.
    """
    folder = Path(folder)
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    with open(path, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RuntimeError(f"another process works in {folder}; wait for it, or end it") from error
        try:
            yield
        finally:
            if made and list(folder.iterdir()) == [path]:
                path.unlink()
                folder.rmdir()


def check_keeps_inputs(outputs: Iterable[Union[str, Path]], inputs: Iterable[Union[str, Path]]) -> None:
    """Make sure that no file to write is one that was read, also by another path or link.

    Args:
        outputs: files that will be written.
        inputs: files that were given.

    Raises:
        ValueError: an input would be overwritten.
    """
    given = [Path(path) for path in inputs if Path(path).exists()]
    for output in map(Path, outputs):
        if output.exists() and any(output.samefile(path) for path in given):
            raise ValueError(
                f"{output}: this input file would be overwritten; give another name for the output"
            )


def check_is_no_folder(output: Union[str, Path], example: str) -> None:
    """Make sure, before the work, that a file can be written.

    Args:
        output: file that will be written.
        example: name that such a file may have.

    Raises:
        ValueError: it is a folder that exists.
    """
    if Path(output).is_dir():
        raise ValueError(
            f"{output} is a folder, the name of a file to write is expected, such as {Path(output, example)}"
        )


def sha256_of(path: Union[str, Path]) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
