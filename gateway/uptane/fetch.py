"""What is common to all ways of fetching metadata and images: names, limits, and the watch over the speed.

A server is not trusted with our disk, our memory or our time. So every fetch has a bound in bytes, and while it is
waited for data, enough of it must come: at least ``min_bytes_per_s`` on average over each ``slow_s`` of waiting. Only
waiting counts. Time that our own disk takes, or pauses between connections, are not the server's fault.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gateway.errors import TransportError
from gateway.update.config import UpdateSection
from gateway.update.model import AttackError
from gateway.wire.uptane import FileFacts

SECOND_NS = 1_000_000_000
#: How long a hash is in hexadecimal digits; others are not known and are never skipped (V4).
HASH_DIGITS = {"sha256": 64, "sha512": 128}
MAX_NAME_CHARS = 400
#: What file systems take; encoded names of roles included.
MAX_METADATA_CHARS = 255
#: Which line of the standard bounds the size of a metadata file.
_SIZE_RULES = {"root": "CR1", "timestamp": "CT1", "snapshot": "CS1"}


class ContentChangedError(TransportError):
    """What is served under the name is no longer what the first part was taken from: begin again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """Bounds of patience."""

    min_bytes_per_s: float = 5_000.0
    slow_s: float = 60.0
    max_failures: int = 8  # broken connections in a row, none of which brought ``progress_bytes``
    progress_bytes: int = 64 * 1024
    backoff_first_s: float = 1.0
    backoff_max_s: float = 60.0

    @classmethod
    def of(cls, section: UpdateSection) -> FetchLimits:
        """As configured."""
        return cls(min_bytes_per_s=section.min_bytes_per_s, slow_s=section.slow_s)


class SpeedWatch:
    """Tells a slow line from one that is kept slow (V8). A core: it is told how long was waited, and for how much."""

    def __init__(self, limits: FetchLimits) -> None:
        self._limits = limits
        self._window_ns = int(limits.slow_s * SECOND_NS)
        self._waited_ns = self._bytes = 0

    def heard(self, count: int, waited_ns: int, what: str) -> None:
        """``count`` bytes came after so much waiting.

        Raises:
            AttackError: slow retrieval.
        """
        self._waited_ns += max(0, waited_ns)
        self._bytes += count
        if self._waited_ns < self._window_ns:
            return
        waited_s = self._waited_ns / SECOND_NS
        if self._bytes < self._limits.min_bytes_per_s * waited_s:
            least = f"{self._limits.min_bytes_per_s:.0f} bytes/s"
            raise slow(f"{what}: {self._bytes} bytes in {waited_s:.0f} s, at least {least} are asked")
        self._waited_ns = self._bytes = 0


def slow(message: str) -> AttackError:
    """The error of a server that keeps us waiting."""
    return AttackError("slow retrieval", "V8", message)


def endless(message: str, rule: str) -> AttackError:
    """The error of a server that has more to say than was asked for."""
    return AttackError("endless data", rule, message)


def size_rule(name: str) -> str:
    """The line that bounds a metadata file's size, by its name ("3.root.json")."""
    role = re.sub(r"^\d+\.", "", name).removesuffix(".json")
    return _SIZE_RULES.get(role, "CG1")


def check_metadata_name(repository: str, name: str) -> None:
    """Refuse what could be no metadata file, before it becomes part of a path.

    Names of delegated roles are percent-encoded in file names, as TUF has it, so that a name has no separators.

    Raises:
        AttackError: the name comes from metadata, and whoever made it meant no good.
        ValueError: there is no such repository.
    """
    if repository not in ("director", "image"):
        raise ValueError(f"there is no repository {repository!r}")
    is_fine = name.endswith(".json") and name.isascii() and name.isprintable() and len(name) <= MAX_METADATA_CHARS
    if not is_fine or "/" in name or "\\" in name or name.startswith("."):
        raise AttackError("arbitrary software", "R4", f"{name[:60]!a} is no name of a metadata file")


def check_file(file: FileFacts) -> None:
    """Make sure that a file's facts can be held to: a name that stays in its folder, and hashes we know, all of them.

    Raises:
        AttackError: arbitrary software; nothing of it is fetched.
    """
    parts = file.filename.split("/")
    is_name_fine = (
        0 < len(file.filename) <= MAX_NAME_CHARS
        and file.filename.isprintable()
        and "\\" not in file.filename
        and not any(part in ("", ".", "..") for part in parts)
    )
    if not is_name_fine:
        raise AttackError("arbitrary software", "N3", f"{file.filename[:60]!r} is no file name")
    if not file.hashes or file.length < 0:
        raise AttackError("arbitrary software", "V4", f"{file.filename}: no hash or no length is given")
    for name, value in file.hashes.items():
        if HASH_DIGITS.get(name) != len(value) or not re.fullmatch("[0-9a-f]+", value):
            raise AttackError("arbitrary software", "V4", f"{file.filename}: the hash {name[:20]!r} cannot be checked")


def wire_name(file: FileFacts) -> str:
    """Under which name repositories keep an image: ``folder/HASH.name`` (R4). Raises as ``check_file``."""
    check_file(file)
    folder, slash, name = file.filename.rpartition("/")
    return f"{folder}{slash}{strongest_known(file)}.{name}"


def strongest_known(file: FileFacts) -> str:
    """The hash an image is named by: SHA-256 where there is one."""
    return file.hashes.get("sha256") or file.hashes["sha512"]
