"""Downloads: history as CSV or Parquet, the black box as a candump log, each produced window by window."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cloud.history.params import format_time
from cloud.history.query import History
from cloud.lake.columns import Columns
from cloud.lake.definitions import Definition, clean
from cloud.lake.parquet import FrameColumns
from cloud.lake.rollup import WIDTH_NS, Rollup, physical_values
from cloud.lake.tables import Tier
from gateway.wire.frames import BRS, ERROR, ESI, EXTENDED, FD, REMOTE

RAW_HEADER = ("time", "signal", "value", "unit", "label", "raw", "quality")
ROLLUP_HEADER = ("time", "signal", "unit", "min", "max", "mean", "last", "count", "bad")
CHUNK_ROWS = 20_000
_ERROR_FLAG = 0x20000000
_DICTIONARY = ["signal", "unit", "label"]


async def _windows(
    history: History, vehicle_id: str, series: Sequence[int], tier: str, from_ns: int, to_ns: int
) -> AsyncIterator[Columns | Rollup]:
    """Samples in order of time, or buckets in order of time, window by window."""

    async def samples(start_ns: int, end_ns: int) -> Columns:
        async with history.slot():
            return (await history.samples(vehicle_id, series, start_ns, end_ns)).by_time()

    async def rollup(start_ns: int, end_ns: int) -> Rollup:
        async with history.slot():
            rows = await history.rollup(vehicle_id, series, tier, start_ns, end_ns)
        return rows.take(np.lexsort((rows.series, rows.bucket_ns)))

    if tier == Tier.RAW:
        async for columns in history.windows(vehicle_id, tier, from_ns, to_ns, samples, len):
            yield columns
    else:
        step_ns = WIDTH_NS[tier]
        start_ns = from_ns // step_ns * step_ns
        async for rows in history.windows(vehicle_id, tier, start_ns, to_ns, rollup, len, step_ns=step_ns):
            yield rows


async def csv_lines(
    history: History, vehicle_id: str, series: Sequence[int], tier: str, from_ns: int, to_ns: int
) -> AsyncIterator[bytes]:
    """CSV with a header, in order of time. Each chunk is whole lines."""
    yield (",".join(RAW_HEADER if tier == Tier.RAW else ROLLUP_HEADER) + "\r\n").encode()
    async for part in _windows(history, vehicle_id, series, tier, from_ns, to_ns):
        for start in range(0, len(part), CHUNK_ROWS):
            piece = part.take(np.arange(start, min(start + CHUNK_ROWS, len(part))))
            yield await asyncio.to_thread(_csv, piece, history.catalog.definitions)


def _csv(part: Columns | Rollup, definitions: dict[int, Definition]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(
        _raw_rows(part, definitions) if isinstance(part, Columns) else _rollup_rows(part, definitions)
    )
    return text.getvalue().encode()


def _number(value: float) -> str:
    cleaned = clean(value)
    return (
        "" if cleaned is None else repr(int(cleaned)) if cleaned.is_integer() and abs(cleaned) < 1e15 else repr(cleaned)
    )


def _safe(text: str) -> str:
    """Text a spreadsheet takes for text: names come from vehicles, and a leading = would be run as a formula."""
    return "'" + text if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _raw_rows(part: Columns, definitions: dict[int, Definition]) -> Iterator[tuple[object, ...]]:
    values = physical_values(part, definitions)
    for time_ns, number, raw, quality, value in zip(
        part.time_ns.tolist(),
        part.definition.tolist(),
        part.raw.tolist(),
        part.quality.tolist(),
        values.tolist(),
        strict=True,
    ):
        d = definitions[number]
        yield (
            format_time(time_ns),
            _safe(d.name),
            _number(value),
            _safe(d.unit),
            _safe(d.label(raw)),
            raw,
            quality,
        )


def _rollup_rows(part: Rollup, definitions: dict[int, Definition]) -> Iterator[tuple[object, ...]]:
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = part.sum / part.count
    for i in range(len(part)):
        d = definitions[int(part.definition[i])]
        yield (
            format_time(int(part.bucket_ns[i])),
            _safe(d.name),
            _safe(d.unit),
            _number(float(part.minimum[i])),
            _number(float(part.maximum[i])),
            _number(float(mean[i])),
            _number(float(part.last[i])),
            int(part.count[i]),
            int(part.bad[i]),
        )


class _Sink(io.RawIOBase):
    """Bytes on their way from the Parquet writer to the client; holds one row group at most."""

    def __init__(self) -> None:
        super().__init__()
        self._chunks: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: object, /) -> int:
        chunk = bytes(memoryview(data))  # type: ignore[arg-type]  # pyarrow hands over any buffer
        self._chunks.append(chunk)
        return len(chunk)

    def drain(self) -> bytes:
        """What was written since the last time."""
        content = b"".join(self._chunks)
        self._chunks.clear()
        return content


def _dictionary(numbers: np.typing.NDArray[np.int32], text: Callable[[int], str]) -> pa.Array:
    unique, inverse = np.unique(numbers, return_inverse=True)
    names = pa.array([text(int(n)) for n in unique], pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(inverse.astype(np.int32)), names).dictionary_decode()


def _table(part: Columns | Rollup, definitions: dict[int, Definition]) -> pa.Table:
    signal = _dictionary(part.definition, lambda n: definitions[n].name)
    unit = _dictionary(part.definition, lambda n: definitions[n].unit)
    stamp = pa.timestamp("ns", tz="UTC")
    if isinstance(part, Columns):
        labels = [definitions[d].label(r) for d, r in zip(part.definition.tolist(), part.raw.tolist(), strict=True)]
        return pa.table(
            {
                "time": pa.array(part.time_ns).cast(stamp),
                "signal": signal,
                "value": pa.array(physical_values(part, definitions)),
                "unit": unit,
                "label": pa.array(labels, pa.string()),
                "raw": pa.array(part.raw),
                "quality": pa.array(part.quality),
            }
        )
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = part.sum / part.count
    return pa.table(
        {
            "time": pa.array(part.bucket_ns).cast(stamp),
            "signal": signal,
            "unit": unit,
            "min": pa.array(part.minimum, from_pandas=True),
            "max": pa.array(part.maximum, from_pandas=True),
            "mean": pa.array(mean, from_pandas=True),
            "last": pa.array(part.last, from_pandas=True),
            "count": pa.array(part.count),
            "bad": pa.array(part.bad),
        }
    )


async def parquet_chunks(
    history: History, vehicle_id: str, series: Sequence[int], tier: str, from_ns: int, to_ns: int
) -> AsyncIterator[bytes]:
    """A Parquet file for data frames: timestamps, names, physical values; in order of time."""
    definitions = history.catalog.definitions
    sink = _Sink()
    empty: Columns | Rollup = Columns.empty() if tier == Tier.RAW else Rollup.empty()
    schema = _table(empty, definitions).schema
    writer = pq.ParquetWriter(sink, schema, compression="zstd", use_dictionary=_DICTIONARY)
    async for part in _windows(history, vehicle_id, series, tier, from_ns, to_ns):
        if len(part):
            table = await asyncio.to_thread(_table, part, definitions)
            await asyncio.to_thread(writer.write_table, table)
            yield sink.drain()
    await asyncio.to_thread(writer.close)
    yield sink.drain()


async def candump_lines(history: History, vehicle_id: str, from_ns: int, to_ns: int) -> AsyncIterator[bytes]:
    """The black box in ``candump -L`` form, in order of time."""

    async def read(start_ns: int, end_ns: int) -> FrameColumns:
        async with history.slot():
            return await history.frames(vehicle_id, start_ns, end_ns)

    async for part in history.windows(vehicle_id, Tier.FRAMES, from_ns, to_ns, read, lambda p: len(p.frames)):
        for start in range(0, len(part.frames), CHUNK_ROWS):
            piece = FrameColumns(part.frames.take(slice(start, start + CHUNK_ROWS)), part.bus_names)
            yield await asyncio.to_thread(_candump, piece)


def _candump(part: FrameColumns) -> bytes:
    f = part.frames
    lines = []
    for time_ns, bus, can_id, flags, length, data in zip(
        f.timestamp_ns.tolist(),
        f.bus.tolist(),
        f.can_id.tolist(),
        f.flags.tolist(),
        f.length.tolist(),
        f.data,
        strict=True,
    ):
        seconds, rest_ns = divmod(time_ns, 1_000_000_000)
        if flags & ERROR:
            name = f"{can_id | _ERROR_FLAG:08X}"
        else:
            name = f"{can_id:08X}" if flags & EXTENDED else f"{can_id:03X}"
        payload = data[:length].tobytes().hex().upper()
        if flags & FD:
            body = f"{name}##{(1 if flags & BRS else 0) | (2 if flags & ESI else 0):X}{payload}"
        elif flags & REMOTE:
            body = f"{name}#R{length if length else ''}"
        else:
            body = f"{name}#{payload}"
        lines.append(f"({seconds}.{rest_ns // 1000:06d}) {part.bus_names[bus]} {body}\n")
    return "".join(lines).encode()
