"""The audit log's files: append, rotate within a bound, carry on after a crash.

``audit-00000001.jsonl`` and so on, the oldest are removed when the bound is reached; ``anchor.json`` tells where the
log begins and ends. Lines are synced before the anchor moves, and the anchor before files are removed, so that a crash
between two steps leaves a log that is longer than its anchor says, never a shorter one. A line without its end is what
a crash leaves: it is cut off, counted and told by a record. Anything else that is wrong stays as it is found, and a new
file goes on after it with a record that says so.

All calls block; one writer (a lock file keeps a second process out).
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from gateway.errors import ConfigError, TransportError
from gateway.files import replace_file, sync_directory
from gateway.firewall.audit import Anchor, BadLineError, Chain, Record, Verification, Verifier, read_record

ANCHOR, LOCK, KEY = "anchor.json", "lock", "audit.key"
KEY_BYTES = 32
FILES = 8  # the bound is shared by so many files: that much is removed at a time
_NAME = re.compile(r"audit-(\d{8})\.jsonl")


def file_names(directory: Path) -> list[str]:
    """The log's files in their order."""
    try:
        return sorted(entry.name for entry in os.scandir(directory) if _NAME.fullmatch(entry.name))
    except FileNotFoundError:
        return []


def read_key(path: Path) -> bytes:
    """The audit key.

    Raises:
        ConfigError: the file is no key, or cannot be read.
    """
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise ConfigError(f"no audit key: {error}", path=str(path)) from error
    if len(key) != KEY_BYTES:
        raise ConfigError(f"an audit key has {KEY_BYTES} bytes", path=str(path))
    return key


def key_of(identity: Path | None) -> bytes:
    """The audit key in an identity directory, made if it is not there; empty without an identity.

    Raises:
        ConfigError: the file is no key, or cannot be read or made.
    """
    if identity is None:
        return b""
    path = identity / KEY
    if not path.exists():
        try:
            replace_file(path, secrets.token_bytes(KEY_BYTES).hex().encode() + b"\n")
        except OSError as error:
            raise ConfigError(f"cannot make the audit key: {error}", path=str(path)) from error
    return read_key(path)


class AuditStore:
    """The log, open for appending."""

    def __init__(self, directory: Path, *, max_bytes: int, key: bytes, now_ns: int) -> None:
        """Open or begin the log; what a crash left is repaired, what somebody else did is told.

        Raises:
            TransportError: the directory cannot be used, or another process has the log.
        """
        self._directory, self._file_bytes = directory, max_bytes // FILES
        self._chain = Chain(key)
        self._descriptor: int | None = None
        self._size = 0
        self._first = 1
        self._starts: dict[str, int] = {}  # of each file, its first record's number
        self.repaired_bytes = 0
        self.damage = ""  # what was found wrong when opening
        self._is_begun = False  # records were durable once
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise TransportError(f"{directory}: {error.strerror or error}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._recover(now_ns)
        except BlockingIOError as error:
            os.close(self._lock)
            raise TransportError(f"{directory}: another process writes this audit log") from error
        except OSError as error:
            self.close()
            raise TransportError(f"{directory}: {error.strerror or error}") from error

    @property
    def last(self) -> int:
        """The number of the last record."""
        return self._chain.number

    def append(self, records: Sequence[Record]) -> list[Record]:
        """Append, durable on return; the records as written, with their numbers.

        Raises:
            TransportError: the disk refused; nothing or a part was written, which the next opening will sort out.
        """
        written: list[Record] = []
        lines = b""
        try:
            for record in records:
                if self._size + len(lines) >= self._file_bytes:
                    self._write(lines)
                    lines = b""
                    self._begin_file(record.at_ns)
                lines += self._chain.append(record)
                written.append(msgspec.structs.replace(record, number=self._chain.number))
            self._write(lines)
            self._anchor()
            self._remove_oldest()
        except OSError as error:
            raise TransportError(f"{self._directory}: {error.strerror or error}") from error
        return written

    def close(self) -> None:
        """Release the files; idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # writing

    def _write(self, content: bytes) -> None:
        if not content:
            return
        if self._descriptor is None:
            raise OSError("the log is closed")
        view = memoryview(content)
        while view:
            view = view[os.write(self._descriptor, view) :]
        os.fdatasync(self._descriptor)
        self._size += len(content)

    def _begin_file(self, now_ns: int) -> None:
        names = file_names(self._directory)
        number = int(names[-1][6:14]) + 1 if names else 1
        name = f"audit-{number:08}.jsonl"
        if self._descriptor is not None:
            os.close(self._descriptor)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(self._directory / name, flags, 0o600)
        sync_directory(self._directory)
        self._size = 0
        self._starts[name] = self._chain.number + 1
        self._write(self._chain.append(Record(number=0, at_ns=now_ns, kind="file", before=self._chain.hash)))

    def _anchor(self) -> None:
        anchor = self._chain.seal(Anchor(first=self._first, last=self._chain.number, hash=self._chain.hash))
        replace_file(self._directory / ANCHOR, msgspec.json.encode(anchor))

    def _remove_oldest(self) -> None:
        names = file_names(self._directory)
        spare = names[: max(0, len(names) - FILES)]
        if spare:
            self._first = self._starts.get(names[len(spare)], self._first)
            self._anchor()
            for name in spare:
                (self._directory / name).unlink(missing_ok=True)
                self._starts.pop(name, None)

    # opening

    def _recover(self, now_ns: int) -> None:
        anchor = read_anchor(self._directory)
        names = file_names(self._directory)
        for name in names:
            self._starts[name] = _first_number(self._directory / name)
        if anchor is None and not names:  # first of all: a disk that is full now must not look like tampering later
            self._anchor()
            anchor = read_anchor(self._directory)
        self._is_begun = anchor is None or anchor.last > 0
        self._first = self._starts[names[0]] if names else 1
        if names:
            self._go_on_from(names[-1])
        if anchor is not None and self._chain.seal(anchor).mac != anchor.mac:
            self._damaged("the anchor was changed, or the key is another")
            anchor = None
        elif anchor is None and names:
            self._damaged("there is no anchor")
        if anchor is not None and self._chain.number < anchor.last:
            self._damaged(f"records {self._chain.number + 1} to {anchor.last} are missing")
            self._chain.number, self._chain.hash = anchor.last, anchor.hash
        if self.damage or self._descriptor is None:
            self._begin_file(now_ns)
        if self.damage:
            self._write(self._chain.append(Record(number=0, at_ns=now_ns, kind="damaged", detail=self.damage)))
        elif self.repaired_bytes:
            detail = f"{self.repaired_bytes} bytes cut off"
            self._write(self._chain.append(Record(number=0, at_ns=now_ns, kind="repaired", detail=detail)))
        self._anchor()

    def _go_on_from(self, name: str) -> None:
        """Check the last file, cut off a record without its end, and open it for more."""
        path = self._directory / name
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        self.repaired_bytes = len(content) - len(whole)
        before: str | None = None
        for line in whole.splitlines():
            try:
                record, body, hash_ = read_record(line)
            except BadLineError:
                self._damaged(f"{name}: a line is no record")
                break
            start = record.before if before is None else before
            if self._chain.digest(start, body) != hash_:
                self._damaged(f"{name}: record {record.number} was changed")
                break
            before = hash_
            self._chain.number, self._chain.hash = record.number, hash_
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        if self.repaired_bytes:
            os.ftruncate(self._descriptor, len(whole))
            os.fsync(self._descriptor)
        self._size = len(whole)
        if not whole:  # the crash came while the file was begun
            self._carry_on_before(name, path)

    def _carry_on_before(self, name: str, path: Path) -> None:
        """A file without any record is taken away; the one before it goes on."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        path.unlink()
        self._starts.pop(name, None)
        if names := file_names(self._directory):
            cut = self.repaired_bytes
            self._go_on_from(names[-1])
            self.repaired_bytes += cut
        elif self._is_begun:
            self._damaged("all records are gone")

    def _damaged(self, what: str) -> None:
        self.damage = f"{self.damage}; {what}" if self.damage else what


def read_anchor(directory: Path) -> Anchor | None:
    """The anchor, if there is one that can be read."""
    try:
        return msgspec.json.decode((directory / ANCHOR).read_bytes(), type=Anchor)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def _first_number(path: Path) -> int:
    with path.open("rb") as file:
        line = file.readline()
    try:
        return read_record(line.rstrip(b"\n"))[0].number
    except BadLineError:
        return 1


def verify(directory: Path, key: bytes) -> Verification:
    """Check the whole log as it lies on the disk.

    Raises:
        TransportError: it cannot be read.
    """
    verifier = Verifier(key)
    try:
        for name in file_names(directory):
            with (directory / name).open("rb") as file:
                verifier.file(name, file)
    except OSError as error:
        raise TransportError(f"{directory}: {error.strerror or error}") from error
    return verifier.finish(read_anchor(directory))


def read_records(directory: Path, *, since: Callable[[Record], bool] | None = None) -> Iterator[Record]:
    """All records that can be read, in order; checks nothing.

    Raises:
        TransportError: a file cannot be read.
    """
    for name in file_names(directory):
        try:
            lines = (directory / name).read_bytes().splitlines()
        except OSError as error:
            raise TransportError(f"{directory / name}: {error.strerror or error}") from error
        for line in lines:
            try:
                record = read_record(line)[0]
            except BadLineError:
                continue
            if since is None or since(record):
                yield record
