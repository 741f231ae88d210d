"""A small vehicle for these tests: its manifest, frames and schemes from a few words."""

from __future__ import annotations

from typing import Any

from dbc.frames import ERROR, FrameBatch
from dbc.manifest import FORMAT, Kind, Manifest, Message, Signal
from gateway.collect import Limits, Names, Scheme, Selector, parse_scheme, resolve

MS = 1_000_000
START = 1_800_000_000_000_000_000
SPEED, GEAR, COUNTER, DOOR, LEVEL, TEMPERATURE = range(6)


def signal(name: str, start: int, length: int, **changes: Any) -> Signal:
    """A little-endian unsigned signal unless told otherwise."""
    fields: dict[str, Any] = {
        "name": name,
        "start": start,
        "length": length,
        "big_endian": False,
        "kind": Kind.UNSIGNED,
        "scale": 1.0,
        "offset": 0.0,
        "minimum": None,
        "maximum": None,
        "unit": "",
        "labels": {},
        "is_multiplexer": False,
        "mux": (),
    }
    return Signal(**(fields | changes))


def message(name: str, bus: int, can_id: int, *signals: Signal, **changes: Any) -> Message:
    """An 8-byte frame with an 11-bit identifier unless told otherwise."""
    fields: dict[str, Any] = {
        "name": name,
        "bus": bus,
        "can_id": can_id,
        "extended": False,
        "fd": False,
        "length": 8,
        "cycle_ms": None,
        "pgn": None,
        "sender": "",
        "comment": "",
        "signals": signals,
    }
    return Message(**(fields | changes))


MANIFEST = Manifest(
    FORMAT,
    "small",
    ("drive", "body"),
    (
        message(
            "Motion",
            0,
            0x100,
            signal("Speed", 0, 16, scale=0.5, maximum=300.0, minimum=0.0, unit="km/h"),
            signal("Gear", 16, 4, labels={0: "park", 1: "drive", 2: "reverse"}),
            signal("Counter", 20, 4, role="counter"),
        ),
        message("Doors", 1, 0x200, signal("Door", 0, 8, labels={0: "closed", 1: "open"})),
        message(
            "Tank", 1, 0x201, signal("Level", 0, 8, kind=Kind.SIGNED), signal("Temperature", 32, 32, kind=Kind.FLOAT32)
        ),
    ),
)
NAMES = Names(MANIFEST)


def motion(at_ms: float, speed: int = 0, gear: int = 0, counter: int = 0) -> tuple[int, int, int, int, bytes]:
    """A frame of Motion; ``speed`` is the raw value."""
    payload = (speed | gear << 16 | counter << 20).to_bytes(8, "little")
    return START + round(at_ms * MS), 0, 0x100, 0, payload


def doors(at_ms: float, door: int = 0) -> tuple[int, int, int, int, bytes]:
    """A frame of Doors."""
    return START + round(at_ms * MS), 1, 0x200, 0, bytes([door])


def unknown(at_ms: float, can_id: int = 0x7FF, bus: int = 0) -> tuple[int, int, int, int, bytes]:
    """A frame the manifest does not know."""
    return START + round(at_ms * MS), bus, can_id, 0, b"\x01\x02"


def error(at_ms: float, bus: int = 0) -> tuple[int, int, int, int, bytes]:
    """An error frame."""
    return START + round(at_ms * MS), bus, 0x20, ERROR, bytes(8)


def batch(*rows: tuple[int, int, int, int, bytes]) -> FrameBatch:
    """Frames in the order given."""
    return FrameBatch.from_rows(rows)


def scheme(body: str, limits: Limits | None = None, head: str = 'id = "s"\nversion = 1\n') -> Scheme:
    """A scheme of this vehicle."""
    return resolve(parse_scheme(head + body), NAMES, limits)


def selector(*schemes: Scheme, limits: Limits | None = None) -> Selector:
    """A selector of this vehicle."""
    return Selector(MANIFEST, schemes, limits)
