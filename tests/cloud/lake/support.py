"""A lake on a temporary folder, fed with batches as ingest would store them."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import numpy as np

from cloud.clock import ManualClock
from cloud.db import Database
from cloud.lake.catalog import Catalog
from cloud.lake.columns import Columns
from cloud.lake.compactor import Compactor
from cloud.lake.config import LakeConfig
from cloud.lake.reader import BatchReader
from cloud.lake.store import Lake
from cloud.spool import BatchRow, BatchState, SqliteBatchSpool
from cloud.spool.deadletters import DeadLetters
from gateway.wire.codec import decode_batch, encode_batch, read_header
from gateway.wire.frames import FrameBatch
from gateway.wire.manifest import Kind, Manifest, Message, Signal
from gateway.wire.samples import Event, SampleBlock

T0_NS = 1_760_000_000_000_000_000  # 2025-10-09T08:53:20Z
SECOND_NS = 1_000_000_000
MS_NS = 1_000_000
DAY_NS = 86_400 * SECOND_NS


def signal(name: str, start: int = 0, **changes: object) -> Signal:
    """An unsigned 16-bit signal with scale 0.5, changed as told."""
    plain = Signal(
        name=name,
        start=start,
        length=16,
        big_endian=False,
        kind=Kind.UNSIGNED,
        scale=0.5,
        offset=0.0,
        minimum=None,
        maximum=None,
        unit="km/h",
        labels={},
        is_multiplexer=False,
        mux=(),
    )
    return msgspec.structs.replace(plain, **changes)


def manifest_of(*signals: Signal, name: str = "test", bus: str = "powertrain", message: str = "Speed") -> Manifest:
    """One bus, one message with the given signals."""
    return Manifest(
        format=1,
        name=name,
        buses=(bus,),
        messages=(
            Message(
                name=message,
                bus=0,
                can_id=0x100,
                extended=False,
                fd=False,
                length=8,
                cycle_ms=100,
                pgn=None,
                sender="",
                comment="",
                signals=signals,
            ),
        ),
    )


TWO = manifest_of(signal("Vehicle"), signal("Mode", 16, scale=1.0, unit="", labels={0: "Off", 1: "On"}))


def block(rows: Sequence[tuple[int, int, int, int]]) -> SampleBlock:
    """Samples from ``(time_ns, signal, raw, quality)``, one row each, in order of time."""
    rows = sorted(rows, key=lambda row: (row[0], row[1]))
    n = len(rows)
    return SampleBlock(
        np.array([r[0] for r in rows], np.int64),
        np.zeros(n, np.int32),
        np.arange(n, dtype=np.int32),
        np.array([r[1] for r in rows], np.int32),
        np.array([r[2] for r in rows], np.int64),
        np.array([r[3] for r in rows], np.uint8),
    )


class Manifests:
    """Manifests by hash, as vehicles would have sent them."""

    def __init__(self, *manifests: Manifest) -> None:
        self.known = {m.hash.hex(): m for m in manifests}

    async def get(self, manifest_hash: str) -> Manifest | None:
        return self.known.get(manifest_hash)


class Rig:
    """A lake with its spool; ``store`` does what ingest does."""

    def __init__(self, folder: Path, manifests: Manifests, config: LakeConfig) -> None:
        self.folder = folder
        self.clock = ManualClock(T0_NS + 3_600 * SECOND_NS)
        self.config = config
        self.manifests = manifests
        self.sequence: dict[str, int] = {}
        self.build()

    def build(self) -> None:
        """All parts anew, as after a restart."""
        self.database = Database(self.folder / "cloud.db")
        self.dead_letters = DeadLetters(max_count=100, max_bytes=1 << 20)
        self.spool = SqliteBatchSpool(self.database, self.dead_letters)
        self.catalog = Catalog(self.database, self.manifests)
        self.reader = BatchReader(self.catalog, decode_batch, self.config)
        self.lake = Lake(self.database, self.folder / "lake", self.catalog, self.clock, self.config)
        self.compactor = Compactor(self.lake, self.spool, self.reader)

    async def open(self) -> None:
        await self.database.open()
        await self.lake.open()

    async def restart(self) -> None:
        """End without any clean-up and start again."""
        await self.database.close()
        self.build()
        await self.open()

    async def store(
        self,
        samples: Sequence[tuple[int, int, int, int]] = (),
        *,
        manifest: Manifest = TWO,
        vehicle: str = "CAR-1",
        frames: FrameBatch | None = None,
        events: tuple[Event, ...] = (),
        content: bytes | None = None,
        resolution_ns: int = MS_NS,
    ) -> int:
        """Store a batch of ``(time_ns, signal, raw, quality)``; returns its id."""
        return await self.store_block(
            block(samples),
            manifest=manifest,
            vehicle=vehicle,
            frames=frames,
            events=events,
            content=content,
            resolution_ns=resolution_ns,
        )

    async def store_block(
        self,
        samples: SampleBlock,
        *,
        manifest: Manifest = TWO,
        vehicle: str = "CAR-1",
        frames: FrameBatch | None = None,
        events: tuple[Event, ...] = (),
        content: bytes | None = None,
        resolution_ns: int = MS_NS,
    ) -> int:
        """Store a batch; ``content`` replaces its bytes. Returns its id."""
        self.sequence[vehicle] = sequence = self.sequence.get(vehicle, 0) + 1
        whole = encode_batch(
            stream="spool/normal",
            sequence=sequence,
            items_before=0,
            manifest_hash=manifest.hash,
            created_ns=self.clock.now_ns(),
            resolution_ns=resolution_ns,
            samples=samples,
            frames=frames,
            events=events,
        )
        header = read_header(whole)
        content = whole if content is None else content
        async with self.database.write() as session:
            row = BatchRow(
                vehicle_id=vehicle,
                stream=header.stream,
                sequence=sequence,
                received_ns=self.clock.now_ns(),
                manifest_hash=manifest.hash.hex(),
                items=header.items,
                first_ns=header.first_ns,
                last_ns=header.last_ns,
                content=content,
                content_bytes=len(content),
                digest=hashlib.sha256(content).digest(),
                state=BatchState.STORED,
            )
            session.add(row)
        return row.id

    async def raw(self, vehicle: str = "CAR-1") -> Columns:
        """All compacted samples, straight from the registered files."""
        from cloud.lake.parquet import read_samples

        async with self.database.read() as session:
            files = await self.lake.files(session, vehicle, "raw")
        return Columns.concatenate([read_samples(self.lake.root / f.path, f.resolution_ns) for f in files])

    def rows(self, columns: Columns) -> list[tuple[int, str, int, int]]:
        """Samples as a sorted list of ``(time, series name, raw, quality)``."""
        names = self.catalog.names
        return sorted(
            (int(t), names[int(s)], int(r), int(q))
            for t, s, r, q in zip(columns.time_ns, columns.series, columns.raw, columns.quality, strict=True)
        )


@asynccontextmanager
async def rig(folder: Path, *manifests: Manifest, config: LakeConfig | None = None) -> AsyncIterator[Rig]:
    """An open rig."""
    made = Rig(folder, Manifests(*(manifests or (TWO,))), config or LakeConfig())
    try:
        await made.open()
        yield made
    finally:
        await made.database.close()
