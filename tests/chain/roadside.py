"""A real cloud and the real link components of a vehicle in one process, over TLS on loopback.

Everything between a stored batch and the cloud's database is the production code; only what fills the spool is not.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import numpy as np
from anyio import to_thread

from cloud.app import build_services
from cloud.auth.audit import CLI
from cloud.services import Services
from cloud.web.server import Addresses, serving
from gateway.link.backoff import Backoff
from gateway.link.checkin import CertificateKeeper, CheckInSender, Downlink, Wishes
from gateway.link.client import CloudClient, enrol
from gateway.link.identity import Identity, make_key_request
from gateway.link.kind import LinkKind
from gateway.link.manifests import ManifestShelf
from gateway.link.queue import BY_URGENCY, UploadQueue
from gateway.link.uplink import Uplink
from gateway.runtime import Component, HealthBoard, SystemClock
from gateway.spool import Spool, SpoolLimits
from gateway.telemetry.desk import SpoolDesk
from gateway.telemetry.ledger import LedgerKeeper
from gateway.wire.api import CheckIn, EnrolRequest
from gateway.wire.codec import encode_batch
from gateway.wire.manifest import Manifest
from gateway.wire.samples import SampleBlock
from tests.cloud.support import EPOCH_NS, make_block, make_config, make_manifest, make_pki

WAIT_S = 20.0
POLL_S = 0.02
SIGNALS = 4


async def until(what: str, is_true: Callable[[], bool | Awaitable[bool]], timeout_s: float = WAIT_S) -> None:
    """Wait for something to hold; fail by name."""
    with anyio.move_on_after(timeout_s):
        while True:
            answer = is_true()
            if answer if isinstance(answer, bool) else await answer:
                return
            await anyio.sleep(POLL_S)
    raise AssertionError(f"{what} did not happen within {timeout_s} s")


class RealCloud:
    """A cloud in a directory that can be stopped, started with other limits, and set back to an older state."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.authority = make_pki(directory)
        self._stack: AsyncExitStack | None = None
        self._ports: dict[str, dict[str, Any]] = {}
        self.services: Services
        self.addresses: Addresses

    async def start(self, **sections: dict[str, Any]) -> None:
        """Serve, on the ports of the first time; sections as in ``cloud.toml``."""
        merged = {name: {**self._ports.get(name, {}), **sections.get(name, {})} for name in {*self._ports, *sections}}
        merged.setdefault("lake", {"compact_interval_s": 3600.0})  # batches stay in the database, to be looked at
        self.services = build_services(make_config(self.directory, **merged))
        stack = AsyncExitStack()
        self.addresses = await stack.enter_async_context(serving(self.services))
        self._stack = stack
        for name, url in (("operator", self.addresses.operator_url), ("vehicle", self.addresses.vehicle_url)):
            self._ports[name] = {"port": int(url.rsplit(":", 1)[1])}

    async def stop(self) -> None:
        """Stop serving; idempotent."""
        if self._stack is not None:
            stack, self._stack = self._stack, None
            await stack.aclose()

    async def restart(self, **sections: dict[str, Any]) -> None:
        """Stop, and start with these limits."""
        await self.stop()
        await self.start(**sections)

    @property
    def vehicle_port(self) -> int:
        """Where vehicles knock."""
        return int(self._ports["vehicle"]["port"])

    @property
    def database(self) -> Path:
        """The database file."""
        return self.services.db.path

    def query(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Rows of the database. Reading only: a writer in the same loop would wait for itself."""
        with contextlib.closing(sqlite3.connect(self.database, timeout=10)) as db, db:
            return db.execute(statement, values).fetchall()

    async def change(self, statement: str, *values: object) -> None:
        """Change the database behind the service's back."""
        await to_thread.run_sync(lambda: self.query(statement, *values))

    def save(self) -> Path:
        """A copy of the database as of now."""
        copy = self.directory / "saved.db"
        copy.unlink(missing_ok=True)
        with (
            contextlib.closing(sqlite3.connect(self.database)) as source,
            contextlib.closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
        return copy

    async def restore(self, copy: Path, **sections: dict[str, Any]) -> None:
        """Come back from a backup."""
        await self.stop()
        for path in self.database.parent.glob(self.database.name + "*"):
            path.unlink()
        shutil.copy(copy, self.database)
        await self.start(**sections)

    def batches(self, vehicle: str) -> list[tuple[str, int]]:
        """(stream, sequence) held of a vehicle."""
        rows = self.query("SELECT stream, sequence FROM batches WHERE vehicle_id=? ORDER BY id", vehicle)
        return [(str(stream).partition("/")[2], int(sequence)) for stream, sequence in rows]

    def duplicates(self, vehicle: str) -> int:
        """How many uploads were of a batch that was there."""
        return int(self.query("SELECT coalesce(sum(duplicates), 0) FROM streams WHERE vehicle_id=?", vehicle)[0][0])

    def states(self, vehicle: str) -> set[str]:
        """The states of its batches."""
        return {str(row[0]) for row in self.query("SELECT DISTINCT state FROM batches WHERE vehicle_id=?", vehicle)}

    async def token(self, vehicle: str) -> str:
        """A one-time token for an enrolment."""
        if not await self.services.vehicles.exists(vehicle):
            await self.services.vehicles.add(vehicle, CLI)
        return (await self.services.enrolment.make_token(vehicle, CLI)).token

    async def enrol(self, vehicle: str, directory: Path) -> Identity:
        """What ``outrider gateway enrol`` does."""
        request = make_key_request(vehicle)
        message = EnrolRequest(token=await self.token(vehicle), vehicle=vehicle, csr_pem=request.csr_pem)
        reply = await enrol(self.addresses.operator_url, message, ca_file=None, timeout_s=10)
        identity = Identity(directory)
        identity.store(vehicle, request, reply)
        return identity


def _noise(rows: int, sequence: int) -> SampleBlock:
    """Samples that do not compress: about a byte each."""
    block = make_block(rows, first_ns=EPOCH_NS + sequence * 1_000_000_000, signals=SIGNALS)
    return replace(block, raw=np.random.default_rng(sequence).integers(0, 256, len(block), np.int64))


class LinkedVehicle:
    """A spool and everything that carries its batches to the cloud."""

    def __init__(
        self,
        directory: Path,
        *,
        vehicle: str = "VIN1",
        url: str | None = None,
        manifest: Manifest | None = None,
        limits: SpoolLimits | None = None,
        kind_file: Path | None = None,
        window: int = 4,
        check_in_s: float = 0.2,
        timeout_s: float = 5.0,
        identity_pause_s: float = 0.2,
        parts: tuple[str, ...] = ("uplink", "check-in", "downlink"),
    ) -> None:
        self.name, self.manifest, self.clock = vehicle, manifest or make_manifest(), SystemClock()
        self.identity = Identity(directory / "identity")
        self.spool = Spool.open(directory / "spool", limits)
        self.desk = SpoolDesk(self.spool)
        self.health = HealthBoard()
        self.keeper = LedgerKeeper(
            ["can0"], self.spool.last_state(), sum(t.stored for t in self.spool.totals().values()), kernel_boot=""
        )
        self.shelf = ManifestShelf(directory / "spool", self.manifest.hash.hex(), self.manifest.to_bytes())
        self.shelf.keep(is_drained=False)
        self.client = CloudClient(self.identity, url or self.identity.facts().cloud_url, timeout_s, vehicle)
        self.queue = UploadQueue(BY_URGENCY, self.desk.next_pending)
        self.uplink = Uplink(
            client=self.client,
            desk=self.desk,
            queue=self.queue,
            keeper=self.keeper,
            backoff=self._backoff(),
            manifest_backoff=self._backoff(),
            health=self.health,
            clock=self.clock,
            is_allowed=LinkKind(kind_file, self.clock).allows,
            shelf=self.shelf,
            window=window,
            drain_s=5.0,
            identity_pause_s=identity_pause_s,
        )
        self.wishes = Wishes(self.uplink, self.desk, self.clock)
        self.check_in = CheckInSender(
            client=self.client,
            report=self.report,
            wishes=self.wishes,
            uplink=self.uplink,
            backoff=self._backoff(),
            health=self.health,
            clock=self.clock,
            period_s=check_in_s,
        )
        self.downlink = Downlink(
            client=self.client, wishes=self.wishes, backoff=self._backoff(), health=self.health, clock=self.clock
        )
        self.certificate = CertificateKeeper(
            client=self.client,
            identity=self.identity,
            vehicle=vehicle,
            health=self.health,
            clock=self.clock,
            period_s=0.1,
        )
        everything: tuple[Component, ...] = (self.uplink, self.check_in, self.downlink, self.certificate)
        self._components = [component for component in everything if component.name in parts]

    @staticmethod
    def _backoff() -> Backoff:
        return Backoff(0.05, 0.2, lambda: 0.5)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[LinkedVehicle]:
        """Components run while the block lasts; the spool is closed after it, cleanly."""
        try:
            async with anyio.create_task_group() as tg:
                for component in self._components:
                    await tg.start(lambda task_status, c=component: c.run(task_status=task_status))
                try:
                    yield self
                finally:
                    tg.cancel_scope.cancel()
        finally:
            await self.close()

    async def close(self) -> None:
        """End without having run."""
        await self.client.aclose()
        await self.desk.close()

    async def store(self, stream: str, count: int = 1, *, rows: int = 3, manifest: Manifest | None = None) -> None:
        """Store batches of ``4 * rows`` samples."""
        manifest_hash = (manifest or self.manifest).hash
        items = SIGNALS * rows

        def work(spool: Spool) -> None:
            sequence = spool.next_sequence(stream)
            self.keeper.select_items(items)
            content = encode_batch(
                stream=f"{spool.spool_id}/{stream}",
                sequence=sequence,
                items_before=spool.stored_items(stream),
                manifest_hash=manifest_hash,
                created_ns=EPOCH_NS,
                samples=_noise(rows, sequence),
            )
            spool.append(stream, content, items, self.keeper.persisted())
            self.keeper.store_items(items)

        for _ in range(count):
            await self.desk.store(work)

    async def report(self, is_last: bool) -> CheckIn:
        """As ``gateway.reporter`` makes it, without buses and schemes."""
        totals = await self.desk.totals()
        return CheckIn(
            software="test",
            boot_id="boot",
            at_ns=self.clock.utc_ns(),
            started_ns=EPOCH_NS,
            manifest_hash=self.manifest.hash.hex(),
            ledger=self.keeper.ledger(self.clock.utc_ns(), totals),
            evicted=await self.desk.evicted(),
            not_found=self.uplink.not_found(),
            health=self.health.summary(),
            stopping=is_last,
            spool_id=self.desk.spool_id,
        )

    async def pending(self) -> int:
        """Items that wait."""
        return sum(total.pending for total in (await self.desk.totals()).values())

    async def is_empty(self) -> bool:
        """Whether the cloud has acknowledged everything."""
        return await self.pending() == 0

    async def delivered(self, timeout_s: float = WAIT_S) -> None:
        """Wait until the spool has nothing pending; the identities must hold then."""
        await until("delivery of everything", self.is_empty, timeout_s)
        assert self.keeper.ledger(0, await self.desk.totals()).unexplained == 0

    def says(self, component: str) -> str:
        """A component's health."""
        return self.health.summary().get(component, "")
