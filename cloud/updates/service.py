"""The parts of the update service, connected."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from cloud.auth.audit import Actor, record
from cloud.clock import Clock
from cloud.config import CloudConfig
from cloud.db import Database
from cloud.ingest.limits import Buckets
from cloud.log import get_logger
from cloud.updates.assignments import Assignments
from cloud.updates.director import Director
from cloud.updates.images import Images
from cloud.updates.intake import Intake
from cloud.updates.keys import OnlineKey, OnlineKeys
from cloud.updates.model import AssignmentRow
from cloud.updates.releases import Releases
from cloud.updates.repository import Repositories, RoleView
from cloud.updates.store import DiskImageStore, ImageStore

log = get_logger("cloud.updates")
DAY_NS = 86_400_000_000_000
#: Told of each assignment that ended by what its vehicle told.
EndListener = Callable[[AssignmentRow], Awaitable[None]]
#: Asked for deltas between images, by id (base, target).
DeltaMaker = Callable[[int, int], Awaitable[object]]


@dataclass(kw_only=True)
class FleetUpdates:
    """Handlers and background tasks get it as ``services.updates``."""

    config: CloudConfig
    db: Database
    clock: Clock
    keys: OnlineKeys
    store: ImageStore
    repositories: Repositories
    images: Images
    releases: Releases
    director: Director
    intake: Intake
    assignments: Assignments
    requests: Buckets
    end_listeners: list[EndListener] = field(default_factory=list)
    make_delta: DeltaMaker | None = None
    roles: list[RoleView] = field(default_factory=list)  # as of the last look

    @staticmethod
    def build(db: Database, clock: Clock, config: CloudConfig) -> FleetUpdates:
        """Connect the parts; touches no file."""
        section = config.updates
        keys = OnlineKeys(config.path(section.keys))
        repositories = Repositories(db, clock, section, keys)
        store = DiskImageStore(config.path(section.directory), min_free_bytes=config.storage.min_free_bytes)
        return FleetUpdates(
            config=config,
            db=db,
            clock=clock,
            keys=keys,
            store=store,
            repositories=repositories,
            images=Images(db, clock, section, store, repositories),
            releases=Releases(db, clock),
            director=Director(db, clock, section, keys, repositories),
            intake=Intake(db, clock, section),
            assignments=Assignments(db, clock),
            requests=Buckets(section.requests_per_s, section.requests_burst),
        )

    async def add_key(self, role: str, actor: Actor) -> OnlineKey:
        """Make one more online key. Raises ``NotFound``: no such role."""
        made = await asyncio.to_thread(self.keys.add, role)
        async with self.db.write() as session:
            record(session, actor, self.clock.now_ns(), "updates.online_key", role, str(made.key["keyid"]))
        return made

    async def want_deltas(self, release_id: int) -> int:
        """Ask for deltas from what vehicles run to the images of a release; how many."""
        if self.make_delta is None:
            return 0
        pairs = await self.releases.delta_pairs(release_id, self.config.updates.max_deltas_per_image)
        for base_id, target_id in pairs:
            await self.make_delta(base_id, target_id)
        return len(pairs)

    async def tell_ended(self, assignment: AssignmentRow | None) -> None:
        """Pass on that an assignment has ended."""
        for listener in self.end_listeners if assignment is not None else ():
            await listener(assignment)  # type: ignore[arg-type]  # not None: the loop would be empty

    async def look(self) -> None:
        """Make what expires anew; warn of what only people can."""
        await self.repositories.refresh()
        self.roles = await self.repositories.view()
        limit_ns = self.clock.now_ns() + int(self.config.updates.warn_days * DAY_NS)
        for role in self.roles:
            if not role.is_online and role.expires_ns < limit_ns:
                log.warning("offline_metadata_expires", repository=role.repository, role=role.role)

    def metrics(self) -> Iterable[Metric]:
        """For Prometheus."""
        told = self.intake.statistics
        counters = {
            "outrider_updates_manifests": (told.manifests, "Vehicle manifests accepted"),
            "outrider_updates_manifests_refused": (told.refused, "Vehicle manifests dropped"),
            "outrider_updates_reports": (told.reports, "Progress reports taken"),
            "outrider_updates_attacks": (told.attacks, "Manifests that tell of an attack"),
        }
        for name, (value, text) in counters.items():
            yield CounterMetricFamily(name, text, value=value)
        left = GaugeMetricFamily(
            "outrider_updates_metadata_left_seconds", "Until a role's metadata expires", labels=["repository", "kind"]
        )
        now_ns = self.clock.now_ns()
        least: dict[tuple[str, str], float] = {}
        for role in self.roles:
            key = (role.repository, "online" if role.is_online else "offline")
            least[key] = min(least.get(key, 1e18), (role.expires_ns - now_ns) / 1e9)
        for labels, seconds in least.items():
            left.add_metric(labels, seconds)
        yield left
