"""A small manifest for tests of the gateway, made by hand: one bus, two messages, three signals."""

from __future__ import annotations

import numpy as np

from dbc.frames import FrameBatch
from dbc.manifest import FORMAT, Kind, Manifest, Message, Signal


def signal(name: str, start: int, length: int, **rest: object) -> Signal:
    """A little-endian unsigned signal with factor 1, unless told otherwise."""
    facts: dict[str, object] = {
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
        **rest,
    }
    return Signal(name=name, start=start, length=length, **facts)  # type: ignore[arg-type]  # keys as above


def message(name: str, can_id: int, *signals: Signal, bus: int = 0) -> Message:
    """A classic frame of 8 bytes."""
    return Message(
        name=name,
        bus=bus,
        can_id=can_id,
        extended=False,
        fd=False,
        length=8,
        cycle_ms=10,
        pgn=None,
        sender="",
        comment="",
        signals=signals,
    )


MANIFEST = Manifest(
    format=FORMAT,
    name="test",
    buses=("can0", "can1"),
    messages=(
        message("Engine", 0x100, signal("speed", 0, 16, scale=0.25, unit="rpm"), signal("load", 16, 8, unit="%")),
        message("Door", 0x200, signal("open", 0, 1, labels={0: "closed", 1: "open"}), bus=1),
    ),
)


def engine_frames(count: int, *, first_ns: int = 1_700_000_000_000_000_000, period_ns: int = 10_000_000) -> FrameBatch:
    """``count`` Engine frames whose speed counts up and whose load stays."""
    batch = FrameBatch.empty(count)
    batch.timestamp_ns[:] = first_ns + np.arange(count) * period_ns
    batch.can_id[:] = 0x100
    batch.length[:] = 8
    speed = np.arange(count, dtype=np.uint16)
    batch.data[:, 0], batch.data[:, 1], batch.data[:, 2] = speed & 0xFF, speed >> 8, 42
    return batch
