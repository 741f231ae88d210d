"""What the commands must know of a file before they write over it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def is_special(path: Path) -> bool:
    """Whether it is a device, pipe or socket, or ``/dev/stdout``: written to as it is and never replaced."""
    if path.parent.resolve().parts[:2] in (("/", "dev"), ("/", "proc")):
        return os.path.exists(path)
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def is_same_file(one: Path, other: Path) -> bool:
    """Whether both names are of one regular file that exists."""
    try:
        return one.is_file() and one.samefile(other)
    except OSError:
        return False


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file so that any moment sees the old or the new content whole, also after a power cut.

    A device or pipe is written to instead.

    Raises:
        OSError: the folder cannot be written to.
    """
    if is_special(path):
        path.write_bytes(content)
        return
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
