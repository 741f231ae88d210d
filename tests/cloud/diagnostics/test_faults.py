"""Fault memory: each report counts once whichever way it comes, the newest time decides, rubbish is counted."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.clock import ManualClock
from cloud.diagnostics.folding import BadReport, Key, Known, Told, plan, read_report
from cloud.diagnostics.queries import FaultFilter
from gateway.wire.dtc import DtcReport, Snapshot, SnapshotValue
from tests.cloud.diagnostics.support import SECOND_NS, event_batch, fault_event, report, seen
from tests.cloud.support import EPOCH_NS, Cloud, cloud_in, make_check_in, make_manifest

SNAPSHOT = Snapshot(record=1, at_ns=EPOCH_NS, values=(SnapshotValue(name="Speed", value=81.5, unit="km/h"),))


async def faults(cloud: Cloud, **wanted: object) -> list[tuple[str, int, bool]]:
    found, total = await cloud.services.diagnostics.queries.faults(
        FaultFilter(**{"vehicle": "VIN1", "present": None, **wanted}),  # type: ignore[arg-type]  # test values
        100, 0,
    )  # fmt: skip
    assert total == len(found)
    return [(f.dtc, f.status, f.is_present) for f in found]


@pytest.mark.anyio
async def test_a_fault_appears_with_its_snapshot_text_and_software_and_goes_when_cleared(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        vehicle = await cloud.enrolled()
        await vehicle.check_in(make_check_in(software="1.2.3"))
        await vehicle.send_manifest(make_manifest())
        await vehicle.upload(event_batch(1, fault_event(report(snapshots=(SNAPSHOT,), severity=0x40))))
        await seen(cloud, 1)
        client = await cloud.logged_in("viewer")
        (fault,) = (await client.get("/api/v1/vehicles/VIN1/faults")).json()["items"]
        assert fault["dtc"] == "P0AA6-16"
        assert fault["text"] == "High-voltage insulation too low (voltage below its limit)"
        assert fault["status_words"][:2] == ["failing", "failed this cycle"]
        assert fault["snapshots"][0]["values"] == [{"name": "Speed", "value": 81.5, "unit": "km/h"}]
        assert (fault["software"], fault["severity"], fault["is_confirmed"]) == ("1.2.3", 0x40, True)
        gone = report(status=0x50, change="cleared", by="tester 0x0E80")
        await vehicle.upload(event_batch(2, fault_event(gone, EPOCH_NS + SECOND_NS), items_before=1))
        await seen(cloud, 2)
        assert (await client.get("/api/v1/vehicles/VIN1/faults")).json()["total"] == 0
        page = (await client.get("/api/v1/vehicles/VIN1/faults/history")).json()
        assert [(c["change"], c["by"]) for c in page["items"]] == [("cleared", "tester 0x0E80"), ("new", "")]
        (kept,) = (await client.get("/api/v1/vehicles/VIN1/faults?present=no")).json()["items"]
        assert kept["snapshots"][0]["record"] == 1  # a clearing brings none, and takes none away


@pytest.mark.anyio
async def test_what_the_listener_missed_is_taken_from_the_lake_and_nothing_twice(tmp_path: Path) -> None:
    long = report("U0111-87", extended={"note": "x" * 9_000})  # longer than other events may be
    async with cloud_in(tmp_path, diagnostics={"catch_up_s": 3600.0}, lake={"compact_interval_s": 3600.0}) as cloud:
        vehicle = await cloud.enrolled()
        await vehicle.upload(event_batch(1, fault_event(report())))  # its manifest is unknown: nobody can read it
        await vehicle.send_manifest(make_manifest())
        await vehicle.upload(event_batch(2, fault_event(long, EPOCH_NS + SECOND_NS), items_before=1))
        await seen(cloud, 2)  # the first one is told again once its manifest has come
        from cloud.history.telemetry import telemetry_of

        keeper = cloud.services.diagnostics.keeper
        async with cloud.services.db.write() as session:  # as if the first had been missed
            from sqlalchemy import delete

            from cloud.diagnostics.model import FaultChangeRow, FaultRow

            for table in (FaultChangeRow, FaultRow):
                await session.execute(delete(table).where(table.code == report().code))
        await telemetry_of(cloud.services).compactor.compact(everything=True)
        assert await keeper.catch_up() == ["VIN1"]
        assert (keeper.statistics.late, keeper.statistics.repeated) == (1, 1)
        assert await faults(cloud) == [("P0AA6-16", 0x2F, True), ("U0111-87", 0x2F, True)]
        assert await keeper.catch_up() == []
        changes, total = await cloud.services.diagnostics.queries.history(FaultFilter(vehicle="VIN1"), 10, 0)
        assert (total, changes[0].extended["note"]) == (2, "x" * 9_000)


@pytest.mark.anyio
async def test_malformed_reports_are_counted_and_the_others_of_their_batch_are_taken(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        vehicle = await cloud.enrolled()
        await vehicle.send_manifest(make_manifest())
        rubbish = [
            "",
            "{",
            "[]",
            '{"ecu":"a","code":16777216,"status":0}',
            '{"ecu":"","code":1,"status":0}',
            "[" * 9_999,
        ]
        events = [fault_event(text, EPOCH_NS + i) for i, text in enumerate(rubbish)]
        await vehicle.upload(event_batch(1, *events, fault_event(report())))
        await seen(cloud, len(rubbish) + 1)
        assert cloud.services.diagnostics.keeper.statistics.malformed == len(rubbish)
        assert await faults(cloud) == [("P0AA6-16", 0x2F, True)]
        metrics = (await cloud.operator.get("/metrics")).text
        assert f"outrider_faults_malformed_total {len(rubbish)}" in metrics.replace(".0\n", "\n")


@pytest.mark.anyio
async def test_a_vehicle_has_only_so_many_faults_and_so_much_history(tmp_path: Path) -> None:
    limits = {"max_faults_per_vehicle": 3, "max_changes_per_vehicle": 2}
    async with cloud_in(tmp_path, ManualClock(EPOCH_NS), diagnostics=limits) as cloud:
        vehicle = await cloud.enrolled()
        await vehicle.send_manifest(make_manifest())
        told = [fault_event(report(f"P0A0{i}-00"), EPOCH_NS + i * SECOND_NS) for i in range(5)]
        await vehicle.upload(event_batch(1, *told))
        await seen(cloud, 5)
        assert [dtc for dtc, _, _ in await faults(cloud)] == ["P0A00-00", "P0A01-00", "P0A02-00"]
        assert cloud.services.diagnostics.keeper.statistics.too_many == 2
        await cloud.services.diagnostics.keeper.retain()
        changes, _ = await cloud.services.diagnostics.queries.history(FaultFilter(vehicle="VIN1"), 10, 0)
        assert [c.dtc for c in changes] == ["P0A02-00", "P0A01-00"]


@pytest.mark.anyio
async def test_history_ends_after_its_days_and_present_faults_stay(tmp_path: Path) -> None:
    clock = ManualClock(EPOCH_NS)
    async with cloud_in(tmp_path, clock, diagnostics={"history_days": 30.0}) as cloud:
        keeper, queries = cloud.services.diagnostics.keeper, cloud.services.diagnostics.queries
        await cloud.enrolled()
        gone = report("P0A00-00", change="gone")
        await keeper.take("VIN1", [fault_event(report()), fault_event(gone)])
        clock.advance_s(31 * 86_400)
        assert await keeper.retain() == 3
        assert await faults(cloud) == [("P0AA6-16", 0x2F, True)]
        assert (await queries.history(FaultFilter(vehicle="VIN1"), 10, 0))[1] == 0


@pytest.mark.anyio
async def test_erasing_a_vehicle_erases_its_faults_and_late_batches_bring_none_back(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        await cloud.enrolled()
        keeper = cloud.services.diagnostics.keeper
        assert await keeper.take("VIN1", [fault_event(report())])
        admin = await cloud.logged_in("admin")
        assert (await admin.delete("/api/v1/vehicles/VIN1")).status_code == 204
        assert not await keeper.take("VIN1", [fault_event(report())])
        assert (await admin.get("/api/v1/faults?present=any")).json()["total"] == 0


def told(at_s: int, status: int, change: str = "changed", code: int = 1) -> Told:
    detail = msgspec.json.encode(DtcReport(ecu="e", code=code, status=status, change=change)).decode()
    return read_report(EPOCH_NS + at_s * SECOND_NS, "e", detail, EPOCH_NS + 10_000 * SECOND_NS)


def folded(*rounds: list[Told]) -> dict[Key, tuple[int, bool, int, int]]:
    known: dict[Key, Known] = {}
    digests: set[bytes] = set()
    for one in rounds:
        planned = plan(known, [t for t in one if t.digest not in digests], 100)
        digests |= {t.digest for t in planned.changes}
        known |= planned.faults
    return {k: (s.status, s.is_present, s.first_ns, s.changed_ns) for k, s in known.items()}


@given(
    st.lists(
        st.tuples(st.integers(0, 255), st.sampled_from(["new", "changed", "cleared", "gone"]), st.integers(1, 2)),
        max_size=6,
    ),
    st.data(),
)
def test_any_order_of_arrival_and_any_repetition_gives_the_same_state(
    reports: list[tuple[int, str, int]], data: st.DataObject
) -> None:
    one_by_one = [told(i, status, change, code) for i, (status, change, code) in enumerate(reports)]
    expected = folded(*([t] for t in one_by_one))
    shuffled = data.draw(st.permutations([*one_by_one, *one_by_one]))
    assert folded(*([t] for t in shuffled)) == expected
    assert folded(shuffled) == expected
    for key, (status, is_present, first_ns, last_ns) in expected.items():
        mine = [t for t in one_by_one if t.key == key]
        assert (status, is_present) == (mine[-1].report.status, mine[-1].is_present)
        assert (first_ns, last_ns) == (mine[0].at_ns, mine[-1].at_ns)


def test_a_full_list_after_a_restart_is_no_news_where_nothing_changed() -> None:
    known = plan({}, [told(0, 0x2F, "new")], 100).faults
    same = plan(known, [told(5, 0x2F, "present")], 100)
    assert (same.changes, same.faults) == ([], {})
    other = plan(known, [told(5, 0x2E, "present")], 100)
    assert [t.report.status for t in other.changes] == [0x2E]


@pytest.mark.parametrize("at_ns", [0, EPOCH_NS + 86_400 * SECOND_NS])
def test_a_clock_that_cannot_be_is_replaced_by_the_time_of_arrival(at_ns: int) -> None:
    wrong = read_report(at_ns, "e", msgspec.json.encode(report()).decode(), EPOCH_NS)
    assert (wrong.at_ns, wrong.has_clock) == (EPOCH_NS, False)
    later = told(5, 0x00, "cleared")
    state = plan(plan({}, [wrong], 9).faults, [later], 9).faults
    assert all(s.changed_ns <= EPOCH_NS + 5 * SECOND_NS for s in state.values())


@given(st.text(max_size=200), st.integers(-(2**63), 2**63 - 1))
def test_any_text_is_a_report_or_a_bad_one(detail: str, at_ns: int) -> None:
    with contextlib.suppress(BadReport):
        found = read_report(at_ns, "e", detail, EPOCH_NS)
        assert 0 <= found.report.code <= 0xFFFFFF


def test_reports_of_one_millisecond_apply_in_their_order() -> None:
    for first, second in itertools.permutations((0x01, 0x02)):
        state = plan({}, [told(1, first), told(1, second)], 9).faults[("e", 1)]
        assert state.status == second
