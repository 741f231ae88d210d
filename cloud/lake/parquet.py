"""The lake's files: writing and reading Parquet, nothing of the database (docs/reference/lake-format.md).

A file appears under its name only when it is whole and durable: written beside it under a temporary name, fsynced,
renamed, and the folder fsynced. Each file explains itself: its metadata hold the vehicle, the time resolution and the
definitions of the series inside.
"""

from __future__ import annotations

import base64
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cloud.lake.columns import Columns
from cloud.lake.definitions import Definition
from cloud.lake.rollup import Rollup
from gateway.wire.frames import FrameBatch

FORMAT = "1"
TEMPORARY = ".partial"
_DELTA = "DELTA_BINARY_PACKED"

RAW_SCHEMA = pa.schema(
    [
        ("series", pa.int32()),
        ("time", pa.int64()),
        ("definition", pa.int32()),
        ("raw", pa.int64()),
        ("quality", pa.int32()),
    ]
)
ROLLUP_SCHEMA = pa.schema(
    [
        ("series", pa.int32()),
        ("definition", pa.int32()),
        ("bucket_ns", pa.int64()),
        ("count", pa.int64()),
        ("bad", pa.int64()),
        ("minimum", pa.float64()),
        ("maximum", pa.float64()),
        ("sum", pa.float64()),
        ("last", pa.float64()),
        ("last_ns", pa.int64()),
    ]
)
FRAME_SCHEMA = pa.schema(
    [
        ("time_ns", pa.int64()),
        ("bus", pa.string()),
        ("can_id", pa.int64()),
        ("flags", pa.int32()),
        ("data", pa.binary()),
        ("length", pa.int32()),
    ]
)


@dataclass(frozen=True, slots=True)
class FileLimits:
    """Shape of the files; the defaults suit queries for a few signals out of hundreds."""

    row_group_rows: int = 131_072
    page_bytes: int = 1024 * 1024
    compression_level: int = 9


def file_metadata(vehicle_id: str, resolution_ns: int, definitions: Mapping[int, Definition]) -> dict[str, str]:
    """Key-value metadata that make a file readable without the database."""
    table = {str(n): msgspec.Raw(definitions[n].encoded) for n in sorted(definitions)}
    return {
        "outrider.format": FORMAT,
        "outrider.vehicle": vehicle_id,
        "outrider.resolution_ns": str(resolution_ns),
        "outrider.definitions": base64.b64encode(zlib.compress(msgspec.json.encode(table), 9)).decode(),
    }


def _publish(
    table: pa.Table,
    path: Path,
    metadata: Mapping[str, str],
    limits: FileLimits,
    *,
    delta: Sequence[str],
    dictionary: Sequence[str] = (),
) -> int:
    """Write, fsync, rename; returns the size in bytes. Nothing is left under ``path`` when it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        with temporary.open("wb") as sink:
            with pq.ParquetWriter(
                sink,
                table.schema,
                data_page_size=limits.page_bytes,
                compression="zstd",
                compression_level=limits.compression_level,
                use_dictionary=list(dictionary),
                column_encoding=dict.fromkeys(delta, _DELTA),
                write_statistics=["series", "time", "definition", "bucket_ns", "time_ns"],
                store_schema=False,
            ) as writer:
                writer.write_table(table, row_group_size=limits.row_group_rows)
                writer.add_key_value_metadata(dict(metadata))
            sink.flush()
            os.fsync(sink.fileno())
        temporary.rename(path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path.stat().st_size


def sync_folder(folder: Path) -> None:
    """Make names created or removed in ``folder`` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_samples(
    path: Path, columns: Columns, resolution_ns: int, metadata: Mapping[str, str], limits: FileLimits
) -> int:
    """Write sorted samples whose times are multiples of ``resolution_ns``; returns the size in bytes."""
    table = pa.Table.from_arrays(
        [
            pa.array(columns.series),
            pa.array(columns.time_ns // resolution_ns),
            pa.array(columns.definition),
            pa.array(columns.raw),
            pa.array(columns.quality.astype(np.int32)),
        ],
        schema=RAW_SCHEMA,
    )
    return _publish(table, path, metadata, limits, delta=("series", "time", "definition", "raw", "quality"))


def write_rollup(path: Path, rollup: Rollup, metadata: Mapping[str, str], limits: FileLimits) -> int:
    """Write merged roll-up parts; returns the size in bytes."""
    table = pa.Table.from_arrays([pa.array(getattr(rollup, f.name)) for f in fields(Rollup)], schema=ROLLUP_SCHEMA)
    delta = ("series", "definition", "bucket_ns", "count", "bad", "last_ns")
    return _publish(table, path, metadata, limits, delta=delta, dictionary=("minimum", "maximum", "last"))


@dataclass(frozen=True, slots=True, eq=False)
class FrameColumns:
    """Raw frames of one vehicle with the names of their buses."""

    frames: FrameBatch
    bus_names: tuple[str, ...]  # FrameBatch.bus points here

    def sorted(self) -> FrameColumns:
        """By (bus, identifier, time): equal identifiers together compress best."""
        f = self.frames
        return FrameColumns(f.take(np.lexsort((f.timestamp_ns, f.can_id, f.bus))), self.bus_names)


def write_frames(path: Path, columns: FrameColumns, metadata: Mapping[str, str], limits: FileLimits) -> int:
    """Write raw frames; returns the size in bytes."""
    f = columns.frames
    payload = [row[:length].tobytes() for row, length in zip(f.data, f.length, strict=True)]
    names = np.array(columns.bus_names or ("",), object)
    table = pa.Table.from_arrays(
        [
            pa.array(f.timestamp_ns),
            pa.array(names[f.bus], pa.string()),
            pa.array(f.can_id.astype(np.int64)),
            pa.array(f.flags.astype(np.int32)),
            pa.array(payload, pa.binary()),
            pa.array(f.length.astype(np.int32)),
        ],
        schema=FRAME_SCHEMA,
    )
    dictionary = ("bus", "flags", "length", "data")
    return _publish(table, path, metadata, limits, delta=("time_ns", "can_id"), dictionary=dictionary)


_T = TypeVar("_T", bound=np.generic)


def _array(table: pa.Table, name: str, dtype: type[_T]) -> NDArray[_T]:
    array: NDArray[_T] = table.column(name).to_numpy().astype(dtype, copy=False)
    return array


def read_samples(
    path: Path,
    resolution_ns: int,
    *,
    series: Sequence[int] | None = None,
    from_ns: int | None = None,
    to_ns: int | None = None,
) -> Columns:
    """Samples of a file, optionally of some series and with ``from_ns <= time < to_ns``.

    Raises:
        FileNotFoundError: the file was merged or deleted meanwhile; list the files again.
    """
    conditions: list[tuple[str, str, object]] = []
    if series is not None:
        conditions.append(("series", "in", sorted(set(series))))
    if from_ns is not None:
        conditions.append(("time", ">=", -(-from_ns // resolution_ns)))
    if to_ns is not None:
        conditions.append(("time", "<", -(-to_ns // resolution_ns)))
    table = pq.read_table(path, filters=conditions or None, use_threads=False, partitioning=None)
    return Columns(
        _array(table, "time", np.int64) * resolution_ns,
        _array(table, "series", np.int32),
        _array(table, "definition", np.int32),
        _array(table, "raw", np.int64),
        _array(table, "quality", np.uint8),
    )


def read_rollup(
    path: Path, *, series: Sequence[int] | None = None, from_ns: int | None = None, to_ns: int | None = None
) -> Rollup:
    """Parts of a file whose bucket starts in ``[from_ns, to_ns)``; ``FileNotFoundError`` as above."""
    conditions: list[tuple[str, str, object]] = []
    if series is not None:
        conditions.append(("series", "in", sorted(set(series))))
    if from_ns is not None:
        conditions.append(("bucket_ns", ">=", from_ns))
    if to_ns is not None:
        conditions.append(("bucket_ns", "<", to_ns))
    table = pq.read_table(path, filters=conditions or None, use_threads=False, partitioning=None)
    return Rollup(**{f.name: table.column(f.name).to_numpy() for f in fields(Rollup)})


def read_frames(path: Path, *, from_ns: int | None = None, to_ns: int | None = None) -> FrameColumns:
    """Raw frames of a file with ``from_ns <= time < to_ns``; ``FileNotFoundError`` as above."""
    conditions: list[tuple[str, str, object]] = []
    if from_ns is not None:
        conditions.append(("time_ns", ">=", from_ns))
    if to_ns is not None:
        conditions.append(("time_ns", "<", to_ns))
    table = pq.read_table(path, filters=conditions or None, use_threads=False, partitioning=None)
    frames = FrameBatch.empty(table.num_rows)
    names: dict[str, int] = {}
    frames.timestamp_ns[:] = _array(table, "time_ns", np.int64)
    frames.bus[:] = [names.setdefault(name, len(names)) for name in table.column("bus").to_pylist()]
    frames.can_id[:] = _array(table, "can_id", np.uint32)
    frames.flags[:] = _array(table, "flags", np.uint8)
    frames.length[:] = _array(table, "length", np.uint8)
    for i, payload in enumerate(table.column("data").to_pylist()):
        frames.data[i, : len(payload)] = np.frombuffer(payload, np.uint8)
    return FrameColumns(frames, tuple(names))


def read_metadata(path: Path) -> tuple[str, int, dict[int, Definition]]:
    """Vehicle, resolution and definitions as the file itself tells them; to rebuild a lost database."""
    metadata = pq.read_metadata(path).metadata
    raw = msgspec.json.decode(
        zlib.decompress(base64.b64decode(metadata[b"outrider.definitions"])), type=dict[str, Definition]
    )
    return (
        metadata[b"outrider.vehicle"].decode(),
        int(metadata[b"outrider.resolution_ns"]),
        {int(number): definition for number, definition in raw.items()},
    )
