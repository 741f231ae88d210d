"""Target names: what they may be, and how they appear in addresses.

A name is a path of parts in Unicode NFC, so that two names that look the same are the same (R3), and none of its parts
can leave a folder (R4). On the wire a target is ``folder/HASH.name``, once for each of its hashes.
"""

from __future__ import annotations

import re
import unicodedata

from cloud.errors import InvalidInput

MAX_NAME_CHARS, MAX_PARTS, MAX_PART_BYTES = 400, 8, 120  # a part must fit a file name with 129 characters before it
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f\\%?#:*"<>|]')
_HASHED = re.compile(r"([0-9a-f]{64}|[0-9a-f]{128})\.(.+)", re.DOTALL)
ROLE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
DELTAS_ROLE, DELTAS_FOLDER = "deltas", "deltas/"
#: Names a delegated role cannot have, since its file would be another role's.
TOP_ROLES = frozenset({"root", "targets", "snapshot", "timestamp"})


def check_target_name(name: str, *, where: str = "filename") -> str:
    """The name, when it can be a target's.

    Raises:
        InvalidInput: it cannot; says why.
    """
    if not 1 <= len(name) <= MAX_NAME_CHARS or unicodedata.normalize("NFC", name) != name:
        raise InvalidInput(f"a name has 1 to {MAX_NAME_CHARS} characters in Unicode NFC", where=where)
    parts = name.split("/")
    if len(parts) > MAX_PARTS or any(part in {"", ".", ".."} for part in parts):
        raise InvalidInput(f"{name!r} is no path of 1 to {MAX_PARTS} parts without '.' and '..'", where=where)
    if _FORBIDDEN.search(name) or not name.isprintable() or any(part != part.strip() for part in parts):
        raise InvalidInput(f"{name!r} has a character that no name may have", where=where)
    if any(len(part.encode()) > MAX_PART_BYTES for part in parts):
        raise InvalidInput(f"a part of {name!r} is longer than {MAX_PART_BYTES} bytes", where=where)
    return name


def hashed_path(name: str, digest: str) -> str:
    """Where a target is fetched: ``folder/HASH.name``."""
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{digest}.{last}"


def split_hashed_path(path: str) -> tuple[str, str] | None:
    """The inverse: (name, hash), or None when it is no such path."""
    folder, slash, last = path.rpartition("/")
    found = _HASHED.fullmatch(last)
    return (f"{folder}{slash}{found[2]}", found[1]) if found else None


def check_role_name(name: str) -> str:
    """The name of a delegated role. ``InvalidInput`` when it cannot be one."""
    if not ROLE_NAME.fullmatch(name) or name in TOP_ROLES:
        raise InvalidInput(f"{name!r} cannot name a delegated role", where="role")
    return name
