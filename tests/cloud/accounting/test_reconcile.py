"""The comparison of both sides' books is exact, and says in words what it cannot explain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.accounting.reconcile import StreamFacts, reconcile
from cloud.clock import ManualClock
from gateway.wire.api import SequenceRange
from gateway.wire.ledger import BusLedger, Ledger, StreamLedger
from tests.cloud.support import EPOCH_NS, Vehicle, cloud_in, make_batch, make_check_in

STREAM = "spool/normal"


def facts(**changes: int) -> StreamFacts:
    values: dict[str, Any] = {
        "batches": 3,
        "items": 36,
        "content_bytes": 900,
        "dead_batches": 0,
        "dead_items": 0,
        "duplicates": 0,
        "conflicts": 0,
        "contiguous": 3,
        "highest": 3,
    }
    return StreamFacts(stream=STREAM, **{**values, **changes})


def ledger(stream: StreamLedger, **changes: int) -> Ledger:
    values: dict[str, Any] = {"selected_items": stream.stored, **changes}
    return Ledger(at_ns=EPOCH_NS, streams=(stream,), **values)


@given(
    acknowledged=st.integers(0, 1000),
    evicted=st.integers(0, 1000),
    pending=st.integers(0, 1000),
    beyond=st.integers(0, 1000),
    evicted_here=st.integers(0, 1000),
    stolen=st.integers(-50, 50),
)
def test_difference_is_exactly_what_went_astray(
    acknowledged: int, evicted: int, pending: int, beyond: int, evicted_here: int, stolen: int
) -> None:
    told = StreamLedger(STREAM, acknowledged + evicted + pending, acknowledged, evicted, pending)
    here = facts(
        items=acknowledged + beyond + evicted_here - stolen,
        items_beyond_acknowledged=beyond,
        items_evicted_but_here=evicted_here,
    )
    result = reconcile("VIN1", ledger(told), {STREAM: told}, [here], EPOCH_NS)
    assert result.streams[0].difference == stolen
    assert result.unexplained == abs(stolen)
    assert result.complete is (stolen == 0)
    assert any(f"{abs(stolen):,} are unexplained" in words for words in result.words) is (stolen != 0)


def test_the_vehicles_own_books_count_too() -> None:
    told = StreamLedger(STREAM, stored=40, acknowledged=36, evicted=0, pending=1)
    bus = BusLedger("can0", received=10, selected=8)
    result = reconcile(
        "VIN1", Ledger(EPOCH_NS, (bus,), (told,), selected_items=45), {STREAM: told}, [facts()], EPOCH_NS
    )
    assert result.vehicle_unexplained == 3 + 2 + 5
    assert len([w for w in result.words if "unexplained by the vehicle's" in w]) == 3


def test_acknowledged_items_of_a_stream_the_cloud_never_saw_are_unexplained() -> None:
    told = StreamLedger("gone/normal", stored=7, acknowledged=7)
    result = reconcile("VIN1", ledger(told), {"gone/normal": told}, [], EPOCH_NS)
    assert (result.unexplained, result.complete) == (7, False)


def test_without_a_check_in_nothing_is_claimed() -> None:
    result = reconcile("VIN1", None, {}, [facts()], None)
    assert (result.complete, result.unexplained, result.received_items) == (None, 0, 36)


async def checked_in(vehicle: Vehicle, stream: StreamLedger, **changes: object) -> None:
    await vehicle.check_in(make_check_in(ledger=ledger(stream), **changes))


@pytest.mark.anyio
@pytest.mark.parametrize("name", [STREAM, "normal"])
async def test_all_accounted_for_while_uploads_go_on(tmp_path: Path, name: str) -> None:
    """Two batches acknowledged, one uploaded whose answer was lost, one pending: nothing is unexplained."""
    async with cloud_in(tmp_path) as cloud:
        vehicle, viewer = await cloud.enrolled(), await cloud.logged_in("viewer")
        for sequence in (1, 2, 3):
            await vehicle.upload(make_batch(sequence))
        told = StreamLedger(name, 48, acknowledged=24, pending=24, last_sequence=4, acknowledged_sequence=2)
        await checked_in(vehicle, told)
        result = (await viewer.get("/api/v1/vehicles/VIN1/accounting")).json()
        assert (result["complete"], result["unexplained"], result["words"]) == (True, 0, ["All accounted for."])
        (line,) = result["streams"]
        assert (line["received"], line["received_to_acknowledged"], line["unacknowledged"]) == (36, 24, 12)


@pytest.mark.anyio
async def test_eviction_of_a_batch_whose_answer_was_lost_is_not_counted_twice(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        vehicle, viewer = await cloud.enrolled(), await cloud.logged_in("viewer")
        for sequence in (1, 2, 4):
            await vehicle.upload(make_batch(sequence))
        told = StreamLedger(STREAM, 48, acknowledged=24, evicted=24, last_sequence=4, acknowledged_sequence=4)
        await checked_in(vehicle, told, evicted=(SequenceRange(STREAM, 2, 3),))
        result = (await viewer.get("/api/v1/vehicles/VIN1/accounting")).json()
        assert (result["complete"], result["unexplained"]) == (True, 0)
        assert [(g["kind"], g["first"], g["last"], g["items"]) for g in result["gaps"]] == [("evicted", 3, 3, 12)]


@pytest.mark.anyio
async def test_what_the_vehicle_believes_delivered_and_the_cloud_lost_is_found_and_asked_for(tmp_path: Path) -> None:
    """As after restoring an old backup of the cloud."""
    clock = ManualClock()
    async with cloud_in(tmp_path, clock) as cloud:
        vehicle, viewer = await cloud.enrolled(), await cloud.logged_in("viewer")
        await vehicle.upload(make_batch(1))
        told = StreamLedger(STREAM, 36, acknowledged=36, last_sequence=3, acknowledged_sequence=3)
        await checked_in(vehicle, told)
        result = (await viewer.get("/api/v1/vehicles/VIN1/accounting")).json()
        assert (result["complete"], result["unexplained"], result["missing_batches"]) == (False, 24, 2)
        clock.advance_s(3)
        reply = await vehicle.check_in(make_check_in(ledger=ledger(told)))
        assert reply.requests == (SequenceRange(STREAM, 2, 3),)
        for sequence in (2, 3):
            await vehicle.upload(make_batch(sequence))
        result = (await viewer.get("/api/v1/vehicles/VIN1/accounting")).json()
        assert (result["complete"], result["missing_batches"]) == (True, 0)


@pytest.mark.anyio
async def test_dead_letters_are_received_but_named(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        vehicle, viewer = await cloud.enrolled(), await cloud.logged_in("viewer")
        claim = {"outrider-stream": STREAM, "outrider-sequence": "1", "outrider-items": "12"}
        await vehicle.http.post("/v1/batches", content=b"garbage", headers=claim)
        told = StreamLedger(STREAM, 12, acknowledged=12, dead_lettered=12, last_sequence=1, acknowledged_sequence=1)
        await checked_in(vehicle, told)
        result = (await viewer.get("/api/v1/vehicles/VIN1/accounting")).json()
        assert (result["complete"], result["streams"][0]["dead_lettered"]) == (True, 12)
        assert "cannot be read" in " ".join(result["words"])


@pytest.mark.anyio
async def test_fleet_list_tells_who_is_complete_silent_and_how_much_came_today(tmp_path: Path) -> None:
    clock = ManualClock()
    async with cloud_in(tmp_path, clock) as cloud:
        good, bad = await cloud.enrolled("VIN1"), await cloud.enrolled("VIN2")
        viewer = await cloud.logged_in("viewer")
        await cloud.logged_in("operator")
        await good.upload(make_batch(1))
        await checked_in(good, StreamLedger(STREAM, 12, acknowledged=12, acknowledged_sequence=1))
        await checked_in(bad, StreamLedger(STREAM, 12, acknowledged=12, acknowledged_sequence=1))
        rows = (await viewer.get("/api/v1/fleet/vehicles")).json()["items"]
        seen = [(r["vehicle"]["id"], r["accounted"], r["silent"], r["bytes_today"]) for r in rows]
        assert seen == [("VIN1", True, False, len(make_batch(1))), ("VIN2", False, False, 0)]
        clock.advance_s(1000)
        fleet = (await viewer.get("/api/v1/fleet")).json()
        assert (fleet["silent"], fleet["vehicles"]["enrolled"], fleet["items_today"]) == (2, 2, 12)
        silent = (await viewer.get("/api/v1/vehicles", params={"silent": "true"})).json()
        assert silent["total"] == 2
