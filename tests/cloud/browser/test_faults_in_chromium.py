"""Faults and jobs in a real browser: a fault appears by itself, and so does the answer to a job."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from cloud.app import build_services, build_vehicle_app
from cloud.auth.audit import CLI
from cloud.web.server import serving
from gateway.wire.diagnostics import DiagnosticResult, StepResult
from gateway.wire.dtc import Snapshot, SnapshotValue, parse_dtc
from tests.cloud.browser.test_console_in_chromium import VIN, Camera, chromium, log_in
from tests.cloud.diagnostics.support import fault_event, report, send_result
from tests.cloud.support import Cloud, initialised, make_check_in, make_manifest

pytestmark = [pytest.mark.anyio, pytest.mark.browser, pytest.mark.timeout(300)]


async def test_a_fault_appears_and_a_job_is_answered_without_reloading(tmp_path: Path) -> None:
    services = build_services(await initialised(tmp_path / "cloud"))
    async with serving(services) as addresses, chromium() as browser, httpx.AsyncClient() as nobody:
        await services.vehicles.add(VIN, CLI, display_name="Prototype 42", tags=["test track"])
        vehicle = await Cloud(services, nobody, build_vehicle_app(services)).enrolled(VIN)
        await vehicle.send_manifest(make_manifest())
        await vehicle.check_in(make_check_in(software="outrider 0.1.0", at_ns=services.clock.now_ns()))
        page = await (await browser.new_context(viewport={"width": 1280, "height": 800})).new_page()
        page.set_default_timeout(30_000)
        camera = Camera(page, tmp_path)
        await log_in(page, addresses.operator_url)
        await page.goto(f"{addresses.operator_url}/console/vehicles/{VIN}/faults")
        await page.get_by_text("No faults stored").wait_for()

        now_ns = services.clock.now_ns()
        values = (
            SnapshotValue(name="Vehicle speed", value=81.5, unit="km/h"),
            SnapshotValue(name="Insulation", value=412.0, unit="Ω/V"),
        )
        snapshot = Snapshot(record=1, at_ns=now_ns, values=values)
        told = (
            report(snapshots=(snapshot,), occurrences=2, odometer_km=12_345.6),
            report("U0111-87", 0xAF, ecu="gateway"),
            report("P0A2F-4B", 0x08, ecu="motor"),
        )
        assert await services.diagnostics.keeper.take(
            VIN, [fault_event(r, now_ns - i * 10**9) for i, r in enumerate(told)]
        )
        services.diagnostics.tell_faults(VIN)
        await page.locator("#faults").get_by_text("P0AA6-16").wait_for()
        await page.locator("#faults details summary").click()
        await page.locator("#faults").get_by_text("81.5 km/h").wait_for()
        await camera.take("vehicle-faults")

        await page.get_by_role("button", name="Read trouble codes now").click()
        await page.get_by_text("waits for the vehicle").wait_for()
        (order,) = (await vehicle.check_in(make_check_in(at_ns=services.clock.now_ns()))).orders
        results = (
            StepResult(step=0, ecu="battery", outcome="ok", dtcs=((parse_dtc("P0AA6-16"), 0x2F),)),
            StepResult(step=0, ecu="motor", outcome="ok"),
            StepResult(step=0, ecu="brakes", outcome="no_answer", detail="read DTCs (0x19): no answer within 150 ms"),
        )
        await send_result(vehicle, DiagnosticResult(order=order.id, state="done", at_ns=now_ns, results=results))
        services.diagnostics.tell_job(1, VIN)
        await page.locator("#results").get_by_text("none stored").wait_for()
        await camera.take("job")

        await page.get_by_role("link", name="Faults", exact=True).first.click()
        await page.locator("#codes").get_by_text("P0AA6-16").wait_for()
        await camera.take("faults")
        await page.get_by_role("link", name="Jobs", exact=True).click()
        await page.get_by_role("link", name="New job").click()
        await page.get_by_label("With the fault").fill("P0AA6")
        await camera.take("job-new")
        await page.get_by_role("button", name="Ask the vehicles").click()
        await page.get_by_text("fault: P0AA6").wait_for()
        assert camera.complaints == []
