"""Prometheus metrics. Labels have a small closed set of values; a vehicle is never one."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from cloud.services import Services

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class _ServiceCollector:
    """Reads the statistics the parts keep, at the moment somebody asks."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterable[Metric]:
        writer, listeners = self._services.writer.statistics, self._services.listeners.statistics
        counters = {
            "outrider_ingest_batches": (writer.batches, "Batches stored durably"),
            "outrider_ingest_items": (writer.items, "Samples, raw frames and events in them"),
            "outrider_ingest_bytes": (writer.content_bytes, "Bytes of stored batches"),
            "outrider_ingest_duplicates": (writer.duplicates, "Uploads that were here already"),
            "outrider_ingest_conflicts": (writer.conflicts, "Uploads with other content under a known sequence"),
            "outrider_ingest_refused": (writer.refused, "Uploads refused for a full queue or a torn stream"),
            "outrider_ingest_transactions": (writer.transactions, "Group commits"),
            "outrider_ingest_failures": (writer.failures, "Group commits the database refused"),
            "outrider_listener_skipped": (listeners.skipped, "Batches not shown live because a queue was full"),
            "outrider_listener_failed": (listeners.failed, "Errors of live listeners"),
        }
        for name, (value, text) in counters.items():
            yield CounterMetricFamily(name, text, value=value)
        yield GaugeMetricFamily("outrider_ingest_queue", "Uploads that wait", value=self._services.writer.depth)
        yield GaugeMetricFamily("outrider_downlinks", "Connected downlinks", value=len(self._services.downlinks))
        for source in self._services.metric_sources:
            yield from source()


class Metrics:
    """One registry per application, so that two in one process do not meet."""

    def __init__(self, services: Services) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "outrider_http_requests", "Requests answered", ["port", "method", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "outrider_http_seconds", "Time to answer", ["port"], buckets=BUCKETS, registry=self.registry
        )
        self.registry.register(_ServiceCollector(services))

    def observer(self, port: str):  # type: ignore[no-untyped-def]  # see Tracing.Observer
        """What ``Tracing`` of one port reports to."""
        seconds = self._seconds.labels(port)
        cached: dict[tuple[str, int], Counter] = {}

        def observe(method: str, status: int, duration_s: float) -> None:
            key = (method if method in METHODS else "other", status // 100)
            counter = cached.get(key)
            if counter is None:
                counter = cached[key] = self._requests.labels(port, key[0], f"{key[1]}xx")
            counter.inc()
            seconds.observe(duration_s)

        return observe

    def render(self) -> bytes:
        """The text exposition."""
        return generate_latest(self.registry)
