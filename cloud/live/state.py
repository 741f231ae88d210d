"""The live state: newest values per vehicle, and their streams.

Nothing is kept only here. What a vehicle's signals last said lies in the lake's table (updated by compaction) and in
the batches that still wait; the state of a vehicle someone asks for is built from both and then follows the batches as
they arrive. So a restart loses nothing, and a vehicle nobody looks at costs nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, defaultdict

import msgspec
from sqlalchemy import select

from cloud.clock import Clock
from cloud.config import Live
from cloud.db import Database
from cloud.lake.catalog import Catalog
from cloud.lake.columns import Columns
from cloud.lake.definitions import clean
from cloud.lake.pending import pending_batches
from cloud.lake.reader import BatchReader, ManifestMissing, UnreadableBatch
from cloud.lake.tables import VehicleSignalRow
from cloud.live.hub import Hub
from cloud.live.values import Latest, LatestValues
from cloud.spool.model import StoredBatch

log = logging.getLogger(__name__)
VEHICLES_MAX = 256  # vehicles whose state is in memory; the least recently asked for goes first
FLEET = ""


class LiveValue(msgspec.Struct, frozen=True):
    """A signal's newest value as people and programs read it."""

    signal: str
    time_ms: int  # UTC
    value: float | None  # physical; None where it is no finite number
    text: str  # the label, else the number with as many decimals as the signal has
    unit: str
    label: str
    raw: int
    quality: int
    stale_after_ms: int


class LiveState:
    """Newest values per vehicle. ``on_batch`` is a batch listener of ingest."""

    def __init__(self, database: Database, reader: BatchReader, clock: Clock, config: Live) -> None:
        self._database = database
        self._reader = reader
        self._catalog: Catalog = reader.catalog
        self._clock = clock
        self._config = config
        self.heartbeat_s = config.heartbeat_s
        self._vehicles: OrderedDict[str, LatestValues] = OrderedDict()
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.values_hub: Hub[int, LiveValue] = Hub(clients_max=config.clients_max, entries_max=config.client_queue_max)
        self.fleet_hub: Hub[str, str] = Hub(clients_max=config.clients_max, entries_max=config.client_queue_max)

    async def on_batch(self, batch: StoredBatch) -> None:
        """A batch became durable: tell those who watch."""
        self.fleet_hub.publish(FLEET, [(batch.vehicle_id, batch.vehicle_id)])
        if batch.vehicle_id not in self._vehicles and not self._locks[batch.vehicle_id].locked():
            self._forget_lock(batch.vehicle_id)
            return
        try:
            decoded = await self._reader.read(batch)
        except (UnreadableBatch, ManifestMissing):
            return  # the compactor deals with it
        async with self._locks[batch.vehicle_id]:
            self.fold(batch.vehicle_id, decoded.columns)

    def fold(self, vehicle_id: str, columns: Columns) -> None:
        """Take over newer values if the vehicle's state is in memory, and tell those who watch it."""
        values = self._vehicles.get(vehicle_id)
        if values is None:
            return
        changed = values.fold(columns)
        if changed and self.values_hub.watched(vehicle_id):
            self.values_hub.publish(vehicle_id, [(latest.series, self.describe(latest)) for latest in changed])

    async def latest(self, vehicle_id: str) -> list[LiveValue]:
        """The newest value of each signal of a vehicle, by signal name."""
        async with self._locks[vehicle_id]:
            values = self._vehicles.get(vehicle_id)
            if values is None:
                values = await self._load(vehicle_id)
                self._vehicles[vehicle_id] = values
            self._vehicles.move_to_end(vehicle_id)
            self._make_room()
            return sorted((self.describe(latest) for latest in values.all()), key=lambda v: v.signal)

    async def _load(self, vehicle_id: str) -> LatestValues:
        async with self._database.read() as session:
            rows = await session.scalars(select(VehicleSignalRow).where(VehicleSignalRow.vehicle_id == vehicle_id))
            values = LatestValues(Latest(r.series_id, r.last_ns, r.definition_id, r.raw, r.quality) for r in rows)
            async for batch in pending_batches(session, vehicle_id):
                try:
                    values.fold((await self._reader.read(batch)).columns)
                except (UnreadableBatch, ManifestMissing):
                    continue
        return values

    def _make_room(self) -> None:
        for vehicle_id in list(self._vehicles)[: max(0, len(self._vehicles) - VEHICLES_MAX)]:
            if not self.values_hub.watched(vehicle_id):
                del self._vehicles[vehicle_id]
                self._forget_lock(vehicle_id)

    def _forget_lock(self, vehicle_id: str) -> None:
        if not self._locks[vehicle_id].locked():
            del self._locks[vehicle_id]

    def describe(self, latest: Latest) -> LiveValue:
        """A sample in words."""
        definition = self._catalog.definitions[latest.definition]
        value = clean(definition.value(latest.raw))
        label = definition.label(latest.raw)
        text = label or ("not a number" if value is None else f"{value:,.{definition.digits}f}".replace(",", "\u202f"))
        cycle_s = (definition.cycle_ms or 0) / 1000
        return LiveValue(
            signal=definition.name,
            time_ms=latest.time_ns // 1_000_000,
            value=value,
            text=text,
            unit=definition.unit,
            label=label,
            raw=latest.raw,
            quality=latest.quality,
            stale_after_ms=int(max(self._config.stale_after_s, 10 * cycle_s) * 1000),
        )

    async def erase(self, vehicle_id: str) -> None:
        """Forget a vehicle."""
        self._vehicles.pop(vehicle_id, None)

    def close(self) -> None:
        """End all streams."""
        self.values_hub.close()
        self.fleet_hub.close()
