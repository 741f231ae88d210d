"""The parts of fleet diagnostics, connected."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from cloud.clock import Clock
from cloud.config import CloudConfig
from cloud.db import Database
from cloud.diagnostics.delivery import Delivery
from cloud.diagnostics.faults import FaultKeeper
from cloud.diagnostics.jobs import Jobs
from cloud.diagnostics.queries import FaultQueries
from cloud.diagnostics.results import JobResults
from cloud.diagnostics.texts import FaultTexts
from cloud.identity.enrolment import Enrolment
from cloud.live.hub import Hub

ALL = ""
#: What is new: ("faults", vehicle) or ("job", its number).
News = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetDiagnostics:
    """Handlers and background tasks get it as ``services.diagnostics``."""

    keeper: FaultKeeper
    queries: FaultQueries
    texts: FaultTexts
    jobs: Jobs
    delivery: Delivery
    results: JobResults
    hub: Hub[News, News]  # by vehicle, and ``ALL``
    heartbeat_s: float

    @staticmethod
    def build(db: Database, clock: Clock, config: CloudConfig, enrolment: Enrolment) -> FleetDiagnostics:
        """Connect the parts; touches no file."""
        texts = FaultTexts(db, clock)
        return FleetDiagnostics(
            keeper=FaultKeeper(db, clock, config.diagnostics),
            queries=FaultQueries(db, texts),
            texts=texts,
            jobs=Jobs(db, clock, config.diagnostics),
            delivery=Delivery(db, clock, enrolment),
            results=JobResults(db, texts),
            hub=Hub(clients_max=config.live.clients_max, entries_max=config.live.client_queue_max),
            heartbeat_s=config.live.heartbeat_s,
        )

    def tell_faults(self, vehicle_id: str) -> None:
        """Faults of a vehicle have changed."""
        self._tell(("faults", vehicle_id), vehicle_id)

    def tell_job(self, job_id: int, vehicle_id: str = ALL) -> None:
        """A job has moved."""
        self._tell(("job", str(job_id)), vehicle_id)

    def _tell(self, news: News, vehicle_id: str) -> None:
        for topic in {ALL, vehicle_id}:
            self.hub.publish(topic, [(news, news)])

    async def erase(self, vehicle_id: str) -> None:
        """Forget a vehicle: faults, history, orders, results."""
        await self.jobs.erase(vehicle_id)
        await self.keeper.erase(vehicle_id)

    def metrics(self) -> Iterable[Metric]:
        """For Prometheus."""
        told = self.keeper.statistics
        counters = {
            "outrider_faults_reports": (told.reports, "Reports of trouble codes taken"),
            "outrider_faults_repeated": (told.repeated, "Reports that were known already"),
            "outrider_faults_malformed": (told.malformed, "Events of kind dtc that are no report"),
            "outrider_faults_too_many": (told.too_many, "Reports of more faults than are kept of a vehicle"),
            "outrider_faults_late": (told.late, "Reports taken out of the lake, not as they came"),
        }
        for name, (value, text) in counters.items():
            yield CounterMetricFamily(name, text, value=value)
        yield GaugeMetricFamily("outrider_faults_clients", "Open event streams", value=self.hub.clients)
