"""Manifests and frames for the tests of decoding; cantools is the reference."""

from __future__ import annotations

from pathlib import Path

import cantools
import numpy as np
from cantools.database.can import Database
from cantools.database.can import Signal as ReferenceSignal

from dbc.decode import Decoded
from dbc.frames import FrameBatch
from dbc.manifest import Kind, Manifest, Message, Signal


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


def pattern(s: ReferenceSignal, value: object) -> int:
    """A cantools raw value as the int64 that a manifest's raw value is."""
    if s.is_float:
        dtype = np.float32 if s.length == 32 else np.float64
        bits = np.array([value], dtype)
        return int(bits.view(np.uint32)[0]) if s.length == 32 else int(bits.view(np.int64)[0])
    assert isinstance(value, int)
    return value - (1 << 64) if value >= 1 << 63 else value
