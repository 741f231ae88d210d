"""Makes the vectors of batch format 1: ``batch-1-<name>.orb`` and what a reader must make of it, ``.json``.

    python -m tests.vectors.make_batches [NAME…]

Vectors of a released version are never made again: vehicles in the field write them for years. Name the new ones.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np

from dbc.frames import BRS, ERROR, EXTENDED, FD, REMOTE, FrameBatch
from gateway.wire.codec import encode_batch
from gateway.wire.samples import BAD_CHECKSUM, STALE, Event, EventKind, SampleBlock
from tests.gateway.wire import reference

HERE = Path(__file__).resolve().parent
START_NS = 1_750_000_000_123_456_789
HEAD: dict[str, Any] = {
    "stream": "0123456789abcdef/normal",
    "sequence": 42,
    "items_before": 100_000,
    "manifest_hash": bytes(range(32)),
    "created_ns": START_NS + 10_000_000_000,
    "schemes": (("overview", 3), ("battery-health", 1)),
}


def block(rows: list[tuple[int, int, dict[int, tuple[int, int]]]]) -> SampleBlock:
    """From (time, message, {signal: (raw, quality)}) rows."""
    flat = [(i, s, *values) for i, (_, _, signals) in enumerate(rows) for s, values in sorted(signals.items())]
    return SampleBlock(
        np.array([r[0] for r in rows], np.int64),
        np.array([r[1] for r in rows], np.int32),
        np.array([f[0] for f in flat], np.int32),
        np.array([f[1] for f in flat], np.int32),
        np.array([f[2] for f in flat], np.int64),
        np.array([f[3] for f in flat], np.uint8),
    )


def drive() -> SampleBlock:
    """Ten seconds of three periodic messages with jitter: a counter, a slow value, a constant, a multiplexed pair."""
    chance = random.Random(1)
    rows = []
    for i in range(1000):
        time = START_NS + i * 10_000_000 + chance.randint(-900_000, 900_000)
        rows.append((time, 2, {10: (i % 16, 0), 11: (20_000 + (i * i) % 97, 0), 12: (1, 0)}))
        if i % 10 == 3:
            mux = i // 10 % 2
            quality = STALE if i == 503 else 0
            rows.append(
                (time + 2_000_000, 5, {20: (mux, 0), 21 + 2 * mux: (-i, quality), 22 + 2 * mux: (i * 7 % 256, 0)})
            )
    return block(rows)


def extremes() -> SampleBlock:
    """All 64 bits, a clock that is set back, equal times, quality, a message number far away."""
    raw = [0, -1, 2**63 - 1, -(2**63), 1, 2**62, -(2**62) - 1]
    rows = [(START_NS + i * 1_000_000, 0, {0: (r, 0), 1: (raw[-i - 1], BAD_CHECKSUM)}) for i, r in enumerate(raw)]
    rows += [(START_NS - 3_600_000_000_000 + i, 0, {0: (i, 0)}) for i in range(3)]
    rows += [(START_NS, 70_000, {900_000: (5, BAD_CHECKSUM | STALE)})]
    return block(rows)


def frames() -> FrameBatch:
    """Classic, extended, FD, remote, error and empty frames on two buses."""
    chance = random.Random(2)
    rows = []
    for i in range(60):
        at = START_NS + i * 20_000_000 + chance.randint(0, 1_500_000)
        rows.append((at, 0, 0x123, 0, bytes([i % 256, 0xFF, i * 3 % 256, 0, 0, 0, 0, 7])))
        if i % 3 == 0:
            rows.append((at + 100_000, 1, 0x18FEF100, EXTENDED | FD | BRS, bytes((i + j) % 256 for j in range(64))))
    rows += [(START_NS + 5, 0, 0x7FF, REMOTE, b""), (START_NS + 6, 1, 0x004, ERROR, bytes(8)), (START_NS, 0, 1, 0, b"")]
    batch = FrameBatch.from_rows(rows)
    batch.length[(batch.flags & REMOTE) > 0] = 8
    return batch


EVENTS = [
    Event(START_NS, EventKind.TRIGGER, "hard-braking", "rising edge"),
    Event(START_NS + 1_000_000, EventKind.FRAMES_LOST, "powertrain", "17"),
]

VECTORS: dict[str, dict[str, Any]] = {
    "samples": {"samples": drive()},
    "extremes": {"samples": extremes(), "resolution_ns": 1},
    "frames": {"frames": frames(), "resolution_ns": 1_000},
    "mixed": {"samples": drive(), "frames": frames(), "events": EVENTS},
    "empty": {},
    "one": {"samples": block([(START_NS, 7, {31: (-3, 0)})])},
}


def as_json(content: reference.Content) -> dict[str, Any]:
    """Wide integers as strings, so that any JSON reader keeps them."""
    header = [value.hex() if isinstance(value, bytes) else value for value in content.header]
    return {
        "header": [str(v) if isinstance(v, int) else v for v in header],
        "rows": [[str(time), message] for time, message in content.rows],
        "samples": [[row, signal, str(raw), quality] for row, signal, raw, quality in content.samples],
        "frames": [[str(time), *head, payload.hex()] for time, *head, payload in content.frames],
        "events": [[str(time), *rest] for time, *rest in content.events],
    }


def main(names: list[str]) -> None:
    """Write the named vectors, or all."""
    for name in names or list(VECTORS):
        encoded = encode_batch(**(HEAD | VECTORS[name]))
        (HERE / f"batch-1-{name}.orb").write_bytes(encoded)
        told = json.dumps(as_json(reference.decode(encoded)), separators=(",", ":"))
        (HERE / f"batch-1-{name}.json").write_text(told.replace("],[", "],\n[") + "\n")
        print(f"batch-1-{name}: {len(encoded)} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
