"""Decoding and log reading against cantools and python-can, value for value, in one run.

CPU time, medians of five rounds in which both sides take turns. Ours decodes to raw integers, as the gateway does; the
rows that say so also make physical values of all of them, as cantools does.
"""

from __future__ import annotations

import lzma
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import can
import cantools
import numpy as np
from cantools.database.can import Database

from dbc.decode import Decoder, Values
from dbc.frames import EXTENDED, FrameBatch
from dbc.load import compile_manifest
from dbc.logs import open_log
from tests.support import DBC_DIR, LOG_DIR

ROUNDS = 5
RAV4_FRAMES = 20_000
SYNTHETIC_FRAMES = 10_000
BUDGETS = {1000: 12.0, 100: 5.0}
READ_BUDGET = 5.0

Row = dict[str, Any]


def run() -> list[Row]:
    """All figures; none where the recorded data is absent."""
    if not LOG_DIR.is_dir():
        return [{"name": f"skipped: no recorded data at {LOG_DIR}", "value": 0}]
    rows: list[Row] = []
    log, toyota = LOG_DIR / "rav4_2016_bus0_60s.log.xz", DBC_DIR / "toyota_new_mc_pt_generated.dbc"
    with open_log(log) as reader:
        rav4 = FrameBatch.concatenate(list(reader)).take(slice(0, RAV4_FRAMES))
    rows += _decode_rows("rav4 + toyota", toyota, rav4)
    mqb = DBC_DIR / "vw_mqb.dbc"
    rows += _decode_rows("vw_mqb, random payloads", mqb, _random_frames(mqb))
    rows.append(_read_row(log))
    return rows


def cpu_times(*sides: Callable[[], object]) -> list[float]:
    """Median CPU seconds of each side; the sides take turns."""
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(ROUNDS):
        for side, found in zip(sides, times, strict=True):
            started = time.process_time()
            side()
            found.append(time.process_time() - started)
    return [statistics.median(found) for found in times]


def _decode_rows(name: str, path: Path, frames: FrameBatch) -> list[Row]:
    database = _database(path)
    manifest, _ = compile_manifest({"can0": [path]})
    decoder, values = Decoder(manifest), Values(manifest)
    known = {m.frame_id for m in database.messages}
    payloads = [
        (i, frames.data[at, :length].tobytes())
        for at, (i, length) in enumerate(zip(frames.can_id.tolist(), frames.length.tolist(), strict=True))
        if i in known
    ]

    def theirs() -> list[Any]:
        return [database.decode_message(i, payload, decode_choices=False) for i, payload in payloads]

    _check_equal(decoder, values, frames, known, theirs())
    rows = []
    for size, budget in BUDGETS.items():
        batches = [frames.take(slice(at, at + size)) for at in range(0, len(frames), size)]

        def raw(batches: list[FrameBatch] = batches) -> None:
            for batch in batches:
                decoder.decode(batch)

        def physical(batches: list[FrameBatch] = batches) -> None:
            for batch in batches:
                decoded = decoder.decode(batch)
                values.physical(decoded.signal, decoded.raw)

        peer, ours, scaled = cpu_times(theirs, raw, physical)
        rows.append(_row(f"decode {name}, {size} frames", len(frames) / ours / 1e3, "cantools", peer / ours, budget))
        rows.append(
            _row(f"decode {name}, {size} frames, physical", len(frames) / scaled / 1e3, "cantools", peer / scaled, None)
        )
    return rows


def _check_equal(decoder: Decoder, values: Values, frames: FrameBatch, known: set[int], theirs: list[Any]) -> None:
    """Stop the run unless both sides have the same values."""
    decoded = decoder.decode(frames)
    names = [s.name for s in decoder.manifest.signals]
    ours: dict[int, dict[str, float]] = {}
    physical = values.physical(decoded.signal, decoded.raw)
    for frame, signal, value in zip(decoded.frame.tolist(), decoded.signal.tolist(), physical.tolist(), strict=True):
        ours.setdefault(frame, {})[names[signal]] = value
    at = [i for i, can_id in enumerate(frames.can_id.tolist()) if can_id in known]
    for frame, found in zip(at, theirs, strict=True):
        if ours.get(frame, {}) != {name: float(value) for name, value in found.items()}:
            raise RuntimeError(f"frame {frame}: ours {ours.get(frame)}, cantools {found}")


def _random_frames(path: Path) -> FrameBatch:
    """Frames of messages cantools can decode, with random payloads."""
    generator = np.random.default_rng(20)
    rows: list[tuple[int, int, int, int, bytes]] = []
    messages = list(_database(path).messages)
    while len(rows) < SYNTHETIC_FRAMES:
        message = messages[int(generator.integers(len(messages)))]
        payload = generator.integers(0, 256, message.length, dtype=np.uint8).tobytes()
        try:
            message.decode(payload, decode_choices=False)
        except Exception:  # what cantools raises for an unlisted selector value or a signal past the length varies
            continue
        rows.append((0, 0, message.frame_id, EXTENDED if message.is_extended_frame else 0, payload))
    return FrameBatch.from_rows(rows)


def _read_row(log: Path) -> Row:
    """Both sides read the same text, unpacked before."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "drive.log")
        path.write_bytes(lzma.decompress(log.read_bytes()))
        counts = []

        def ours() -> None:
            with open_log(path) as reader:
                counts.append(sum(len(batch) for batch in reader))

        def theirs() -> None:
            with can.CanutilsLogReader(path) as reader:
                counts.append(sum(1 for _ in reader))

        peer, mine = cpu_times(theirs, ours)
        if len(set(counts)) != 1:
            raise RuntimeError(f"frames read: {counts}")
    return _row("read candump log", counts[0] / mine / 1e3, "python-can", peer / mine, READ_BUDGET)


def _row(name: str, value: float, peer: str, ratio: float, budget: float | None) -> Row:
    return {
        "name": name,
        "value": round(value, 1),
        "unit": "kframes/s",
        "peer": peer,
        "ratio": round(ratio, 2),
        "budget": f"≥ {budget:g}×" if budget is not None else "",
        "met": ratio >= budget if budget is not None else None,
    }


def _database(path: Path) -> Database:
    database = cantools.database.load_file(str(path), strict=False)
    assert isinstance(database, Database)
    return database
