"""Bytes per sample in the lake, and the time of queries over a day, on data made of a recorded drive.

The drive is ``rav4_2016_bus0_60s``, every signal the Toyota DBC knows on it. Size is judged on the drive itself, one
minute in one file: repeating it would flatter the compressor (told beside it). Queries run over a day of every signal
once a second. All data travel the real way: encoded batches, compactor, merging, Parquet files. The peer for size is
what one writes without further thought: a Parquet table of time, signal name and float64 value, zstd.
"""

from __future__ import annotations

import asyncio
import io
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import func, select

from bench.codec import DBC, LOG, block_of
from cloud.history.answers import Question, answer
from cloud.history.query import History
from cloud.lake.columns import Columns
from cloud.lake.config import LakeConfig
from cloud.lake.rollup import physical_values
from cloud.lake.tables import FileRow, Tier
from dbc.decode import Decoder
from dbc.frames import FrameBatch
from dbc.load import compile_manifest
from dbc.logs import open_log
from gateway.wire.manifest import Manifest
from gateway.wire.samples import SampleBlock
from tests.cloud.lake.support import T0_NS, Rig, rig

SECOND_NS, MINUTE_NS = 1_000_000_000, 60_000_000_000
MINUTES = int(os.environ.get("OUTRIDER_BENCH_LAKE_MINUTES", "10"))
HOURS = 24
BUDGET_BYTES = 1.8
REPEATS = 3
ONCE, ALL, DAY = "once", "everything", "one-hertz"
MIDNIGHT_NS = T0_NS // (HOURS * 60 * MINUTE_NS) * (HOURS * 60 * MINUTE_NS)


def run() -> list[dict[str, Any]]:
    """The measurements; a single row that says so where the recorded drive is not there."""
    if not LOG.exists():
        return [{"name": f"skipped: no recorded drive at {LOG}", "value": 0}]
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_run(Path(folder)))


async def _run(folder: Path) -> list[dict[str, Any]]:
    manifest, _ = compile_manifest({"bus0": [DBC]}, name="rav4")
    frames = FrameBatch.concatenate(list(open_log(LOG)))
    block = block_of(Decoder(manifest), frames.take(frames.bus == 0))
    shift_ns = MIDNIGHT_NS - int(block.row_timestamp_ns[0])
    async with rig(folder, manifest, config=LakeConfig(max_items_per_round=2_000_000)) as r:
        await r.store_block(moved(block, shift_ns), manifest=manifest, vehicle=ONCE)
        for minute in range(MINUTES):
            await r.store_block(moved(block, shift_ns + minute * MINUTE_NS), manifest=manifest, vehicle=ALL)
        started = time.process_time()
        done = await r.compactor.compact(everything=True)
        seconds = time.process_time() - started
        await r.compactor.merge(everything=True)
        slow = per_second(block)
        for hour in range(HOURS):
            parts = [moved(slow, shift_ns + (hour * 60 + minute) * MINUTE_NS) for minute in range(60)]
            await r.store_block(SampleBlock.concatenate(parts), manifest=manifest, vehicle=DAY)
            await r.compactor.compact(everything=True)
        await r.compactor.merge(everything=True)
        return [
            await size_line(r, ONCE, "lake: the drive, all signals, 60 s"),
            await size_line(r, ALL, f"lake: the same repeated for {MINUTES} min"),
            line("lake: compaction with roll-ups", done.samples / seconds / 1e6, "M samples/CPU s"),
            *await query_lines(r, manifest),
        ]


def moved(block: SampleBlock, by_ns: int) -> SampleBlock:
    """The same drive at another time."""
    return SampleBlock(
        block.row_timestamp_ns + by_ns, block.row_message, block.row, block.signal, block.raw, block.quality
    )


def per_second(block: SampleBlock) -> SampleBlock:
    """The first sample of each signal in each second."""
    second = block.row_timestamp_ns[block.row] // SECOND_NS
    _, first = np.unique(second * 1_000_000 + block.signal, return_index=True)
    chosen = np.sort(first)
    rows, row = np.unique(block.row[chosen], return_inverse=True)
    return SampleBlock(
        block.row_timestamp_ns[rows],
        block.row_message[rows],
        row.astype(np.int32),
        block.signal[chosen],
        block.raw[chosen],
        block.quality[chosen],
    )


def line(name: str, value: float, unit: str, **more: Any) -> dict[str, Any]:
    """One measurement in the form of all benches."""
    return {"name": name, "value": value, "unit": unit, "peer": "", "ratio": None, "budget": None, "met": None, **more}


async def size_line(r: Rig, vehicle: str, name: str) -> dict[str, Any]:
    """Bytes per sample of the raw tier, beside the plain table."""
    async with r.database.read() as session:
        query = select(FileRow.tier, func.sum(FileRow.size_bytes), func.sum(FileRow.rows)).where(
            FileRow.vehicle_id == vehicle
        )
        sizes = {
            tier: (int(size), int(rows)) for tier, size, rows in await session.execute(query.group_by(FileRow.tier))
        }
    size, samples = sizes[Tier.RAW]
    part = (await r.raw(vehicle)).take(slice(0, 2_000_000))
    plain = len(plain_parquet(r, part)) / len(part)
    value = size / samples
    rolled = sum(s for tier, (s, _) in sizes.items() if tier != Tier.RAW) / samples
    return line(
        f"{name} ({samples / 1e6:.1f} M samples; roll-ups add {rolled:.2f} B/sample)",
        value,
        "B/sample",
        peer=f"Parquet float64, zstd: {plain:.2f} B/sample",
        ratio=plain / value,
        budget=BUDGET_BYTES,
        met=value <= BUDGET_BYTES,
    )


def plain_parquet(r: Rig, columns: Columns) -> bytes:
    """The same samples as most people store them, in order of time."""
    columns = columns.by_time()
    definitions = r.catalog.definitions
    names = pa.array([definitions[int(d)].name for d in np.unique(columns.definition)])
    index = np.searchsorted(np.unique(columns.definition), columns.definition).astype(np.int32)
    table = pa.table(
        {
            "time": pa.array(columns.time_ns).cast(pa.timestamp("ns", tz="UTC")),
            "signal": pa.DictionaryArray.from_arrays(pa.array(index), names),
            "value": pa.array(physical_values(columns, definitions)),
        }
    )
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    return out.getvalue()


async def query_lines(r: Rig, manifest: Manifest) -> list[dict[str, Any]]:
    """Wall time of history answers over the day, the best of some."""
    history = History(r.lake, r.reader, queries_at_once=1, timeout_s=60)
    signal = r.catalog.names[int(np.unique((await r.raw(DAY)).series)[0])]
    hour_ns = 60 * MINUTE_NS
    lines = []
    for name, resolution, hours, limit in (
        ("raw, an hour", "raw", 1, 10_000),
        ("raw, the day", "raw", HOURS, 100_000),
        ("10 s, the day", "10s", HOURS, 10_000),
        ("1 min, the day", "1m", HOURS, 10_000),
        ("1 h, the day", "1h", HOURS, 10_000),
    ):
        from_ns = MIDNIGHT_NS + (9 * hour_ns if hours == 1 else 0)
        question = Question(
            vehicle=DAY,
            signal=signal,
            from_ns=from_ns,
            to_ns=from_ns + hours * hour_ns,
            resolution=resolution,
            limit=limit,
        )
        best, points = float("inf"), 0
        for _ in range(REPEATS):
            started = time.perf_counter()
            points = len((await answer(history, question)).points.time_ms)
            best = min(best, time.perf_counter() - started)
        lines.append(line(f"query: one signal, {name} ({points} points)", best * 1e3, "ms"))
    return lines
