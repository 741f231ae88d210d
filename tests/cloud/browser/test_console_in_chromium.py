"""The console in a real browser: log in, find the vehicle, watch a value change, see a chart and the accounting.

Screenshots go to the test's folder, and to ``OUTRIDER_SCREENSHOTS`` where that is set.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest
from playwright.async_api import Browser, Page, async_playwright

from cloud.app import build_services, build_vehicle_app
from cloud.auth.audit import CLI
from cloud.services import Services
from cloud.web.server import serving
from gateway.wire.api import BusState, CheckIn, SchemeState
from gateway.wire.codec import encode_batch
from gateway.wire.ledger import BusLedger, Ledger, StreamLedger
from gateway.wire.manifest import Kind, Manifest, Message, Signal
from gateway.wire.samples import Event, EventKind, SampleBlock
from tests.cloud.support import PASSWORD, Cloud, Vehicle, initialised

pytestmark = [pytest.mark.anyio, pytest.mark.browser, pytest.mark.timeout(300)]
CHROMIUM = os.environ.get("OUTRIDER_CHROMIUM", "/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
STEP_NS = 100_000_000
VIN = "WOUT1DR1VE0000042"


def _signal(name: str, start: int, unit: str, scale: float, **labels: str) -> Signal:
    return Signal(
        name=name,
        start=start,
        length=16,
        big_endian=False,
        kind=Kind.SIGNED,
        scale=scale,
        offset=0.0,
        minimum=None,
        maximum=None,
        unit=unit,
        labels={int(key[1:]): text for key, text in labels.items()},
        is_multiplexer=False,
        mux=(),
    )


def _message(name: str, bus: int, *signals: Signal) -> Message:
    return Message(
        name=name,
        bus=bus,
        can_id=0x100 + bus,
        extended=False,
        fd=False,
        length=8,
        cycle_ms=100,
        pgn=None,
        sender="",
        comment="",
        signals=signals,
    )


MANIFEST = Manifest(
    format=1,
    name="drive",
    buses=("powertrain", "battery"),
    messages=(
        _message(
            "VehicleMotion",
            0,
            _signal("Speed", 0, "km/h", 0.01),
            _signal("Acceleration", 16, "m/s²", 0.001),
            _signal("Gear", 32, "", 1.0, _0="Park", _1="Reverse", _2="Neutral", _3="Drive"),
        ),
        _message("PackState", 1, _signal("StateOfCharge", 0, "%", 0.1), _signal("PackCurrent", 16, "A", 0.1)),
    ),
)


def drive(first_ns: int, seconds: int, *, phase: float = 0.0) -> SampleBlock:
    """A smooth drive: five signals at 10 Hz."""
    rows, raws = seconds * 10, []
    for i in range(rows):
        t = phase + i / 10
        speed = 55 + 40 * math.sin(t / 40) + 8 * math.sin(t / 7)
        raws.append([speed * 100, 1000 * math.cos(t / 40), 3])
        raws.append([800 - t / 5, 200 + 900 * math.sin(t / 11)])
    signals = [n for i in range(rows) for part in ((0, 1, 2), (3, 4)) for n in part]
    row = [2 * i + k for i in range(rows) for k, width in ((0, 3), (1, 2)) for _ in range(width)]
    return SampleBlock(
        first_ns + np.repeat(np.arange(rows, dtype=np.int64), 2) * STEP_NS,
        np.tile(np.array([0, 1], np.int32), rows),
        np.array(row, np.int32),
        np.array(signals, np.int32),
        np.array([int(v) for part in raws for v in part], np.int64),
        np.zeros(5 * rows, np.uint8),
    )


class Car:
    """A vehicle that drives, uploads and keeps books."""

    def __init__(self, vehicle: Vehicle) -> None:
        self._vehicle = vehicle
        self._sequence = 0
        self._items = 0

    async def upload(self, block: SampleBlock, events: tuple[Event, ...] = ()) -> None:
        """One batch."""
        self._sequence += 1
        content = encode_batch(
            stream="0a1b2c3d/normal",
            sequence=self._sequence,
            items_before=self._items,
            manifest_hash=MANIFEST.hash,
            created_ns=int(block.row_timestamp_ns.max()),
            schemes=[("everyday", 3)],
            samples=block,
            events=events,
        )
        assert not (await self._vehicle.upload(content)).needs_manifest
        self._items += len(block) + len(events)

    async def check_in(self, now_ns: int) -> None:
        """Everything it has was acknowledged."""
        buses = (
            BusLedger("powertrain", 61_240, kernel_dropped=12, undecodable=840, not_selected=20_388, selected=40_000),
            BusLedger("battery", 30_000, not_selected=10_000, selected=20_000),
        )
        stream = StreamLedger("normal", self._items, self._items, 0, 0, 0, 0, self._sequence, self._sequence)
        await self._vehicle.check_in(
            CheckIn(
                software="outrider 0.1.0",
                boot_id="b1",
                at_ns=now_ns,
                started_ns=now_ns - 3_600_000_000_000,
                manifest_hash=MANIFEST.hash.hex(),
                ledger=Ledger(now_ns, buses, (stream,), selected_items=self._items, uploaded_bytes=183_204, restarts=2),
                schemes=(SchemeState("everyday", 3, "active", "", self._items, 0, 4),),
                buses=(BusState("powertrain", "up", 1020.0, now_ns), BusState("battery", "up", 500.0, now_ns)),
                health={"uplink": "ok", "spool": "ok", "can": "ok"},
            )
        )


async def fill(services: Services) -> Car:
    """A fleet of three, one of which drives."""
    app = build_vehicle_app(services)
    async with httpx.AsyncClient() as nobody:
        cloud = Cloud(services, nobody, app)
        await services.vehicles.add(VIN, CLI, display_name="Prototype 42", tags=["test track"])
        await services.vehicles.add("WOUT1DR1VE0000043", CLI, display_name="Prototype 43")
        vehicle = await cloud.enrolled(VIN)
        await cloud.enrolled("RECORDED-DRIVE")
    await vehicle.send_manifest(MANIFEST)
    car = Car(vehicle)
    now_ns = services.clock.now_ns()
    for minute in range(10, 0, -1):
        first_ns = now_ns - minute * 60_000_000_000
        events = (Event(first_ns, EventKind.TRIGGER, "everyday", "hard braking"),) if minute % 4 == 0 else ()
        await car.upload(drive(first_ns, 60, phase=(10 - minute) * 60.0), events)
    await car.check_in(now_ns)
    return car


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    if not Path(CHROMIUM).exists():
        pytest.skip(f"no Chromium at {CHROMIUM}; set OUTRIDER_CHROMIUM")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser
        finally:
            await browser.close()


class Camera:
    """Takes pictures, and collects what the browser complained about."""

    def __init__(self, page: Page, folder: Path) -> None:
        self._page, self._folder = page, folder
        self.complaints: list[str] = []
        page.on("console", lambda m: self.complaints.append(m.text) if m.type in {"error", "warning"} else None)
        page.on("pageerror", lambda e: self.complaints.append(str(e)))
        page.on("request", lambda r: self._note(r.url))

    def _note(self, url: str) -> None:
        if not url.startswith(("http://127.0.0.1:", "data:", "blob:")):
            self.complaints.append(f"request to {url}")

    async def take(self, name: str) -> None:
        path = self._folder / f"{name}.png"
        await self._page.screenshot(path=path, full_page=True)
        if wanted := os.environ.get("OUTRIDER_SCREENSHOTS"):
            Path(wanted).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, wanted)


async def log_in(page: Page, url: str) -> None:
    await page.goto(f"{url}/")
    await page.get_by_label("User").fill("admin")
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Log in").click()
    await page.wait_for_url("**/console")


PIXELS = """() => Array.from(document.querySelectorAll('.u-wrap canvas')).map(c => {
  const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
  let seen = 0; for (let i = 3; i < d.length; i += 4) { if (d[i] > 0) seen++; } return seen; })"""


async def test_an_operator_watches_a_vehicle(tmp_path: Path) -> None:
    services = build_services(await initialised(tmp_path / "cloud"))
    async with serving(services) as addresses, chromium() as browser:
        car = await fill(services)
        context = await browser.new_context(viewport={"width": 1280, "height": 800})
        page = await context.new_page()
        page.set_default_timeout(30_000)
        camera = Camera(page, tmp_path)
        await page.goto(f"{addresses.operator_url}/console/login")
        await camera.take("login")
        await log_in(page, addresses.operator_url)

        row = page.get_by_role("row").filter(has_text=VIN)
        await row.get_by_text("all accounted for").wait_for()
        await row.get_by_text("online").wait_for()
        await camera.take("fleet")
        await page.get_by_label("Search").fill("043")
        await page.get_by_role("row").filter(has_text=VIN).wait_for(state="detached")
        await page.get_by_label("Search").fill("")

        await page.get_by_role("link", name=VIN).click()
        speed = "tr[data-signal='powertrain.VehicleMotion.Speed'] td.value"
        before = await page.locator(speed).inner_text()
        await page.get_by_text("Drive", exact=True).wait_for()
        await page.locator("#live-state").filter(has_text="live").wait_for()
        await car.upload(drive(services.clock.now_ns() - 1_000_000_000, 1, phase=1234.0))
        await page.wait_for_function(
            "([where, before]) => document.querySelector(where).textContent !== before", arg=[speed, before]
        )
        await camera.take("live")
        await page.get_by_label("Filter signals").fill("charge")
        await page.get_by_text("1 of 5 signals").wait_for()

        await page.get_by_role("link", name="Charts").click()
        for name in (
            "powertrain.VehicleMotion.Speed",
            "powertrain.VehicleMotion.Gear",
            "battery.PackState.PackCurrent",
        ):
            await page.get_by_role("checkbox", name=name).check()
        await page.wait_for_function("() => document.querySelectorAll('.chart[data-points] canvas').length === 3")
        assert all(count > 1_000 for count in await page.evaluate(PIXELS))
        await camera.take("charts")
        plot = page.locator(".u-over").first
        box = await plot.bounding_box()
        assert box is not None
        before_zoom = await page.locator("#chart-range").inner_text()
        await page.mouse.move(box["x"] + 300, box["y"] + 60)
        await page.mouse.down()
        await page.mouse.move(box["x"] + 420, box["y"] + 60, steps=4)
        await page.mouse.up()
        await page.wait_for_function(
            "before => document.getElementById('chart-range').textContent !== before", arg=before_zoom
        )
        await page.get_by_text("every sample").first.wait_for()
        await camera.take("charts-zoomed")

        await page.get_by_role("link", name="Accounting").click()
        await page.get_by_text("All accounted for: every").wait_for()
        await camera.take("accounting")
        for tab in ("Events", "Schemes", "Access"):
            await page.get_by_role("link", name=tab, exact=True).click()
            await page.get_by_role("heading", level=2).first.wait_for()
            await camera.take(tab.lower())
        await page.get_by_role("button", name="Make a token").click()
        await page.locator("#token").wait_for()
        assert camera.complaints == []
        await context.close()


async def test_pages_fit_a_phone_and_the_dark(tmp_path: Path) -> None:
    services = build_services(await initialised(tmp_path / "cloud"))
    async with serving(services) as addresses, chromium() as browser:
        await fill(services)
        context = await browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark", has_touch=True)
        page = await context.new_page()
        page.set_default_timeout(30_000)
        camera = Camera(page, tmp_path)
        await log_in(page, addresses.operator_url)
        root = f"{addresses.operator_url}/console"
        for name, path in (
            ("fleet", ""),
            ("live", f"/vehicles/{VIN}"),
            ("charts", f"/vehicles/{VIN}/charts?signal=powertrain.VehicleMotion.Speed"),
            ("accounting", f"/vehicles/{VIN}/accounting"),
            ("silent", "/vehicles/WOUT1DR1VE0000043"),
            ("users", "/users"),
        ):
            await page.goto(root + path)
            await page.get_by_role("heading").first.wait_for()
            if name == "charts":
                await page.locator(".chart[data-points] canvas").wait_for()
            await camera.take(f"phone-{name}")
            width = await page.evaluate("document.documentElement.scrollWidth")
            assert width <= 390, f"{name} is {width} px wide"
        assert camera.complaints == []
        await context.close()


async def test_open_event_streams_do_not_hold_up_the_end_of_the_service(tmp_path: Path) -> None:
    services = build_services(await initialised(tmp_path / "cloud"))
    async with httpx.AsyncClient(timeout=30) as client:
        async with serving(services) as addresses:
            token = await client.post(
                f"{addresses.operator_url}/api/v1/login", json={"name": "admin", "password": PASSWORD}
            )
            headers = {"authorization": f"Bearer {msgspec.json.decode(token.content)['token']}"}
            request = client.build_request("GET", f"{addresses.operator_url}/api/v1/fleet/live", headers=headers)
            stream = await client.send(request, stream=True)
            lines = stream.aiter_lines()
            while "heartbeat" not in await anext(lines):
                pass
        rest = [line async for line in lines]  # ends because the service has ended it, not by a broken connection
        assert all(not line.startswith("event: fleet") for line in rest)
        await stream.aclose()
