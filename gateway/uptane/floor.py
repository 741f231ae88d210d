"""The floor: what was trusted once, kept apart from the metadata itself, so that nothing older is trusted again.

Metadata files may be lost, emptied or restored by a power cut or a repair; python-tuf then starts from nothing and
takes an old release. The floor remembers for every role the highest version that was trusted and the digest of its
content, for every ECU the lowest release counter that is still accepted, and the highest attested time. Two copies,
each written whole and synced, the second after the first: one damaged copy loses nothing.

Versions go down in one case only (CR5): the metadata that a mark stands for was signed by keys that its role has no
longer, so that it would not be accepted itself. Then a compromised key may have driven the version up, and its owner
has said by a new Root, or the delegator by new Targets, that it does not count any more. The mark of Root and the
release counters never go down. The time goes down only when the keys that attested it are no time keys any more.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from pathlib import Path

import msgspec

from bootctl.files import Files, replace_content
from gateway.errors import TransportError

log = logging.getLogger(__name__)
MAX_VERSION = (1 << 63) - 1


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """The newest metadata of a role that was trusted."""

    version: int
    digest: str  # SHA-256 of the signed part
    signers: tuple[str, ...] = ()  # fingerprints of the keys whose signatures were good


class RepositoryMarks(msgspec.Struct, kw_only=True):
    """What was trusted of one repository."""

    marks: dict[str, Mark] = {}  # by role; delegated roles as "delegator > role"
    listed: dict[str, int] = {}  # Targets files and their versions in the newest Snapshot


class FloorRecord(msgspec.Struct, kw_only=True):
    """Everything that only goes up."""

    sequence: int = 0
    time_ns: int = 0  # highest attested
    time_signers: tuple[str, ...] = ()
    counters: dict[str, int] = {}  # by ECU
    director: RepositoryMarks = msgspec.field(default_factory=RepositoryMarks)
    image: RepositoryMarks = msgspec.field(default_factory=RepositoryMarks)

    def marks_of(self, repository: str) -> RepositoryMarks:
        """The part of "director" or "image"."""
        return self.director if repository == "director" else self.image


_DECODER = msgspec.json.Decoder(FloorRecord)


def seal(payload: bytes) -> bytes:
    """Content with its own checksum before it."""
    return hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload


def unseal(data: bytes) -> bytes:
    """What ``seal`` got. Raises ``ValueError``: damaged."""
    head, line_end, payload = data.partition(b"\n")
    if not line_end or hashlib.sha256(payload).hexdigest().encode() != head:
        raise ValueError("damaged")
    return payload


class Floor:
    """The record and its two copies on disk. ``record`` is changed in place, then ``save``.

    Counters may be raised while a refresh runs in another thread; all else is changed by one at a time.
    """

    def __init__(self, files: Files, directory: Path) -> None:
        """Read it.

        ``is_new``: no copy was there. ``was_lost``: there were copies, but none could be read; the caller rebuilds what
        it can from metadata that still verifies.
        """
        self._files = files
        self._lock = threading.Lock()
        self._paths = (directory / "a", directory / "b")
        found = [self._load(path) for path in self._paths]
        good = [record for record in found if isinstance(record, FloorRecord)]
        self.record = max(good, key=lambda record: record.sequence, default=FloorRecord())
        self.damaged_copies = sum(1 for each in found if each is False)
        self.is_new = all(each is None for each in found)
        self.was_lost = not good and not self.is_new
        self._saved = b"" if self.damaged_copies or not good else msgspec.json.encode(self.record)
        if len({record.sequence for record in good}) > 1:
            self._saved = b""
        if self.damaged_copies:
            log.error("uptane_floor_damaged", extra={"copies": self.damaged_copies, "lost": self.was_lost})

    def _load(self, path: Path) -> FloorRecord | bool | None:
        """None: not there; False: damaged."""
        if not self._files.exists(path):
            return None
        try:
            return _DECODER.decode(unseal(self._files.read(path)))
        except (OSError, ValueError):
            return False

    def save(self) -> None:
        """Write both copies if anything changed.

        Raises:
            TransportError: the disk refused; nothing that depends on it may be trusted.
        """
        with self._lock:
            self._save()

    def _save(self) -> None:
        if msgspec.json.encode(self.record) == self._saved:
            return
        self.record.sequence += 1
        payload = msgspec.json.encode(self.record)
        for path in self._paths:
            try:
                replace_content(self._files, path, seal(payload))
            except OSError as error:
                self._saved = b""
                raise TransportError(f"{path}: {error.strerror or error}") from error
        self._saved = payload

    def raise_counters(self, counters: dict[str, int]) -> None:
        """No ECU will be given an image with a lower release counter. Saved when it returns; never lowers one.

        Raises:
            ValueError: a counter is negative or too big.
            TransportError: the disk refused.
        """
        for ecu, counter in counters.items():
            if not 0 <= counter <= MAX_VERSION:
                raise ValueError(f"release counter {counter} of {ecu}")
        with self._lock:
            raised = {ecu: max(counter, self.record.counters.get(ecu, 0)) for ecu, counter in counters.items()}
            # A new dict: another thread may be walking through the old one.
            self.record.counters = self.record.counters | raised
            self._save()
