"""Decoding with cantools, the independent reference of these tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import cantools
import numpy as np
from numpy.typing import NDArray

from dbc.frames import ERROR, FrameBatch
from simulator.buses import BUS_NAMES, BUSES

TIRE_SENT, TIRE_WRITTEN = 0x18FEF433, 0x18FEF4FE


@cache
def database(bus: str) -> Any:
    """cantools' view of a bus."""
    return cantools.database.load_file(next(b.dbc for b in BUSES if b.name == bus), strict=True)


def message_of(bus: str, can_id: int) -> Any:
    """cantools' message of an identifier; raises ``KeyError`` for one the DBC does not have."""
    return database(bus).get_message_by_frame_id(TIRE_WRITTEN if can_id == TIRE_SENT else can_id)


def decoded(frames: FrameBatch, name: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(timestamp, physical values by signal) of each frame of ``bus.Message``."""
    bus, _, message_name = name.partition(".")
    message = database(bus).get_message_by_name(message_name)
    can_id = TIRE_SENT if message.frame_id == TIRE_WRITTEN else message.frame_id
    wanted = (frames.bus == BUS_NAMES.index(bus)) & (frames.can_id == can_id) & (frames.flags & ERROR == 0)
    for i in np.flatnonzero(wanted).tolist():
        payload = frames.data[i, : frames.length[i]].tobytes()
        yield int(frames.timestamp_ns[i]), message.decode(payload, decode_choices=False)


def series(frames: FrameBatch, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times in seconds and values of ``bus.Message.Signal``."""
    message, _, signal = name.rpartition(".")
    rows = [(time_ns / 1e9, float(values[signal])) for time_ns, values in decoded(frames, message) if signal in values]
    table = np.array(rows).reshape(-1, 2)
    return table[:, 0], table[:, 1]
