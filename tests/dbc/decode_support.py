"""Manifests and frames for the tests of decoding; cantools is the reference, and converts itself here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cantools
import numpy as np
from cantools.database.can import Database
from cantools.database.can import Message as ReferenceMessage
from cantools.database.can import Signal as ReferenceSignal

from dbc.decode import Decoded
from dbc.frames import EXTENDED, FrameBatch
from dbc.manifest import Kind, Manifest, Message, MuxBranch, Signal


def signal(name: str, start: int, length: int, *, big_endian: bool = False, **fields: object) -> Signal:
    """A signal with plain defaults."""
    values: dict[str, object] = {
        "kind": Kind.UNSIGNED,
        "scale": 1.0,
        "offset": 0.0,
        "minimum": None,
        "maximum": None,
        "unit": "",
        "labels": {},
        "is_multiplexer": False,
        "mux": (),
        **fields,
    }
    return Signal(name=name, start=start, length=length, big_endian=big_endian, **values)  # type: ignore[arg-type]  # fields of Signal by name


def message(name: str, can_id: int, *signals: Signal, **fields: object) -> Message:
    """A message with plain defaults."""
    values: dict[str, object] = {
        "bus": 0,
        "extended": False,
        "fd": False,
        "length": 8,
        "cycle_ms": None,
        "pgn": None,
        "sender": "",
        "comment": "",
        **fields,
    }
    return Message(name=name, can_id=can_id, signals=signals, **values)  # type: ignore[arg-type]  # fields of Message by name


def manifest(*messages: Message, buses: tuple[str, ...] = ("can0",)) -> Manifest:
    """A manifest of these messages."""
    return Manifest(format=1, name="test", buses=buses, messages=messages)


def frames(*rows: tuple[int, bytes], flags: int = 0, bus: int = 0) -> FrameBatch:
    """Frames with these identifiers and payloads."""
    return FrameBatch.from_rows([(i, bus, can_id, flags, payload) for i, (can_id, payload) in enumerate(rows)])


def samples(decoded: Decoded) -> list[tuple[int, int, int]]:
    """``(frame, signal, raw)`` of each sample."""
    return list(zip(decoded.frame.tolist(), decoded.signal.tolist(), decoded.raw.tolist(), strict=True))


def load_reference(path: Path) -> Database:
    """The file as cantools reads it."""
    database = cantools.database.load_file(str(path), strict=False)
    assert isinstance(database, Database)
    return database


def convert(database: Database) -> Manifest:
    """What cantools understood, as a manifest of one bus; J1939 groups are left out, identifiers are exact."""
    return manifest(*(_message(m) for m in database.messages))


def _message(m: ReferenceMessage) -> Message:
    order = {s.name: i for i, s in enumerate(m.signals)}
    return message(
        m.name,
        m.frame_id,
        *(_signal(m, s, order) for s in m.signals),
        extended=m.is_extended_frame,
        fd=m.is_fd,
        length=m.length,
    )


def _signal(m: ReferenceMessage, s: ReferenceSignal, order: dict[str, int]) -> Signal:
    kind = Kind.SIGNED if s.is_signed else Kind.UNSIGNED
    if s.is_float:
        kind = Kind.FLOAT32 if s.length == 32 else Kind.FLOAT64
    return signal(
        s.name,
        s.start,
        s.length,
        big_endian=s.byte_order == "big_endian",
        kind=kind,
        scale=float(s.scale),
        offset=float(s.offset),
        is_multiplexer=s.is_multiplexer,
        mux=tuple(_branches(m, s, order)),
        labels={int(k): str(v) for k, v in (s.choices or {}).items()},
    )


def _branches(m: ReferenceMessage, s: ReferenceSignal, order: dict[str, int]) -> Iterator[MuxBranch]:
    while s.multiplexer_ids:
        parent = s.multiplexer_signal or next(p.name for p in m.signals if p.is_multiplexer)
        yield MuxBranch(order[parent], tuple((i, i) for i in s.multiplexer_ids))
        s = m.get_signal_by_name(parent)


def reference_samples(database: Database, numbers: Manifest, batch: FrameBatch) -> list[tuple[int, int, int]]:
    """What cantools makes of a batch, frame by frame, as raw integers; frames it raises on are left out."""
    by_id = {(m.frame_id, m.is_extended_frame): (i, m) for i, m in enumerate(database.messages)}
    rows: list[tuple[int, int, int]] = []
    for at in range(len(batch)):
        found = by_id.get((int(batch.can_id[at]), bool(batch.flags[at] & EXTENDED)))
        if found is None:
            continue
        number, m = found
        payload = bytes(batch.data[at, : batch.length[at]])
        decoded = m.decode(payload, decode_choices=False, scaling=False, allow_truncated=True)
        assert isinstance(decoded, dict)
        first = numbers.first_signal[number]
        for i, s in enumerate(m.signals):
            if s.name in decoded:
                rows.append((at, first + i, pattern(s, decoded[s.name])))
    return rows


def pattern(s: ReferenceSignal, value: object) -> int:
    """A cantools raw value as the int64 that a manifest's raw value is."""
    if s.is_float:
        dtype = np.float32 if s.length == 32 else np.float64
        bits = np.array([value], dtype)
        return int(bits.view(np.uint32)[0]) if s.length == 32 else int(bits.view(np.int64)[0])
    assert isinstance(value, int)
    return value - (1 << 64) if value >= 1 << 63 else value
