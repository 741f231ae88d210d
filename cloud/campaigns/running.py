"""The campaigns of a cloud, connected, and the background work that moves them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from cloud.campaigns.desk import CampaignDesk
from cloud.campaigns.engine import CampaignEngine
from cloud.campaigns.forecast import Forecaster
from cloud.clock import Clock
from cloud.config import CloudConfig
from cloud.db import Database
from cloud.live.hub import Hub
from cloud.log import get_logger

if TYPE_CHECKING:
    from cloud.services import Services

ALL = ""
log = get_logger("cloud.campaigns")


@dataclass(slots=True)
class TickStatistics:
    """What the engine has done since the start."""

    ticks: int = 0
    steps: int = 0
    last_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetCampaigns:
    """Handlers and the background task get it as ``services.campaigns``."""

    engine: CampaignEngine
    desk: CampaignDesk
    forecaster: Forecaster
    hub: Hub[str, str]  # by campaign number, and ``ALL``: the campaign whose ``mark`` is another one
    tick_s: float
    heartbeat_s: float
    statistics: TickStatistics = field(default_factory=TickStatistics)

    @staticmethod
    def build(db: Database, clock: Clock, config: CloudConfig) -> FleetCampaigns:
        """Connect the parts; touches no file."""
        engine = CampaignEngine(db, clock, config.campaigns)
        return FleetCampaigns(
            engine=engine,
            desk=CampaignDesk(db, clock, config.campaigns, engine),
            forecaster=Forecaster(db, clock, config.campaigns),
            hub=Hub(clients_max=config.live.clients_max, entries_max=config.live.client_queue_max),
            tick_s=config.campaigns.tick_s,
            heartbeat_s=config.live.heartbeat_s,
        )

    def tell(self, campaign_id: int) -> None:
        """A campaign has moved."""
        name = str(campaign_id)
        for topic in (ALL, name):
            self.hub.publish(topic, [(name, name)])

    async def tick(self) -> bool:
        """One round; True when something moved."""
        begun_s = asyncio.get_running_loop().time()
        moved = await self.engine.tick()
        for campaign_id in moved:
            self.tell(campaign_id)
        told = self.statistics
        told.ticks, told.steps = told.ticks + 1, told.steps + len(moved)
        told.last_s = asyncio.get_running_loop().time() - begun_s
        return bool(moved)

    def metrics(self) -> Iterable[Metric]:
        """For Prometheus."""
        told = self.statistics
        yield CounterMetricFamily("outrider_campaigns_ticks", "Rounds of the campaign engine", value=told.ticks)
        yield CounterMetricFamily("outrider_campaigns_steps", "Campaigns moved by it", value=told.steps)
        yield GaugeMetricFamily("outrider_campaigns_tick_seconds", "Duration of the last round", value=told.last_s)


@asynccontextmanager
async def campaigns_lifespan(services: Services) -> AsyncIterator[None]:
    """Enter eraser and metrics, and move campaigns until the service ends."""
    campaigns = services.campaigns
    services.erasers.append(campaigns.desk.erase)
    services.metric_sources.append(campaigns.metrics)

    async def run() -> None:
        while True:
            moved = False
            try:
                moved = await campaigns.tick()
            except Exception as error:  # a background task must not end the service
                log.error("campaign_tick_failed", exc_info=error)
            # While slices are being assigned the next one follows soon, with room for others to write in between.
            await asyncio.sleep(min(0.2, campaigns.tick_s) if moved else campaigns.tick_s)

    async def end_streams() -> None:
        await services.stopping.wait()
        campaigns.hub.close()

    tasks = [asyncio.create_task(run()), asyncio.create_task(end_streams())]
    try:
        yield
    finally:
        campaigns.hub.close()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
