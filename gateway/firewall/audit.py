"""The audit log's form: records in a chain, so that what was written cannot be changed, removed or reordered unseen.

One record is one line of JSON with a hash at its end: of the hash before it and everything in the line. With the
vehicle's audit key the hash is an HMAC, which nobody without the key can compute again; without, it is plain SHA-256
and only the copies that went to the cloud stand against someone who recomputes the chain. Each file begins with a
record that carries on the chain of the file before it. What is at the very end, a chain cannot tell; an anchor beside
the files does. Bytes in, bytes and findings out; no I/O.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

import msgspec

START = "0" * 64
_HASH_KEY = b',"hash":"'
#: The longest line; records are far shorter.
MAX_LINE_BYTES = 8192


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One record. ``number`` counts without gaps over all files; ``count`` tells how many alike it stands for.

    ``kind``: those of ``gateway.firewall.core.AuditEntry``, and the log's own: ``file`` (a file begins), ``repaired``
    (the end was cut off by a crash), ``damaged`` (records are missing or wrong), ``lost`` (too many at once).
    """

    number: int
    at_ns: int  # UTC
    kind: str
    port: str = ""
    tester: int = 0
    name: str = ""
    peer: str = ""
    is_secure: bool = False
    target: int = 0
    request: str = ""
    rule: str = ""
    nrc: int = 0
    detail: str = ""
    is_functional: bool = False
    count: int = 1
    until_ns: int = 0  # of the last of ``count``
    before: str = ""  # in ``file`` records: the hash that the chain goes on from


class Anchor(msgspec.Struct, frozen=True, kw_only=True):
    """Where the log begins and ends, as far as it was durable. ``mac`` is over all the rest."""

    first: int
    last: int
    hash: str
    mac: str = ""


class Chain:
    """The end of the chain. ``key`` is the vehicle's audit key, or empty."""

    def __init__(self, key: bytes, *, number: int = 0, hash_: str = START) -> None:
        self._key, self.number, self.hash = key, number, hash_

    def digest(self, before: str, body: bytes) -> str:
        """The hash of a record's body after the one before it."""
        content = before.encode() + b"\n" + body
        if self._key:
            return hmac.new(self._key, content, hashlib.sha256).hexdigest()
        return hashlib.sha256(content).hexdigest()

    def append(self, record: Record) -> bytes:
        """The record as the next line; it gets the next number."""
        self.number += 1
        body = msgspec.json.encode(msgspec.structs.replace(record, number=self.number))
        self.hash = self.digest(self.hash, body)
        return body[:-1] + _HASH_KEY + self.hash.encode() + b'"}\n'

    def seal(self, anchor: Anchor) -> Anchor:
        """The anchor with its ``mac``."""
        text = f"{anchor.first} {anchor.last} {anchor.hash}".encode()
        return msgspec.structs.replace(anchor, mac=self.digest("anchor", text))


class BadLineError(Exception):
    """A line is no record."""


def split_line(line: bytes) -> tuple[bytes, str]:
    """Body and hash of a line without its end.

    Raises:
        BadLineError: it has no hash where one must be.
    """
    body, found, rest = line.rpartition(_HASH_KEY)
    if not found or len(rest) != 66 or not rest.endswith(b'"}'):
        raise BadLineError("no record")
    try:
        return body + b"}", rest[:64].decode("ascii")
    except UnicodeDecodeError as error:
        raise BadLineError("no record") from error


def read_record(line: bytes) -> tuple[Record, bytes, str]:
    """Record, body and hash of a line.

    Raises:
        BadLineError: it is no record.
    """
    body, hash_ = split_line(line)
    try:
        return msgspec.json.decode(body, type=Record), body, hash_
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadLineError(str(error)) from error


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something wrong with the log."""

    file: str
    line: int  # from 1; 0: the file as a whole
    problem: str


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What a check of the whole log found."""

    records: int
    first: int
    last: int
    hash: str  # of the last sound record
    repaired: int  # ends cut off by crashes, as the log itself tells
    findings: tuple[Finding, ...]

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


class Verifier:
    """Checks files in their order; then ``finish`` with the anchor."""

    def __init__(self, key: bytes) -> None:
        self._chain = Chain(key)
        self._number: int | None = None  # of the last record; None before the first
        self._hash = START
        self._first, self._records, self._repaired = 0, 0, 0
        self._findings: list[Finding] = []

    def _found(self, file: str, line: int, problem: str) -> None:
        self._findings.append(Finding(file=file, line=line, problem=problem))

    def file(self, name: str, lines: Iterable[bytes]) -> None:
        """One file; ``lines`` keep their ends."""
        count = 0
        for number, line in enumerate(lines, 1):
            count = number
            if not line.endswith(b"\n"):
                self._found(name, number, "the last record is cut off")
                return
            try:
                record, body, hash_ = read_record(line[:-1])
            except BadLineError as error:
                self._found(name, number, str(error))
                continue
            self._check(name, number, record, body, hash_)
        if not count:
            self._found(name, 0, "the file is empty")

    def _check(self, name: str, line: int, record: Record, body: bytes, hash_: str) -> None:
        is_beginning = line == 1
        if is_beginning != (record.kind == "file"):
            self._found(name, line, "a file must begin with its own record, and only there")
        before = record.before if is_beginning else self._hash
        if self._number is None:
            self._first = record.number
            if record.number == 1 and before != START:
                self._found(name, line, "does not begin the chain")
        else:
            if record.number != self._number + 1:
                self._found(name, line, f"record {record.number} follows record {self._number}")
            if is_beginning and before != self._hash:
                self._found(name, line, "does not go on from the file before it")
        if self._chain.digest(before, body) != hash_:
            self._found(name, line, f"record {record.number} was changed, or what is before it")
        self._number, self._hash = record.number, hash_
        self._records += 1
        self._repaired += record.kind == "repaired"
        if record.kind == "damaged":
            self._found(name, line, f"damage seen by the vehicle: {record.detail}")

    def finish(self, anchor: Anchor | None) -> Verification:
        """The end: does the log reach as far as it did."""
        last = self._number or 0
        if anchor is None:
            self._found("anchor", 0, "there is no anchor: records at the end may be missing")
        elif self._chain.seal(anchor).mac != anchor.mac:
            self._found("anchor", 0, "the anchor was changed, or the key is another")
        else:
            if self._first > anchor.first or (not self._records and anchor.last):
                self._found("anchor", 0, f"records {anchor.first} to {max(self._first, 1) - 1} are missing")
            if last < anchor.last:
                self._found("anchor", 0, f"records {last + 1} to {anchor.last} are missing at the end")
        return Verification(
            records=self._records,
            first=self._first,
            last=last,
            hash=self._hash,
            repaired=self._repaired,
            findings=tuple(self._findings),
        )
