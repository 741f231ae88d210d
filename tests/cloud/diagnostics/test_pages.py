"""The console's pages about faults and jobs: what they show, to whom, and that vehicles' words are text only."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from gateway.wire.diagnostics import DiagnosticResult, StepResult
from gateway.wire.dtc import Snapshot, SnapshotValue, parse_dtc
from gateway.wire.samples import Event, EventKind
from tests.cloud.console.test_pages import browser, check
from tests.cloud.diagnostics.support import event_batch, fault_event, report, seen, send_result
from tests.cloud.support import EPOCH_NS, Cloud, Vehicle, cloud_in, make_check_in, make_manifest

pytestmark = pytest.mark.anyio
PAGES = [
    "/console/faults",
    "/console/faults/table",
    "/console/faults?q=P0A&ecu=battery&tag=x&software=1.*&confirmed=yes",
    "/console/jobs",
    "/console/vehicles/VIN1/faults",
    "/console/vehicles/VIN1/faults/table",
]
EVIL = "<script>alert(1)</script>"


async def with_faults(cloud: Cloud) -> Vehicle:
    vehicle = await cloud.enrolled("VIN1")
    await vehicle.check_in(make_check_in(software="1.2.3"))
    await vehicle.send_manifest(make_manifest())
    values = (SnapshotValue(name="Speed", value=81.5, unit="km/h"), SnapshotValue(name=EVIL, value=EVIL))
    snapshot = Snapshot(record=1, at_ns=EPOCH_NS, values=values)
    audit = {
        "kind": "refuse",
        "port": "doip",
        "tester": 0x0E80,
        "target": 0x1020,
        "request": "2EF190",
        "rule": "no writing",
    }
    await vehicle.upload(
        event_batch(
            1,
            fault_event(report(snapshots=(snapshot,), extended={"occurrences": 3}, occurrences=3, odometer_km=1234.5)),
            fault_event(report("P1234-00", ecu=EVIL, text=EVIL, by=EVIL)),
            Event(EPOCH_NS, EventKind.AUDIT, "firewall", msgspec.json.encode(audit).decode()),
            Event(EPOCH_NS, EventKind.AUDIT, "firewall", EVIL),
        )
    )
    await seen(cloud, 2)
    return vehicle


async def test_faults_are_shown_with_words_status_snapshot_and_audit(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        await with_faults(cloud)
        async with browser(cloud, "operator") as client:
            for path in PAGES:
                answer = await client.get(path)
                assert answer.status_code == 200, (path, answer.text)
                check(answer.text)
                assert EVIL not in answer.text, path
            page = (await client.get("/console/vehicles/VIN1/faults")).text
            for words in (
                "P0AA6-16", "High-voltage insulation too low", "confirmed", "81.5 km/h", "1.2.3", "refuse", "0x0E80",
                "no writing", "2EF190",
            ):  # fmt: skip
                assert words in page, words
            assert "Clear all" not in page  # an operator may only read
            fleet = (await client.get("/console/faults")).text
            assert re.search(r"P0AA6-16</a></th><td>battery", fleet)
            assert 'href="/console/vehicles/VIN1/faults"' in fleet
            nothing = (await client.get("/console/faults?q=nothing")).text
            assert "No faults" in nothing
            assert (await client.get("/console/vehicles/nobody/faults")).status_code == 404


async def test_empty_pages_say_what_will_be_there(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud, browser(cloud, "admin") as client:
        await cloud.enrolled("VIN1")
        for path in (*PAGES, "/console/jobs/new"):
            answer = await client.get(path)
            assert answer.status_code == 200, (path, answer.text)
            check(answer.text)
        assert "No faults have been reported" in (await client.get("/console/faults")).text
        assert "None yet" in (await client.get("/console/jobs")).text
        assert "No faults stored" in (await client.get("/console/vehicles/VIN1/faults")).text


async def test_an_operator_asks_and_sees_the_answer(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        vehicle = await with_faults(cloud)
        async with browser(cloud, "operator") as client:
            asked = await client.post("/console/vehicles/VIN1/faults/ask", data={"do": "read_dtcs"})
            assert asked.status_code == 303
            path = asked.headers["location"]
            waiting = await client.get(path)
            check(waiting.text)
            assert "waits for the vehicle" in waiting.text
            (order,) = (await vehicle.check_in(make_check_in())).orders
            results = (
                StepResult(step=0, ecu="battery", outcome="ok", dtcs=((parse_dtc("P0AA6-16"), 0x2F),)),
                StepResult(step=0, ecu="motor", outcome="ok"),
                StepResult(step=0, ecu=EVIL, outcome="refused", detail=f"rule {EVIL}", nrc=0x33, values={EVIL: EVIL}),
            )
            await send_result(vehicle, DiagnosticResult(order=order.id, state="done", at_ns=1, results=results))
            for address in (path, f"{path}/table", f"{path}?state=completed"):
                page = await client.get(address)
                check(page.text)
                assert EVIL not in page.text
                for words in ("P0AA6-16", "none stored", "refused", "completed"):
                    assert words in page.text, words
            assert "No vehicle in this state" in (await client.get(f"{path}?state=failed")).text
            on_vehicle = (await client.get("/console/vehicles/VIN1/faults")).text
            assert f'href="{path}"' in on_vehicle
            refused = await client.post("/console/vehicles/VIN1/faults/ask", data={"do": "clear_dtcs"})
            assert refused.status_code == 403
            assert (await client.post("/console/vehicles/VIN1/faults/ask", data={"do": "reset"})).status_code == 400
            over = await client.post(f"{path}/cancel", data={})
            assert "is over" in over.text


async def test_the_form_makes_jobs_of_one_step_or_several_and_shows_what_is_wrong(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        await cloud.enrolled("VIN1")
        async with browser(cloud, "admin") as client:
            one = {"vehicles": "VIN1", "do": "read_did", "ecu": "battery", "parameter": "F190", "hours": "2"}
            made = await client.post("/console/jobs/new", data=one)
            assert made.status_code == 303
            several = {
                "everyone": "yes",
                "steps": "read_dtcs *\n\nstart_routine body 0203 AA55\n",
                "stop_on_error": "yes",
            }
            page = await client.get((await client.post("/console/jobs/new", data=several)).headers["location"])
            assert "the whole fleet" in page.text
            assert "aa55" in page.text
            cancelled = await client.post(made.headers["location"] + "/cancel", data={})
            assert cancelled.status_code == 303
            assert "Cancelled" in (await client.get(made.headers["location"])).text
            for form, problem in (
                ({**one, "vehicles": ""}, "everyone"),
                ({**one, "vehicles": "VIN9"}, "no enrolled vehicle"),
                ({**one, "parameter": "XYZ"}, "hexadecimal"),
                ({**one, "hours": "soon"}, "hours"),
                ({"everyone": "yes", "steps": "read_dtcs"}, "line 1"),
                ({**one, "title": EVIL * 20}, "title"),
            ):
                answer = await client.post("/console/jobs/new", data=form)
                assert (answer.status_code, problem in answer.text) == (200, True), (form, answer.text)
                check(answer.text)
                assert EVIL not in answer.text


async def test_viewers_see_and_ask_nothing(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        await with_faults(cloud)
        async with browser(cloud, "viewer") as client:
            page = (await client.get("/console/vehicles/VIN1/faults")).text
            assert "P0AA6-16" in page
            assert "Read trouble codes now" not in page
            assert "New job" not in (await client.get("/console/jobs")).text
            for path in ("/console/vehicles/VIN1/faults/ask", "/console/jobs/new", "/console/faults/texts"):
                assert (await client.post(path, data={"do": "read_dtcs"})).status_code == 403


async def test_an_admin_loads_texts_from_a_file(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        await with_faults(cloud)
        async with browser(cloud, "admin") as client:
            file = {"file": ("ours.csv", b"code,text\nP1234,Our own words\nX,bad\n")}
            page = await client.post("/console/faults/texts", files=file)
            check(page.text)
            assert "1 texts loaded, 1 in all; 1 lines left out (line 3: " in page.text
            assert "Our own words" in page.text
            empty = await client.post("/console/faults/texts", files={"file": ("ours.json", b"{}")})
            assert "no text for any code" in empty.text
            assert "choose a file" in (await client.post("/console/faults/texts", data={})).text
