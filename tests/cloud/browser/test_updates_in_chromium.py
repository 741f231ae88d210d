"""Updates in a real browser: an image is uploaded, a campaign planned, started, watched and paused."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest
from playwright.async_api import Page

from cloud.app import build_services
from cloud.clock import ManualClock
from cloud.services import Services
from cloud.web.server import serving
from gateway.wire.uptane import EcuProgress, UpdateReport
from tests.cloud.browser.test_console_in_chromium import Camera, chromium, log_in
from tests.cloud.campaigns.support import Fleet, numbered, plan_for
from tests.cloud.support import initialised, make_check_in

pytestmark = [pytest.mark.anyio, pytest.mark.browser, pytest.mark.timeout(300)]
VEHICLES = 40


async def a_cloud(directory: Path, tick_s: float = 0.3, *, needs_approval: bool = True) -> tuple[Services, Fleet]:
    """A cloud that looks at its campaigns that often, and a hand on its fleet."""
    config = await initialised(directory)
    campaigns = msgspec.structs.replace(
        config.campaigns, tick_s=tick_s, recount_s=0.0, price_per_mb=0.02, needs_approval=needs_approval
    )
    clock = ManualClock(time.time_ns())
    services = build_services(msgspec.structs.replace(config, campaigns=campaigns), clock)
    return services, Fleet(services.db, clock, services.campaigns.engine, services.campaigns.desk)


async def fill(fleet: Fleet) -> None:
    await fleet.release(1)
    await fleet.release(2)
    await fleet.vehicles(numbered(VEHICLES))
    await fleet.vehicles(numbered(2, "ambulance"), is_critical=True)
    await fleet.sql("UPDATE check_ins SET content = :told", told=msgspec.json.encode(make_check_in()))


async def underway(services: Services, fleet: Fleet, vehicle: str) -> None:
    """A vehicle of a campaign tells how far it is."""
    number = await fleet.one("SELECT id FROM assignments WHERE vehicle_id = :vehicle", vehicle=vehicle)
    told = UpdateReport(
        assignment=str(number),
        state="downloading",
        at_ns=fleet.now_ns,
        percent=41.5,
        bytes_done=830_000,
        bytes_total=2_000_000,
        bytes_per_s=65_000.0,
        eta_s=18.0,
        ecus=(EcuProgress(ecu="gateway", state="downloading", version="2.0", percent=41.5),),
        can_roll_back=True,
        used_delta=False,
    )
    await services.updates.intake.take_report(vehicle, told)


async def press(page: Page, name: str) -> None:
    """Press an action's button, and agree."""
    page.once("dialog", lambda dialog: dialog.accept())
    await page.locator("#actions").get_by_role("button", name=name, exact=True).click()


async def test_an_operator_plans_starts_watches_and_pauses_a_campaign(tmp_path: Path) -> None:
    services, fleet = await a_cloud(tmp_path / "cloud")
    async with serving(services) as addresses, chromium() as browser:
        await fill(fleet)
        page = await (await browser.new_context(viewport={"width": 1280, "height": 900})).new_page()
        page.set_default_timeout(30_000)
        camera = Camera(page, tmp_path)
        await log_in(page, addresses.operator_url)
        await page.get_by_role("link", name="Campaigns", exact=True).click()
        await page.get_by_role("link", name="New campaign").first.click()
        await page.locator("#preview").get_by_text("choose a release first").wait_for()
        await page.get_by_label("Name", exact=True).fill("Winter update")
        await page.locator("select[name=release]").select_option(label="release 2")
        await page.get_by_label("the whole fleet, when no filter is set").check()
        await page.locator("#members-count").get_by_text(str(VEHICLES), exact=True).wait_for()
        await page.get_by_text("critical, and the campaign excludes those").wait_for()
        await page.get_by_label("Phase 1 goes to").fill("10")
        for number in (2, 3, 4):
            await page.get_by_label(f"Phase {number} goes to").fill({2: "50", 3: "100"}.get(number, ""))
        for number in (1, 2):
            await page.get_by_label(f"Phase {number} lasts at least, hours").fill("0")
        await page.get_by_label("Phase 1: percent that must report").fill("100")
        await page.get_by_text("4 + 16 + 20 vehicles").wait_for()
        await camera.take("campaign-new")
        await page.get_by_role("button", name="Create and submit").click()

        await page.locator("#state").filter(has_text="waiting").wait_for()
        await camera.take("campaign-waiting")
        await press(page, "Approve")
        await page.locator("#phases [data-phase='1'] .badge").filter(has_text="running").wait_for()
        await page.locator("#members").get_by_text("assigned", exact=True).nth(3).wait_for()
        await fleet.report(1, "running", count=2)
        await page.locator("#phases .legend").get_by_text("2 installing").wait_for()
        await fleet.report(1, "succeeded", count=4)
        await page.locator("#phases [data-phase='2'] .badge").filter(has_text="running").wait_for()
        await fleet.report(1, "failed", count=1)
        await fleet.report(1, "succeeded", count=5)
        await fleet.report(1, "running", count=4)
        await page.locator("#gates").get_by_text("5 of 6").wait_for()
        await camera.take("campaign-running")

        await press(page, "Pause")
        await page.locator("#state").filter(has_text="paused").wait_for()
        await page.locator("#audit").get_by_text("pause", exact=True).wait_for()
        await page.get_by_text("Roll back…").click()
        await fleet.report(1, "succeeded", count=2)
        await page.locator("#gates").get_by_text("7 of 8").wait_for()
        await page.get_by_label("Reason").locator("visible=true").fill("still open while the page moves")
        await camera.take("campaign-paused")
        await page.get_by_role("link", name="Campaigns", exact=True).click()
        await page.locator("#campaigns").get_by_text("Winter update").wait_for()
        await camera.take("campaigns")
        assert camera.complaints == []


async def test_an_image_is_uploaded_in_pieces_and_waits_for_its_signature(tmp_path: Path) -> None:
    services, _ = await a_cloud(tmp_path / "cloud")
    async with serving(services) as addresses, chromium() as browser:
        page = await (await browser.new_context(viewport={"width": 1280, "height": 900})).new_page()
        page.set_default_timeout(30_000)
        camera = Camera(page, tmp_path)
        await log_in(page, addresses.operator_url)
        await page.goto(f"{addresses.operator_url}/console/releases/upload")
        image = tmp_path / "rootfs-2.img"
        image.write_bytes(bytes(range(256)) * 36_864)  # 9 MiB: three pieces
        await page.get_by_label("File").set_input_files(image)
        assert await page.get_by_label("Target name").input_value() == "rootfs-2.img"
        await page.get_by_label("Hardware ids").fill("gateway-a1, gateway-a2")
        await page.get_by_label("Version").fill("2.0")
        await page.get_by_role("button", name="Upload", exact=True).click()
        await page.get_by_role("heading", name="Waiting for signature").wait_for()
        stored = (await services.updates.images.get(1)).image
        assert (stored.state, stored.length) == ("stored", 9 << 20)
        assert await page.locator("#upload-hash").inner_text() == stored.sha256
        await camera.take("upload")
        await page.get_by_role("link", name="make a release of it").click()
        await page.get_by_label("Name", exact=True).fill("summer")
        assert await page.get_by_role("checkbox", name="rootfs-2.img").is_checked()
        await camera.take("release-new")
        await page.get_by_role("button", name="Make the draft").click()
        await page.get_by_text("Not signed for yet").wait_for()
        await camera.take("release")
        assert camera.complaints == []
        await page.goto(f"{addresses.operator_url}/console/releases/upload")
        await page.get_by_label("File").set_input_files({"name": "rootfs-2.img", "mimeType": "", "buffer": b"other"})
        await page.get_by_label("Hardware ids").fill("gateway-a1")
        await page.get_by_label("Version").fill("2.1")
        await page.get_by_role("button", name="Upload", exact=True).click()
        await page.locator("#upload-problem").get_by_text("names are never used twice").wait_for()


async def test_pages_of_updates_fit_a_phone_and_the_dark(tmp_path: Path) -> None:
    services, fleet = await a_cloud(tmp_path / "cloud", 3600.0, needs_approval=False)
    async with serving(services) as addresses, chromium() as browser:
        await fill(fleet)
        campaign = await fleet.started(plan_for(2))
        await services.campaigns.engine.tick()
        one, _ = await fleet.report(campaign, "running", count=2)
        await underway(services, fleet, one)
        context = await browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark", has_touch=True)
        page = await context.new_page()
        page.set_default_timeout(30_000)
        camera = Camera(page, tmp_path)
        await log_in(page, addresses.operator_url)
        for name, path in (
            ("campaigns", "/campaigns"),
            ("campaign", f"/campaigns/{campaign}"),
            ("campaign-new", "/campaigns/new?release=2"),
            ("releases", "/releases"),
            ("release", "/releases/2"),
            ("release-new", "/releases/new"),
            ("upload", "/releases/upload"),
            ("metadata", "/releases/metadata"),
            ("software", f"/vehicles/{one}/software"),
        ):
            await page.goto(f"{addresses.operator_url}/console{path}")
            await page.get_by_role("heading").first.wait_for()
            await camera.take(f"phone-{name}")
            width = await page.evaluate("document.documentElement.scrollWidth")
            assert width <= 390, f"{name} is {width} px wide"
        assert camera.complaints == []
        await context.close()
