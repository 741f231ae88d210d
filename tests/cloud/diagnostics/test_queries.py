"""Lists and statistics of a fleet: right, filtered, and by indexes: 2,000 vehicles with 50 faults each."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import tomllib
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from cloud.auth.audit import CLI
from cloud.clock import ManualClock
from cloud.diagnostics.fault_routes import news_of
from cloud.diagnostics.queries import FaultFilter
from gateway.wire.dtc import format_dtc, parse_dtc
from gateway.wire.dtc_texts import describe_dtc, load_texts
from tests.cloud.diagnostics.support import SECOND_NS, fault_event, report
from tests.cloud.support import EPOCH_NS, Cloud, cloud_in, make_check_in
from tests.support import ROOT

pytestmark = pytest.mark.anyio
DAY_S = 86_400


async def small_fleet(cloud: Cloud, clock: ManualClock) -> None:
    """Three vehicles; insulation faults on two days, one of them cleared."""
    keeper = cloud.services.diagnostics.keeper
    for name, software, tags in (("A", "1.0", ["berlin"]), ("B", "1.1", []), ("C", "1.1", [])):
        vehicle = await cloud.enrolled(name)
        await cloud.services.vehicles.change(name, CLI, tags=tags)
        await vehicle.check_in(make_check_in(software=software))
    await keeper.take("A", [fault_event(report()), fault_event(report("C0035-00", 0x04, ecu="brakes"))])
    clock.advance_s(DAY_S)
    later_ns = clock.now_ns()
    await keeper.take("B", [fault_event(report(text="the vehicle's words"), later_ns)])
    await keeper.take("C", [fault_event(report("U0111-87", 0x89, ecu="gateway"), later_ns)])
    gone = report("C0035-00", 0x50, ecu="brakes", change="cleared", by="cloud job 1")
    await keeper.take("A", [fault_event(gone, later_ns + SECOND_NS)])


async def test_statistics_count_vehicles_by_code_ecu_software_and_day(tmp_path: Path) -> None:
    clock = ManualClock(EPOCH_NS)
    async with cloud_in(tmp_path, clock) as cloud:
        await small_fleet(cloud, clock)
        client = await cloud.logged_in("viewer")
        told = (await client.get("/api/v1/faults/statistics")).json()
        assert (told["vehicles"], told["faults"]) == (3, 3)
        assert [(c["dtc"], c["ecu"], c["vehicles"], c["confirmed"], c["lamp"]) for c in told["codes"]] == [
            ("P0AA6-16", "battery", 2, 2, 0),
            ("U0111-87", "gateway", 1, 1, 1),
        ]
        assert told["codes"][0]["first_ns"] == EPOCH_NS
        assert told["by_ecu"] == [
            {"name": "battery", "vehicles": 2, "faults": 2},
            {"name": "gateway", "vehicles": 1, "faults": 1},
        ]
        assert told["by_software"][0] == {"name": "1.1", "vehicles": 2, "faults": 2}
        first = EPOCH_NS // (DAY_S * SECOND_NS)
        assert told["days"] == [
            {"day": first, "appeared": 2, "disappeared": 0, "vehicles": 1},
            {"day": first + 1, "appeared": 2, "disappeared": 1, "vehicles": 2},
        ]
        assert [d["day"] for d in (await client.get("/api/v1/faults/statistics?days=1")).json()["days"]] == [first + 1]
        for query, vehicles in (
            ("software=1.0", 1), ("software=1.*", 3), ("tag=berlin", 1), ("ecu=gateway", 1), ("code=P0AA6", 2),
            ("code=P0AA6-17", 0), ("status=128", 1), ("q=communication", 1), ("q=P0A", 2), ("q=%25", 0),
        ):  # fmt: skip
            told = (await client.get(f"/api/v1/faults/statistics?{query}")).json()
            assert told["vehicles"] == vehicles, query


async def test_lists_are_filtered_paged_and_newest_first(tmp_path: Path) -> None:
    clock = ManualClock(EPOCH_NS)
    async with cloud_in(tmp_path, clock) as cloud:
        await small_fleet(cloud, clock)
        client = await cloud.logged_in("viewer")

        async def listed(query: str) -> list[tuple[str, str]]:
            answer = await client.get(f"/api/v1/faults?{query}")
            assert answer.status_code == 200, answer.text
            return [(f["vehicle"], f["dtc"]) for f in answer.json()["items"]]

        everything = [("B", "P0AA6-16"), ("C", "U0111-87"), ("A", "P0AA6-16")]
        assert await listed("") == everything
        assert await listed("limit=1&offset=1") == everything[1:2]
        assert await listed("present=no") == [("A", "C0035-00")]
        assert await listed("present=any&ecu=brakes") == [("A", "C0035-00")]
        assert await listed("q=the vehicle's words") == [("B", "P0AA6-16")]
        for query in ("present=perhaps", "code=Z1", "status=256", "limit=0"):
            assert (await client.get(f"/api/v1/faults?{query}")).status_code == 400
        assert (await client.get("/api/v1/vehicles/nobody/faults")).status_code == 404
        assert (await client.get("/api/v1/vehicles/nobody/faults/history")).status_code == 404
        assert (await client.get("/api/v1/faults/texts/P0AA6-16")).json()["known"]
        assert (await client.get("/api/v1/faults/texts/rubbish")).status_code == 400


def big_fleet(path: Path, vehicles: int, codes: int) -> None:
    """Rows as if so many vehicles had so many faults each; a third of them gone."""
    db = sqlite3.connect(path)
    number = "WITH RECURSIVE v(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM v WHERE i<?),"
    number += " c(j) AS (SELECT 1 UNION ALL SELECT j+1 FROM c WHERE j<?)"
    db.execute(
        f"{number} INSERT INTO vehicles (id, display_name, notes, state, created_ns, revoked_reason)"
        " SELECT printf('CAR-%05d', i), '', '', 'enrolled', 0, '' FROM v",
        (vehicles, 1),
    )
    db.execute(
        f"{number} INSERT INTO faults (vehicle_id, ecu, code, status, is_present, change, first_ns, changed_ns,"
        " software, text, by, detail) SELECT printf('CAR-%05d', i), printf('ecu%d', j % 6), 256 * j + (i * j) % 4,"
        " (i * j) % 256,"
        " (i + j) % 3 != 0, 'new', ?, ? + i * 1000 + j, printf('1.%d', i % 5), '', '', x'7b7d' FROM v, c",
        (vehicles, codes, EPOCH_NS, EPOCH_NS),
    )
    db.commit()
    db.execute("ANALYZE")
    db.close()


async def plans(cloud: Cloud, work: Any) -> tuple[list[str], list[str]]:
    """Reading statements of a piece of work, and how SQLite answers each. Others come from the cloud's own chores."""
    statements: list[tuple[str, Any]] = []

    def note(conn: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        statements.append((statement, parameters))

    engine = cloud.services.db.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    await work
    event.remove(engine, "before_cursor_execute", note)
    db = sqlite3.connect(cloud.services.db.path)
    selects = [(s, p) for s, p in statements if re.match(r"SELECT\b.*\bFROM fault(s|_changes)\b", s, re.DOTALL)]
    found = [" / ".join(r[3] for r in db.execute(f"EXPLAIN QUERY PLAN {s}", p).fetchall()) for s, p in selects]
    db.close()
    return [s for s, _ in selects], found


async def test_two_thousand_vehicles_with_fifty_faults_are_answered_by_indexes(tmp_path: Path) -> None:
    async with cloud_in(tmp_path, diagnostics={"catch_up_s": 3600.0}) as cloud:
        await asyncio.to_thread(big_fleet, cloud.services.db.path, 2_000, 50)
        queries = cloud.services.diagnostics.queries
        statements, found = await plans(cloud, queries.faults(FaultFilter(vehicle="CAR-01000"), 100, 0))
        assert len(statements) == 2
        assert all("SEARCH faults USING" in plan for plan in found), found
        statements, found = await plans(cloud, queries.faults(FaultFilter(), 100, 0))
        assert len(statements) == 2
        assert "USING INDEX faults_by_time" in found[0]
        assert "USE TEMP B-TREE FOR ORDER BY" not in found[0], found  # 100 rows are read, not 66,000 sorted
        assert "USING COVERING INDEX" in found[1], found
        statements, found = await plans(cloud, queries.statistics(FaultFilter(), first_day=0))
        assert len(statements) == 5
        assert all("COVERING INDEX faults_by_code" in plan for plan in found[:4]), found
        assert "fault_changes_by_day" in found[4]
        told = await queries.statistics(FaultFilter(), first_day=0)
        assert told.vehicles == 2_000
        listed, total = await queries.faults(FaultFilter(), 100, 0)
        assert (len(listed), total) == (100, told.faults)


async def test_texts_of_an_admin_go_first_everywhere_and_survive_a_restart(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        await cloud.enrolled()
        await cloud.services.diagnostics.keeper.take("VIN1", [fault_event(report()), fault_event(report("P1234-00"))])
        admin = await cloud.logged_in("admin")
        content = "code,text\nP0AA6,Isolation\nP1234-00,Our own\nX,bad\n"
        answer = await admin.put("/api/v1/faults/texts?name=ours.csv", content=content.encode())
        assert answer.json()["stored"] == 2
        assert (answer.json()["bad"], answer.json()["defects"][0]["line"]) == (1, 4)
        assert (await admin.put("/api/v1/faults/texts", content=b"\xff")).status_code == 400
        assert (await admin.put("/api/v1/faults/texts", content=b"")).status_code == 400
        assert (await admin.get("/api/v1/audit?action=faults.texts")).json()["total"] == 1
    async with cloud_in(tmp_path) as cloud:
        admin = await cloud.logged_in("admin")

        async def texts(query: str = "") -> list[str]:
            return [f["text"] for f in (await admin.get(f"/api/v1/vehicles/VIN1/faults{query}")).json()["items"]]

        assert await texts() == ["Isolation (voltage below its limit)", "Our own"]
        assert await texts("?q=own") == ["Our own"]
        replaced = await admin.put("/api/v1/faults/texts?replace=true", content=b'{"P1234": "Other"}')
        assert replaced.json()["total"] == 1
        assert await texts() == ["High-voltage insulation too low (voltage below its limit)", "Other"]
        assert (await admin.delete("/api/v1/faults/texts")).status_code == 204
        assert (await texts())[1] == "Unknown powertrain fault of the maker"


async def test_watchers_hear_of_faults_and_jobs_of_their_vehicle_only(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        diagnostics = cloud.services.diagnostics

        async def never() -> bool:
            return False

        stream = news_of(diagnostics, "VIN1", never)
        assert (await anext(stream)).event == "heartbeat"
        diagnostics.tell_faults("VIN2")
        diagnostics.tell_faults("VIN1")
        diagnostics.tell_faults("VIN1")
        diagnostics.tell_job(7, "VIN1")
        messages = [await anext(stream), await anext(stream)]
        assert [(m.event, m.data) for m in messages] == [
            ("faults", '{"changed":["VIN1"]}'),
            ("jobs", '{"changed":["7"]}'),
        ]
        diagnostics.hub.close()
        assert [m async for m in stream] == []


async def test_the_code_of_a_report_is_written_as_it_was_read(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        await cloud.enrolled()
        codes = ["P0AA6-16", "C0035-00", "B1234-FF", "U3FFF-01"]
        await cloud.services.diagnostics.keeper.take("VIN1", [fault_event(report(c)) for c in codes])
        found, _ = await cloud.services.diagnostics.queries.faults(FaultFilter(vehicle="VIN1"), 10, 0)
        assert {f.code: f.dtc for f in found} == {parse_dtc(c): c for c in codes}


def test_the_simulated_cars_own_codes_have_words_to_load() -> None:
    """What a maker numbers freely is in a file beside the cloud; the rest has words built in."""
    ours = load_texts((ROOT / "cloud/diagnostics/examples/outrider_one.json").read_bytes(), "outrider_one.json")
    assert ours.bad == 0
    codes = set()
    for path in (ROOT / "simulator" / "data" / "ecus").glob("*.toml"):
        codes |= {parse_dtc(dtc["code"]) for dtc in tomllib.loads(path.read_text()).get("dtcs", [])}
    assert len(codes) >= 50
    assert [format_dtc(code) for code in sorted(codes) if not describe_dtc(code, ours.texts).known] == []
