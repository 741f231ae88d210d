"""The live state follows the samples' own times, survives restarts, and its streams are bounded."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.config import Live
from cloud.errors import TooMany
from cloud.lake.columns import Columns
from cloud.live.hub import Hub, Mailbox
from cloud.live.state import LiveState
from cloud.live.values import LatestValues
from tests.cloud.lake.support import MS_NS, SECOND_NS, T0_NS, Rig, manifest_of, rig, signal

samples = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 3), st.integers(-9, 9)), max_size=20)


def columns_of(rows: list[tuple[int, int, int]]) -> Columns:
    n = len(rows)
    return Columns(
        np.array([t for t, _, _ in rows], np.int64),
        np.array([s for _, s, _ in rows], np.int32),
        np.ones(n, np.int32),
        np.array([r for _, _, r in rows], np.int64),
        np.zeros(n, np.uint8),
    ).sorted()


@given(batches=st.lists(samples, max_size=4), data=st.data())
def test_newest_by_time_in_any_order_of_arrival_and_repetition(
    batches: list[list[tuple[int, int, int]]], data: st.DataObject
) -> None:
    values = LatestValues()
    for batch in data.draw(st.permutations([*batches, *batches])):
        values.fold(columns_of(batch))
    everything = [s for batch in batches for s in batch]
    newest = {series: max(t for t, s, _ in everything if s == series) for _, series, _ in everything}
    assert {v.series: v.time_ns for v in values.all()} == newest
    for value in values.all():
        assert (value.time_ns, value.series, value.raw) in everything


def live_of(r: Rig) -> LiveState:
    return LiveState(r.database, r.reader, r.clock, Live())


async def batches(r: Rig) -> list[Any]:
    return await r.spool.uncompacted(100)


def test_state_is_the_same_before_and_after_compaction_and_restart(tmp_path: Path) -> None:
    async def run() -> None:
        async with rig(tmp_path) as r:
            await r.store([(T0_NS, 0, 10, 0), (T0_NS, 1, 1, 0)])
            await r.store([(T0_NS - SECOND_NS, 0, 99, 0)])
            seen = [await live_of(r).latest("CAR-1")]
            await r.compactor.compact(everything=True)
            seen.append(await live_of(r).latest("CAR-1"))
            await r.restart()
            seen.append(await live_of(r).latest("CAR-1"))
            assert seen[0] == seen[1] == seen[2]
            assert [(v.signal, v.text, v.unit) for v in seen[0]] == [
                ("powertrain.Speed.Mode", "On", ""),
                ("powertrain.Speed.Vehicle", "5.0", "km/h"),
            ]

    asyncio.run(run())


def test_watchers_hear_of_newer_values_only(tmp_path: Path) -> None:
    async def run() -> None:
        async with rig(tmp_path) as r:
            live = live_of(r)
            await r.store([(T0_NS, 0, 10, 0)])
            await live.latest("CAR-1")
            with live.values_hub.subscribe("CAR-1") as box:
                await r.store([(T0_NS - MS_NS, 0, 1, 0)])
                await r.store([(T0_NS + MS_NS, 0, 12, 0)])
                for batch in await batches(r):
                    await live.on_batch(batch)
                values, dropped = await box.take(0.1)
            assert ([v.text for v in values], dropped) == (["6.0"], 0)
            await live.erase("CAR-1")

    asyncio.run(run())


def test_an_unreadable_batch_does_not_disturb_the_live_state(tmp_path: Path) -> None:
    async def run() -> None:
        async with rig(tmp_path) as r:
            live = live_of(r)
            await r.store(content=b"damaged")
            await r.store([(T0_NS, 0, 10, 0)])
            assert len(await live.latest("CAR-1")) == 1
            for batch in await batches(r):
                await live.on_batch(batch)
            assert len(await live.latest("CAR-1")) == 1

    asyncio.run(run())


def test_values_that_are_no_numbers_are_told_as_such(tmp_path: Path) -> None:
    from gateway.wire.manifest import Kind

    odd = manifest_of(signal("Odd", length=64, kind=Kind.FLOAT64, scale=1.0))

    async def run() -> None:
        async with rig(tmp_path, odd) as r:
            await r.store([(T0_NS, 0, 0x7FF8 << 48, 0)], manifest=odd)
            (value,) = await live_of(r).latest("CAR-1")
            assert (value.value, value.text) == (None, "not a number")

    asyncio.run(run())


def test_a_slow_reader_loses_replaced_and_oldest_entries_and_is_told_how_many() -> None:
    async def run() -> None:
        box: Mailbox[str, int] = Mailbox(max_entries=2)
        box.put([("a", 1), ("a", 2), ("b", 3), ("c", 4)])
        assert await box.take(1) == ([3, 4], 2)
        assert await box.take(0.001) == ([], 0)
        box.close()
        assert await box.take(10) == ([], 0)

    asyncio.run(run())


def test_streams_are_bounded_and_all_end_when_the_hub_closes() -> None:
    async def run() -> None:
        hub: Hub[str, int] = Hub(clients_max=2, entries_max=10)
        with hub.subscribe("x") as first, hub.subscribe("y"):
            with pytest.raises(TooMany):
                hub.check_room()
            hub.publish("y", [("a", 1)])
            hub.close()
            assert first.closed
            assert await first.take(10) == ([], 0)
        assert hub.clients == 0
        with hub.subscribe("x") as late:
            assert late.closed

    asyncio.run(run())
