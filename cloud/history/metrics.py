"""The lake's and the live streams' Prometheus metrics. Tiers are the only label."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from cloud.lake.compactor import CompactorStatistics
from cloud.live.state import LiveState


def lake_metrics(statistics: CompactorStatistics, live: LiveState) -> Iterator[Metric]:
    """What the compactor counted, and what the lake held when it last looked."""
    counters: dict[str, tuple[float, str]] = {
        "outrider_lake_compacted_batches": (statistics.batches, "Batches moved from the spool into the lake"),
        "outrider_lake_compacted_samples": (statistics.samples, "Samples in them"),
        "outrider_lake_compaction_seconds": (statistics.seconds, "Time spent on compaction"),
        "outrider_lake_failures": (statistics.failures, "Rounds of a vehicle that failed; they are tried again"),
        "outrider_lake_dead_letters": (statistics.dead_letters, "Batches that could not be read or processed"),
        "outrider_lake_merged_files": (statistics.merged_files, "Small files that went into larger ones"),
    }
    for name, (value, text) in counters.items():
        yield CounterMetricFamily(name, text, value=value)
    yield GaugeMetricFamily(
        "outrider_lake_backlog_batches", "Batches that wait for compaction", value=statistics.backlog_batches
    )
    files = GaugeMetricFamily("outrider_lake_files", "Files of the lake", labels=["tier"])
    size = GaugeMetricFamily("outrider_lake_bytes", "Bytes of these files", labels=["tier"])
    for tier, count in statistics.files.items():
        files.add_metric([tier], count)
        size.add_metric([tier], statistics.file_bytes[tier])
    yield files
    yield size
    yield GaugeMetricFamily(
        "outrider_live_clients", "Open event streams", value=live.values_hub.clients + live.fleet_hub.clients
    )
