"""The parts of the update service, connected."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from cloud.auth.audit import Actor, record
from cloud.clock import Clock
from cloud.config import CloudConfig
from cloud.db import Database
from cloud.ingest.limits import Buckets
from cloud.log import get_logger
from cloud.updates.assignments import Assignments
from cloud.updates.delta.build import DeltaFacts
from cloud.updates.delta.jobs import DeltaJobs
from cloud.updates.director import Director
from cloud.updates.images import Images
from cloud.updates.intake import Intake
from cloud.updates.keys import OnlineKey, OnlineKeys
from cloud.updates.model import AssignmentRow, ImageRow, ReleaseState
from cloud.updates.releases import Releases
from cloud.updates.repository import Repositories, RoleView
from cloud.updates.store import DiskImageStore, ImageStore

log = get_logger("cloud.updates")
RECENT_RELEASES = 5
DAY_NS = 86_400_000_000_000
#: Told of each assignment that ended by what its vehicle told.
EndListener = Callable[[AssignmentRow], Awaitable[None]]


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
    deltas: DeltaJobs
    requests: Buckets
    end_listeners: list[EndListener] = field(default_factory=list)
    roles: list[RoleView] = field(default_factory=list)  # as of the last look

    @staticmethod
    def build(db: Database, clock: Clock, config: CloudConfig) -> FleetUpdates:
        """Connect the parts; touches no file."""
        section = config.updates
        keys = OnlineKeys(config.path(section.keys))
        repositories = Repositories(db, clock, section, keys)
        store = DiskImageStore(config.path(section.directory), min_free_bytes=config.storage.min_free_bytes)
        images = Images(db, clock, section, store, repositories)
        director = Director(db, clock, section, keys, repositories)

        async def delta_done(base: ImageRow, target: ImageRow, path: Path, facts: DeltaFacts) -> object:
            made = await images.add_delta(base, target, path)
            if made is not None:
                await director.offer_again(base.sha256, target.id)
            return made

        deltas = DeltaJobs(
            db, clock, config.path(section.directory) / "deltas", open_image=store.local, on_done=delta_done
        )
        return FleetUpdates(
            config=config,
            db=db,
            clock=clock,
            keys=keys,
            store=store,
            repositories=repositories,
            images=images,
            releases=Releases(db, clock),
            director=director,
            intake=Intake(db, clock, section),
            assignments=Assignments(db, clock),
            deltas=deltas,
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
        pairs = await self.releases.delta_pairs(release_id, self.config.updates.max_deltas_per_image)
        for base_id, target_id in pairs:
            await self.deltas.ensure(base_id, target_id)
        return len(pairs)

    async def want_recent_deltas(self) -> None:
        """The same for the newest published releases: vehicles have come, or it was published elsewhere."""
        for release in (await self.releases.list(RECENT_RELEASES, 0, ReleaseState.PUBLISHED))[0]:
            await self.want_deltas(release.id)

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
