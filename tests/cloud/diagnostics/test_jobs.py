"""Jobs: who may ask what of whom, the states an order goes through, and what is left when it is over."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import event

from cloud.auth.audit import CLI
from cloud.clock import ManualClock
from cloud.diagnostics.model import OrderState
from gateway.wire.api import EnrolReply, EnrolRequest
from gateway.wire.diagnostics import DiagnosticOrder, DiagnosticResult, StepResult
from gateway.wire.dtc import parse_dtc
from gateway.wire.orders import DOMAIN, Order, key_id_of
from tests.cloud.diagnostics.support import fault_event, report, send_result
from tests.cloud.support import EPOCH_NS, Cloud, Vehicle, cloud_in, make_check_in, make_csr

pytestmark = pytest.mark.anyio
READ = {"steps": [{"do": "read_did", "ecu": "battery", "parameter": "F195"}]}
CLEAR = {"steps": [{"do": "clear_dtcs", "ecu": "*"}]}
JOBS = "/api/v1/diagnostics/jobs"


async def add_job(cloud: Cloud, body: dict[str, Any] | None = None, role: str = "operator", **more: Any) -> Any:
    client = await cloud.logged_in(role)
    answer = await client.post(JOBS, json={**(body or READ), "filter": {"vehicles": ["VIN1"]}, **more})
    assert answer.status_code == 201, answer.text
    return answer.json()["job"]


async def state(cloud: Cloud, job_id: int) -> str:
    orders, _ = await cloud.services.diagnostics.results.orders(job_id, "", 10, 0)
    return orders[0].state


async def order_id(cloud: Cloud, job_id: int) -> str:
    return (await cloud.services.diagnostics.results.orders(job_id, "", 10, 0))[0][0].id


def done(id_: str, *outcomes: str, detail: str = "") -> DiagnosticResult:
    results = tuple(StepResult(step=0, ecu=f"ecu{i}", outcome=o) for i, o in enumerate(outcomes))
    return DiagnosticResult(order=id_, state="done", at_ns=1, detail=detail, results=results)


async def test_an_order_is_signed_for_its_vehicle_with_the_key_it_got_at_enrolment(tmp_path: Path) -> None:
    async with cloud_in(tmp_path, ManualClock(EPOCH_NS)) as cloud:
        await cloud.services.vehicles.add("VIN1", CLI)
        token = await cloud.services.enrolment.make_token("VIN1", CLI)
        request = EnrolRequest(token=token.token, vehicle="VIN1", csr_pem=make_csr()[1])
        answer = await cloud.operator.post("/v1/enrol", content=msgspec.json.encode(request))
        enrolled = msgspec.json.decode(answer.content, type=EnrolReply)
        vehicle = cloud.vehicle("VIN1", enrolled.certificate_pem)
        job = await add_job(cloud, expires_s=600)
        (signed,) = (await vehicle.check_in(make_check_in())).orders
        public = bytes.fromhex(enrolled.order_key)
        assert signed.key_id == key_id_of(public)
        Ed25519PublicKey.from_public_bytes(public).verify(signed.signature, DOMAIN + signed.payload)
        order = msgspec.json.decode(signed.payload, type=Order)
        assert (order.vehicle, order.kind, order.issued_ns) == ("VIN1", "diagnostics", EPOCH_NS)
        assert order.expires_ns == EPOCH_NS + 600_000_000_000
        body = msgspec.json.decode(order.body, type=DiagnosticOrder)
        assert (body.steps[0].parameter, body.requested_by) == (0xF195, "user:the-operator")
        assert (await vehicle.check_in(make_check_in())).orders == (signed,)  # the same bytes until it is answered
        assert await state(cloud, job["id"]) == OrderState.SENT
        assert (await vehicle.check_in(make_check_in(stopping=True))).orders == ()


async def test_states_follow_the_vehicles_answers_and_never_go_back(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        vehicle = await cloud.enrolled()
        job = await add_job(cloud)
        seen = [await state(cloud, job["id"])]
        id_ = await order_id(cloud, job["id"])
        await vehicle.check_in(make_check_in())
        seen.append(await state(cloud, job["id"]))
        answers = [
            *(DiagnosticResult(order=id_, state=s, at_ns=1) for s in ("accepted", "running", "accepted")),
            done(id_, "ok", "no_answer"),
            done(id_, "failed"),
            *(DiagnosticResult(order=id_, state=s, at_ns=1) for s in ("accepted", "running", "refused")),
        ]
        for answer in answers:
            assert await send_result(vehicle, answer) == 204
            seen.append(await state(cloud, job["id"]))
        assert seen == ["pending", "sent", "acknowledged", "executing", "executing", *["completed"] * 5]
        assert (await vehicle.check_in(make_check_in())).orders == ()
        client = await cloud.logged_in("viewer")
        (order,) = (await client.get(f"{JOBS}/{job['id']}/orders")).json()["items"]
        assert [(r["ecu"], r["outcome"]) for r in order["results"]] == [("ecu0", "ok"), ("ecu1", "no_answer")]
        found = (await client.get(f"{JOBS}/{job['id']}")).json()
        assert (found["states"], found["problems"], found["open"]) == ({"completed": 1}, 1, 0)


async def test_an_order_without_any_good_result_or_refused_has_failed(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        vehicle = await cloud.enrolled()
        for last in ("done", "refused"):
            job = await add_job(cloud)
            id_ = await order_id(cloud, job["id"])
            answer = (
                done(id_, "negative")
                if last == "done"
                else DiagnosticResult(order=id_, state=last, at_ns=1, detail="why")
            )
            assert await send_result(vehicle, answer) == 204
            assert await state(cloud, job["id"]) == OrderState.FAILED


async def test_unanswered_orders_time_out_and_a_late_answer_still_counts(tmp_path: Path) -> None:
    clock = ManualClock(EPOCH_NS)
    async with cloud_in(tmp_path, clock) as cloud:
        vehicle = await cloud.enrolled()
        jobs = cloud.services.diagnostics.jobs
        unsent, accepted = await add_job(cloud, expires_s=60), await add_job(cloud, expires_s=60)
        id_ = await order_id(cloud, accepted["id"])
        await send_result(vehicle, DiagnosticResult(order=id_, state="accepted", at_ns=1))
        clock.advance_s(59)
        assert await jobs.expire() == 0
        clock.advance_s(1)
        assert (await vehicle.check_in(make_check_in())).orders == ()
        assert await jobs.expire() == 1
        assert (await state(cloud, unsent["id"]), await state(cloud, accepted["id"])) == ("timeout", "acknowledged")
        clock.advance_s(600)
        assert await jobs.expire() == 1
        assert await state(cloud, accepted["id"]) == "timeout"
        assert await send_result(vehicle, done(id_, "ok")) == 204
        assert await state(cloud, accepted["id"]) == "completed"


async def test_cancelling_withdraws_what_no_vehicle_has_accepted(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        vehicles = [await cloud.enrolled(f"VIN{i}") for i in (1, 2)]
        operator = await cloud.logged_in("operator")
        job = await add_job(cloud, filter={"search": "VIN"})
        (signed,) = (await vehicles[0].check_in(make_check_in())).orders
        await send_result(vehicles[0], DiagnosticResult(order=signed.id, state="accepted", at_ns=1))
        cancelled = await operator.post(f"{JOBS}/{job['id']}/cancel")
        assert cancelled.json() == {"cancelled": 1, "under_way": 1}
        assert (await vehicles[1].check_in(make_check_in())).orders == ()
        assert await send_result(vehicles[0], done(signed.id, "ok")) == 204
        states = (await operator.get(f"{JOBS}/{job['id']}")).json()["states"]
        assert states == {"completed": 1, "cancelled": 1}
        assert (await operator.post(f"{JOBS}/{job['id']}/cancel")).status_code == 409
        assert (await operator.post(f"{JOBS}/77/cancel")).status_code == 404


async def test_only_the_write_role_changes_anything_in_a_vehicle(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        await cloud.enrolled()
        for role, allowed in (("viewer", {}), ("operator", {"read"}), ("admin", {"read", "clear"})):
            client = await cloud.logged_in(role)
            for name, body in (("read", READ), ("clear", CLEAR)):
                answer = await client.post(JOBS, json={**body, "filter": {"vehicles": ["VIN1"]}})
                assert answer.status_code == (201 if name in allowed else 403), (role, name)
    async with cloud_in(tmp_path, diagnostics={"write_role": "operator"}) as cloud:
        assert (await add_job(cloud, CLEAR))["changes"]


BAD_JOBS: list[tuple[dict[str, Any], str]] = [
    ({"steps": []}, "1 to 64 steps"),
    ({"steps": READ["steps"] * 65}, "1 to 64 steps"),
    ({"steps": [{"do": "format", "ecu": "x"}]}, "format"),
    ({"steps": [{"do": "read_did", "ecu": "x"}]}, "parameter"),
    ({"steps": [{"do": "read_did", "ecu": "x", "parameter": "xyz"}]}, "hexadecimal"),
    ({"steps": [{"do": "read_did", "ecu": "x", "parameter": 65536}]}, "0 to"),
    ({"steps": [{"do": "read_did", "ecu": "x", "parameter": -1}]}, "0 to"),
    ({"steps": [{"do": "reset", "ecu": "*"}]}, "not for all"),
    ({"steps": [{"do": "start_routine", "ecu": "x", "parameter": 1, "data_hex": "abc"}]}, "hexadecimal"),
    ({"steps": [{"do": "start_routine", "ecu": "x", "parameter": 1, "data_hex": "00" * 1025}]}, "1024 bytes"),
    ({**READ, "filter": {}}, "everyone"),
    ({**READ, "filter": {"fault": "X1234"}}, "no DTC"),
    ({**READ, "expires_s": 0}, "expires_s"),
    ({**READ, "expires_s": 10**9}, "expires_s"),
    ({**READ, "title": "x" * 201}, "title"),
    ({**READ, "stop": True}, "unknown"),
    ({"steps": [{"do": "start_routine", "ecu": "x", "parameter": 1, "data_hex": "00" * 1000}] * 30}, "travel"),
]


async def test_a_job_that_cannot_be_is_refused_with_the_field(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        await cloud.enrolled()
        admin = await cloud.logged_in("admin")
        wrong = []
        for body, problem in BAD_JOBS:
            answer = await admin.post(JOBS, json={"filter": {"vehicles": ["VIN1"]}, **body})
            if answer.status_code != 400 or problem not in answer.text:
                wrong.append((body, answer.status_code, answer.text))
        assert wrong == []
        assert (await admin.get(JOBS)).json()["total"] == 0


async def test_a_filter_selects_vehicles_by_tag_software_search_and_fault(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        services = cloud.services
        for number, (tags, software) in enumerate([(["berlin"], "1.2.0"), (["berlin"], "1.3.0"), ([], "1.2.1")]):
            vehicle = await cloud.enrolled(f"CAR-{number}")
            await services.vehicles.change(f"CAR-{number}", CLI, tags=tags)
            await vehicle.check_in(make_check_in(software=software))
        await services.vehicles.add("NEW-1", CLI, tags=["berlin"])  # never enrolled: nobody would hear
        await services.diagnostics.keeper.take("CAR-2", [fault_event(report())])
        operator = await cloud.logged_in("operator")

        async def count(**wanted: Any) -> int:
            answer = await operator.post("/api/v1/diagnostics/selection", json=wanted)
            assert answer.status_code == 200, answer.text
            return int(answer.json()["vehicles"])

        assert await count() == 3
        assert await count(tag="berlin") == 2
        assert await count(software="1.2.*") == 2
        assert await count(software="1.2.0") == 1
        assert await count(tag="berlin", software="1.2.*") == 1
        assert await count(search="car-") == 3
        assert await count(search="%") == 0
        assert await count(fault="P0AA6") == await count(fault="P0AA6-16") == 1
        assert await count(fault="P0AA6-17") == 0
        assert await count(vehicles=["CAR-0", "NEW-1", "nobody"]) == 1
        answer = await operator.post(JOBS, json={**READ, "filter": {"tag": "munich"}})
        assert (answer.status_code, "no enrolled vehicle" in answer.text) == (409, True)
        assert (await operator.get(JOBS)).json()["total"] == 0
        made = await operator.post(JOBS, json={**READ, "everyone": True})
        assert made.json()["vehicles"] == 3


async def test_a_vehicle_gets_few_orders_at_once_and_the_next_when_they_are_answered(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        vehicle = await cloud.enrolled()
        for _ in range(6):
            await add_job(cloud)
        first = (await vehicle.check_in(make_check_in())).orders
        assert len(first) == 4
        for signed in first:
            await send_result(vehicle, done(signed.id, "ok"))
        second = (await vehicle.check_in(make_check_in())).orders
        assert len(second) == 2
        assert not {o.id for o in first} & {o.id for o in second}


async def test_results_leave_as_csv_that_no_spreadsheet_takes_for_formulas_and_as_json_lines(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        vehicle = await cloud.enrolled()
        job = await add_job(cloud)
        id_ = await order_id(cloud, job["id"])
        result = StepResult(
            step=0, ecu="=cmd|' /C calc'!A0", outcome="ok", data=b"\x01", dtcs=((parse_dtc("P0AA6-16"), 0x2F),),
            values={"part": "A,B"},
        )  # fmt: skip
        await send_result(vehicle, DiagnosticResult(order=id_, state="done", at_ns=1, results=(result,)))
        client = await cloud.logged_in("viewer")
        answer = await client.get(f"{JOBS}/{job['id']}/results.csv")
        (row,) = csv.DictReader(io.StringIO(answer.text))
        assert row["ecu"] == "'=cmd|' /C calc'!A0"
        assert (row["vehicle"], row["do"], row["data"]) == ("VIN1", "read_did", "01")
        assert (row["dtcs"], row["values"]) == ("P0AA6-16:2F", "part=A,B")
        lines = (await client.get(f"{JOBS}/{job['id']}/results.jsonl")).text.splitlines()
        assert [json.loads(line)["vehicle"] for line in lines] == ["VIN1"]
        assert (await client.get(f"{JOBS}/99/results.csv")).status_code == 404


BAD_RESULTS = [
        b"", b"{", b"[]", b"[" * 50_000, b'{"order":"x","state":"done","at_ns":1}',
        b'{"order":"ID","state":"dancing","at_ns":1}',
        b'{"order":"ID","state":"done","at_ns":1,"results":[{"step":-1,"ecu":"a","outcome":"ok"}]}',
        b'{"order":"ID","state":"done","at_ns":1,"results":[{"step":0,"ecu":"a","outcome":"great"}]}',
        b'{"order":"ID","state":"done","at_ns":1,"results":[{"step":0,"ecu":"a","outcome":"ok","nrc":300}]}',
        b'{"order":"ID","state":"done","at_ns":1,"results":[{"step":0,"ecu":"a","outcome":"ok","dtcs":[[-1,0]]}]}',
]  # fmt: skip


async def test_a_result_that_cannot_be_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        vehicle = await cloud.enrolled()
        job = await add_job(cloud)
        id_ = await order_id(cloud, job["id"])
        for body in BAD_RESULTS:
            answer = await vehicle.http.post("/v1/diagnostics/results", content=body.replace(b"ID", id_.encode()))
            assert answer.status_code in (400, 404), (body, answer.text)
            assert await state(cloud, job["id"]) == "pending"


async def test_who_asked_what_and_what_came_of_it_is_in_the_audit_trail(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        vehicle = await cloud.enrolled()
        job = await add_job(cloud, CLEAR, role="admin")
        id_ = await order_id(cloud, job["id"])
        await send_result(vehicle, done(id_, "ok", "refused"))
        admin = await cloud.logged_in("admin")
        entries = (await admin.get("/api/v1/audit")).json()["items"]
        trail = [(e["actor"], e["action"], e["target"], e["detail"]) for e in entries if "diagnostics" in e["action"]]
        assert [t[:3] for t in trail] == [
            ("vehicle:VIN1", "diagnostics.result", "VIN1"),
            ("user:the-admin", "diagnostics.job", f"job {job['id']}"),
        ]
        assert "asked for by user:the-admin: completed: clear_dtcs ecu0 ok; clear_dtcs ecu1 refused" in trail[0][3]
        assert "1 vehicles: clear trouble codes on all ECUs" in trail[1][3]


async def test_a_revoked_or_erased_vehicle_gets_no_orders_and_leaves_none(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        vehicle: Vehicle = await cloud.enrolled()
        job = await add_job(cloud)
        await cloud.services.enrolment.revoke_vehicle("VIN1", "stolen", CLI)
        answer = await vehicle.http.post("/v1/check-in", content=msgspec.json.encode(make_check_in()))
        assert answer.status_code == 403
        admin = await cloud.logged_in("admin")
        assert (await admin.delete("/api/v1/vehicles/VIN1")).status_code == 204
        assert (await admin.get(f"{JOBS}/{job['id']}/orders")).json()["total"] == 0


async def test_jobs_over_many_vehicles_take_a_fixed_number_of_statements(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        counts: list[int] = []
        operator = await cloud.logged_in("operator")
        for size in (2, 300):
            async with cloud.services.db.write() as session:
                connection = await session.connection()
                await connection.exec_driver_sql(
                    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<?)"
                    " INSERT INTO vehicles (id, display_name, notes, state, created_ns, revoked_reason)"
                    " SELECT 'S'||?||'-'||i, '', '', 'enrolled', 0, '' FROM n",
                    (size, size),
                )
            seen: list[str] = []

            def note(conn: Any, cursor: Any, statement: str, *rest: Any, seen: list[str] = seen) -> None:
                seen.append(statement)

            engine = cloud.services.db.engine.sync_engine
            event.listen(engine, "before_cursor_execute", note)
            made = await operator.post(JOBS, json={**READ, "filter": {"search": f"S{size}-"}})
            event.remove(engine, "before_cursor_execute", note)
            assert made.json()["vehicles"] == size
            counts.append(
                len([s for s in seen if not s.startswith(("BEGIN", "SELECT max", "SELECT fault", "SELECT orders.id"))])
            )
        assert abs(counts[0] - counts[1]) <= 2  # a background step may fall into one of them
        assert counts[0] < 25
