"""Programming a simulated ECU, in memory and under a clock that jumps: the straight way, losses, what is refused."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.errors import TransportError
from gateway.uds.client import UdsClient
from simulator.ecu.describe import describe
from simulator.ecu.description import load_description
from simulator.ecu.flash_image import make_image
from simulator.ecu.keys import ALGORITHMS
from tester.errors import OutcomeError
from tester.flash_cli import look
from tester.flash_files import read_firmware
from tester.flash_plan import Plan, Settings, make_plan, version_key
from tester.flash_run import Event, Flasher, FlashError, Result
from tester.flash_state import Progress, StateFile
from tester.vehicle import Ecu
from tester.vehicle_files import load_vehicle
from tests.gateway.uds.support import now_ms, run
from tests.gateway.uds.test_with_ecus import SimulatedEcu, connected

PAYLOAD = bytes(range(256)) * 160  # 40 KiB


def known_ecu(folder: Path) -> Ecu:
    """What the tool reads from the simulator's description."""
    path = folder / "described.json"
    path.write_text(json.dumps({"ecus": [describe(load_description("motor"))]}))
    ecu = load_vehicle(path).ecu("motor")
    path.unlink()
    return ecu


class Session:
    """A client, an ECU, and a flash of an image into it."""

    def __init__(self, client: UdsClient, ecu: SimulatedEcu, folder: Path) -> None:
        self.client, self.ecu, self.folder = client, ecu, folder
        self.events: list[Event] = []
        self.on_event: Callable[[Event], None] = lambda event: None

    def _tell(self, event: Event) -> None:
        self.events.append(event)
        self.on_event(event)

    async def plan(self, image: bytes, settings: Settings) -> Plan:
        about = known_ecu(self.folder)
        return make_plan(read_firmware(image), about, await look(self.client, about), settings)

    async def flash(self, image: bytes, settings: Settings | None = None) -> Result:
        settings = settings or Settings(max_block_bytes=1026)
        plan = await self.plan(image, settings)
        state = StateFile(self.folder, "motor", plan.sha256)
        flasher = Flasher(self.client, plan, self.key, settings, state=state, on_event=self._tell)
        return await flasher.run()

    def key(self, level: int, seed: bytes) -> bytes:
        about = next(s for s in self.ecu.server.description.security if s.level == level)
        return ALGORITHMS[about.algorithm](seed, bytes.fromhex(about.constant))

    def power_cycle(self) -> None:
        now_s = now_ms() / 1000
        self.ecu.server.power_off(now_s)
        self.ecu.server.power_on(now_s)

    @property
    def steps(self) -> list[str]:
        told = [event.step for event in self.events]
        return [step for i, step in enumerate(told) if i == 0 or told[i - 1] != step]


def flashing(folder: Path, work: Callable[[Session], Awaitable[None]]) -> None:
    async def scenario() -> None:
        async with connected("motor") as (client, ecu):
            await work(Session(client, ecu, folder))

    run(scenario)


def test_an_image_is_written_checked_and_told(tmp_path: Path) -> None:
    async def work(session: Session) -> None:
        result = await session.flash(make_image("motor", "02.01.00", PAYLOAD))
        assert result.version.startswith("02.01.00")
        assert (result.lost, result.resumed, result.restarted, result.repeated_blocks) == (0, 0, 0, 0)
        assert session.steps == [
            "session", "preconditions", "session", "unlock", "erase", "transfer", "verify", "reset", "verify",
        ]  # fmt: skip
        transfers = [event for event in session.events if event.step == "transfer"]
        assert [event.done for event in transfers] == sorted(event.done for event in transfers)
        assert transfers[-1].done == transfers[-1].total == len(PAYLOAD) + 256
        assert list(tmp_path.iterdir()) == []  # nothing to go on with

    flashing(tmp_path, work)


def test_compressed_takes_fewer_bytes(tmp_path: Path) -> None:
    async def work(session: Session) -> None:
        result = await session.flash(make_image("motor", "02.01.00", PAYLOAD), Settings(compress=True))
        assert result.version.startswith("02.01.00")
        assert result.bytes < len(PAYLOAD) / 10

    flashing(tmp_path, work)


@pytest.mark.parametrize("after_bytes", [1024, 20 * 1024, 40 * 1024])
def test_power_lost_in_the_middle_is_gone_on_from(tmp_path: Path, after_bytes: int) -> None:
    async def work(session: Session) -> None:
        cut = False

        def on_event(event: Event) -> None:
            nonlocal cut
            if event.step == "transfer" and event.done >= after_bytes and not cut:
                cut = True
                session.power_cycle()

        session.on_event = on_event
        result = await session.flash(make_image("motor", "02.01.00", PAYLOAD))
        assert cut
        assert result.version.startswith("02.01.00")
        assert (result.lost, result.resumed + result.restarted) == (1, 1)
        assert result.restarted == 0

    flashing(tmp_path, work)


def test_power_lost_while_erasing(tmp_path: Path) -> None:
    async def work(session: Session) -> None:
        cut = False

        def on_event(event: Event) -> None:
            nonlocal cut
            if event.step == "erase" and not cut:
                cut = True
                session.power_cycle()

        session.on_event = on_event
        result = await session.flash(make_image("motor", "02.01.00", PAYLOAD))
        assert result.version.startswith("02.01.00")
        assert result.lost == 1

    flashing(tmp_path, work)


def test_a_tester_that_was_killed_goes_on_with_the_same_command(tmp_path: Path) -> None:
    image = make_image("motor", "02.01.00", PAYLOAD)

    async def work(session: Session) -> None:
        with anyio.CancelScope() as scope:
            session.on_event = lambda event: scope.cancel() if event.step == "transfer" and event.done > 16384 else None
            await session.flash(image)
        assert scope.cancelled_caught
        assert [path.suffix for path in tmp_path.iterdir()] == [".json"]
        await anyio.sleep(30)  # S3 is over: the ECU waits in its boot loader
        session.on_event = lambda event: None
        result = await session.flash(image)
        assert result.version.startswith("02.01.00")
        assert (result.resumed, result.restarted) == (1, 0)
        assert session.events[-1].total == len(image)
        erased = [event for event in session.events if event.step == "erase"]
        assert len(erased) == 1

    flashing(tmp_path, work)


def test_a_state_that_is_not_true_costs_an_erase_and_nothing_else(tmp_path: Path) -> None:
    image = make_image("motor", "02.01.00", PAYLOAD)

    async def work(session: Session) -> None:
        plan = await session.plan(image, Settings())
        state = StateFile(tmp_path, "motor", plan.sha256)
        state.save(
            Progress(ecu="motor", sha256=plan.sha256, serial=plan.serial, offset=8192, block_bytes=1024), now=True
        )
        result = await session.flash(image)
        assert result.version.startswith("02.01.00")
        assert result.restarted == 1

    flashing(tmp_path, work)


def test_another_ecu_of_the_kind_does_not_go_on_where_the_first_stopped(tmp_path: Path) -> None:
    state = StateFile(tmp_path, "motor", "ab" * 32)
    state.save(Progress(ecu="motor", sha256="ab" * 32, serial="A1", offset=8192), now=True)
    assert state.load("A1") is not None
    assert state.load("B2") is None
    state.path.write_text("{broken")
    assert state.load("A1") is None


@pytest.mark.parametrize(
    ("image", "stop"),
    [
        (make_image("brakes", "9", b"x" * 300, address=0x400000), "not for 'motor'"),
        (make_image("motor", "9", b"x" * 300, hardware_id="OTHER"), "the image is for OTHER"),
        (make_image("motor", "9", b"x" * 300, address=0x900000), "none of the regions"),
        (make_image("motor", "9", b"x" * 300)[:-1] + b"y", "CRC-32"),
    ],
)
def test_the_plan_stops_what_cannot_go_well(tmp_path: Path, image: bytes, stop: str) -> None:
    async def work(session: Session) -> None:
        plan = await session.plan(image, Settings())
        assert any(stop in finding.detail for finding in plan.stops), plan.findings

    flashing(tmp_path, work)


def test_what_the_ecu_itself_refuses_is_told_in_words_and_leaves_it_programmable(tmp_path: Path) -> None:
    async def work(session: Session) -> None:
        stranger = Ed25519PrivateKey.from_private_bytes(bytes(32))
        with pytest.raises(FlashError, match="wrong signature"):
            await session.flash(make_image("motor", "02.01.00", PAYLOAD, stranger))
        result = await session.flash(make_image("motor", "02.02.00", PAYLOAD))
        assert result.version.startswith("02.02.00")

    flashing(tmp_path, work)


def test_a_moving_vehicle_is_not_programmed(tmp_path: Path) -> None:
    async def work(session: Session) -> None:
        plan = await session.plan(make_image("motor", "9", PAYLOAD), Settings())
        assert plan.stops == ()
        session.ecu.bench.vehicle.values["body.LowVoltage.BatteryVoltage"] = 9.0
        plan = await session.plan(make_image("motor", "9", PAYLOAD), Settings())
        assert [finding.what for finding in plan.stops] == ["supply"]
        with pytest.raises(OutcomeError, match="supply voltage too low"):
            await session.flash(make_image("motor", "9", PAYLOAD))

    flashing(tmp_path, work)


def test_an_ecu_that_never_comes_back_is_told_and_the_place_kept(tmp_path: Path) -> None:
    async def work(session: Session) -> None:
        session.on_event = lambda event: (
            session.ecu.server.power_off(now_ms() / 1000) if event.step == "transfer" and event.done > 9000 else None
        )
        with pytest.raises(TransportError):
            await session.flash(make_image("motor", "9", PAYLOAD))
        assert len(list(tmp_path.iterdir())) == 1

    flashing(tmp_path, work)


def test_versions_compare_as_people_mean_them() -> None:
    assert version_key("2.10") > version_key("2.9")
    assert version_key("02.01.00") == version_key("2.1")
    assert version_key("1.0-rc1") < version_key("1.0.1")
