"""Frames of several buses in one order. Pure."""

from __future__ import annotations

import numpy as np

from dbc.frames import FrameBatch


def merge_by_time(batch: FrameBatch) -> FrameBatch:
    """The frames ordered by time across buses; the order within a bus stays, even where its clock went back."""
    times = batch.timestamp_ns
    if len(times) < 2 or bool((times[1:] >= times[:-1]).all()):
        return batch
    buses = np.unique(batch.bus)
    if len(buses) == 1:
        return batch
    keys = np.empty_like(times)
    for bus in buses:
        rows = batch.bus == bus
        keys[rows] = np.maximum.accumulate(times[rows])
    return batch.take(np.argsort(keys, kind="stable"))
