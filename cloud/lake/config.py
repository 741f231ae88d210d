"""Every limit of the lake in one value; what operators may set comes from the configuration file."""

from __future__ import annotations

from dataclasses import dataclass

from cloud.config import CloudConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class LakeConfig:
    """When batches become files, how files grow, and how long each tier stays (0 days: for ever)."""

    compact_interval_s: float = 5.0  # how often the background task looks
    compact_after_s: float = 120.0  # a vehicle's oldest waiting batch is at most this old …
    compact_items: int = 500_000  # … or this many items wait
    max_items_per_round: int = 4_000_000  # decoded at once, per vehicle; bounds memory (about 60 B each)
    max_batches_per_round: int = 256
    max_days_per_batch: int = 64  # a batch whose times spread over more days is a dead letter
    merge_interval_s: float = 60.0
    merge_files: int = 4  # small files of one vehicle, tier and day that are folded into one
    merge_max_rows: int = 5_000_000  # a file grows to at most this
    merge_frames_max_rows: int = 500_000
    row_group_rows: int = 131_072
    compression_level: int = 9
    raw_days: float = 90.0
    minute_days: float = 400.0
    hour_days: float = 0.0
    frames_days: float = 30.0
    events_days: float = 400.0
    retention_interval_s: float = 3_600.0
    cache_bytes: int = 64 * 1024 * 1024  # decoded batches that wait for compaction, kept for queries

    @staticmethod
    def of(config: CloudConfig) -> LakeConfig:
        """The lake's limits under a configuration file."""
        lake = config.lake
        return LakeConfig(
            compact_interval_s=lake.compact_interval_s,
            compact_after_s=lake.compact_after_s,
            compact_items=lake.compact_items,
            max_batches_per_round=lake.compact_batches,
            merge_interval_s=lake.merge_interval_s,
            merge_files=max(2, lake.merge_min_files),
            merge_max_rows=lake.max_file_rows,
            compression_level=lake.compression_level,
            raw_days=lake.raw_days,
            minute_days=lake.minute_days,
            hour_days=lake.hour_days,
            frames_days=lake.black_box_days,
            events_days=lake.events_days,
            retention_interval_s=lake.retention_interval_s,
        )
