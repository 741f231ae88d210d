"""The manifest: what DBCs compile to. All that decoding, encoding and display need, and no way to load a DBC.

A vehicle has one manifest over all its buses. Messages and signals are numbered by their place in the manifest; these
numbers are what travels on the wire, always beside the manifest's hash. The file is ``MAGIC`` + zstd(MessagePack of
``Manifest``); the hash is SHA-256 of the MessagePack bytes, so it does not depend on the compressor.
"""

from __future__ import annotations

import hashlib
import math
from enum import IntEnum
from functools import cached_property
from pathlib import Path

import msgspec
import zstandard

MAGIC = b"ORMF\x01"
FORMAT = 1
MAX_BYTES = 64 * 1024 * 1024
MAX_BUSES = 256
MAX_FRAME_BITS = 512
WILDCARD_SA = 0xFE  # J1939 "null address": a message that names no particular sender


class ManifestError(ValueError):
    """The bytes are no manifest that this version reads."""


class Kind(IntEnum):
    """How the raw integer of a signal is to be read."""

    UNSIGNED = 0
    SIGNED = 1
    FLOAT32 = 2
    FLOAT64 = 3


class MuxBranch(msgspec.Struct, frozen=True, array_like=True):
    """One condition for a multiplexed signal to be present: the selector's raw value lies in one of the ranges."""

    selector: int  # index of the multiplexer signal within its message
    ranges: tuple[tuple[int, int], ...]  # inclusive


class Signal(msgspec.Struct, frozen=True, array_like=True):
    """A field of a message. Raw values are integers of ``length`` bits; ``physical = raw * scale + offset``.

    ``start`` is the DBC start bit (bit 0 is the least significant of byte 0; for big-endian signals the number of
    the most significant bit, in the DBC's sawtooth numbering).
    """

    name: str
    start: int
    length: int
    big_endian: bool
    kind: Kind
    scale: float
    offset: float
    minimum: float | None
    maximum: float | None
    unit: str
    labels: dict[int, str]
    is_multiplexer: bool
    mux: tuple[MuxBranch, ...]  # all must hold (cascaded multiplexing has its selector's conditions too)
    comment: str = ""
    role: str = ""  # "", "counter", "checksum", "actuator"
    initial: int | None = None  # raw start value (GenSigStartValue)
    spn: int | None = None


class Message(msgspec.Struct, frozen=True, array_like=True):
    """A frame layout on one bus.

    ``can_id`` has no flag bits. For J1939 (``pgn`` is not None) a frame matches by PGN, and by source address too
    unless ``can_id & 0xFF == WILDCARD_SA``; an exact identifier always wins.
    """

    name: str
    bus: int  # index into Manifest.buses
    can_id: int
    extended: bool
    fd: bool
    length: int  # bytes declared by the DBC
    cycle_ms: int | None
    pgn: int | None
    sender: str
    comment: str
    signals: tuple[Signal, ...]
    checksum: str = ""  # name of the algorithm in dbc.integrity, "" when there is none
    checksum_data_id: int = 0


class Manifest(msgspec.Struct, frozen=True, array_like=True, dict=True):
    """What one vehicle's buses carry. Message ``m`` is ``messages[m]``; signals are numbered message by message."""

    format: int
    name: str
    buses: tuple[str, ...]
    messages: tuple[Message, ...]

    @cached_property
    def signals(self) -> tuple[Signal, ...]:
        """All signals in numbering order."""
        return tuple(s for m in self.messages for s in m.signals)

    @cached_property
    def signal_message(self) -> tuple[int, ...]:
        """The message number of each signal."""
        return tuple(i for i, m in enumerate(self.messages) for _ in m.signals)

    @cached_property
    def first_signal(self) -> tuple[int, ...]:
        """The number of each message's first signal."""
        firsts, at = [], 0
        for message in self.messages:
            firsts.append(at)
            at += len(message.signals)
        return tuple(firsts)

    @cached_property
    def signal_names(self) -> tuple[str, ...]:
        """``bus.message.signal`` of each signal, unique in the manifest."""
        return tuple(f"{self.buses[m.bus]}.{m.name}.{s.name}" for m in self.messages for s in m.signals)

    @cached_property
    def signal_index(self) -> dict[str, int]:
        """From ``bus.message.signal`` to the signal's number."""
        return {name: i for i, name in enumerate(self.signal_names)}

    @cached_property
    def encoded(self) -> bytes:
        """The bytes the hash is taken over."""
        return msgspec.msgpack.encode(self)

    @cached_property
    def hash(self) -> bytes:
        """SHA-256 of the content, 32 bytes: the manifest's identity everywhere."""
        return hashlib.sha256(self.encoded).digest()

    def to_bytes(self) -> bytes:
        """The manifest file's content."""
        return MAGIC + zstandard.ZstdCompressor(level=19, write_checksum=True).compress(self.encoded)

    @staticmethod
    def from_bytes(content: bytes) -> Manifest:
        """Parse a manifest file. What it returns can be decoded with: all numbers are in range, all names unique.

        Raises:
            ManifestError: wrong magic, another format, damaged, contradictory, or larger than ``MAX_BYTES``.
        """
        if content[: len(MAGIC)] != MAGIC:
            raise ManifestError("not an Outrider manifest, or one of a newer format")
        try:
            compressed = content[len(MAGIC) :]
            if zstandard.frame_content_size(compressed) > MAX_BYTES:
                raise ManifestError(f"manifest larger than {MAX_BYTES} bytes")
            raw = zstandard.ZstdDecompressor().decompress(compressed, max_output_size=MAX_BYTES)
            manifest = msgspec.msgpack.decode(raw, type=Manifest)
        except (zstandard.ZstdError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ManifestError(f"damaged manifest: {error}") from error
        if manifest.format != FORMAT:
            raise ManifestError(f"manifest format {manifest.format}, this version reads {FORMAT}")
        _check(manifest)
        return manifest


def _check(manifest: Manifest) -> None:
    """Refuse what the types allow and no decoder could work with; manifests also come from strangers."""
    if len(manifest.buses) > MAX_BUSES or len(set(manifest.buses)) != len(manifest.buses):
        raise ManifestError(f"more than {MAX_BUSES} buses, or two of one name")
    for message in manifest.messages:
        sound = (
            0 <= message.bus < len(manifest.buses)
            and 0 <= message.can_id <= (0x1FFFFFFF if message.extended else 0x7FF)
            and 0 <= message.length <= MAX_FRAME_BITS // 8
        )
        if not sound:
            raise ManifestError(f"message {message.name}: bus, identifier or length out of range")
        for number, signal in enumerate(message.signals):
            if not _is_sound(signal, number, len(message.signals)):
                raise ManifestError(f"signal {message.name}.{signal.name}: layout, scale or condition out of range")
    if len(manifest.signal_index) != len(manifest.signals):
        raise ManifestError("two signals have one name")


_FLOAT_BITS = {Kind.FLOAT32: 32, Kind.FLOAT64: 64}


def _is_sound(signal: Signal, number: int, count: int) -> bool:
    """Whether signal ``number`` of a message with ``count`` signals can be decoded and encoded."""
    first = signal.start ^ 7 if signal.big_endian else signal.start
    return (
        1 <= signal.length <= 64
        and signal.length == _FLOAT_BITS.get(signal.kind, signal.length)
        and signal.start >= 0
        and first + signal.length <= MAX_FRAME_BITS
        and math.isfinite(signal.scale)
        and signal.scale != 0
        and math.isfinite(signal.offset)
        and (signal.initial is None or _fits_int64(signal.initial))
        and all(map(_fits_int64, signal.labels))
        and all(_is_condition(branch, number, count) for branch in signal.mux)
    )


def _is_condition(branch: MuxBranch, number: int, count: int) -> bool:
    """Whether a condition selects by another signal of the message, with ranges of raw values."""
    ranges = all(_fits_int64(low) and _fits_int64(high) for low, high in branch.ranges)
    return 0 <= branch.selector < count and branch.selector != number and ranges


def _fits_int64(value: int) -> bool:
    return -(1 << 63) <= value < 1 << 63


def load_manifest(path: Path) -> Manifest:
    """Read a manifest file; ``ManifestError`` names the file."""
    try:
        return Manifest.from_bytes(path.read_bytes())
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from error
