"""ECU sets through the real router and the real firewall, with other testers at the same ECUs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest

from gateway.diag import ports
from gateway.diag.config import EcuConfig
from gateway.diag.router import Router, names_of
from gateway.errors import ConfigError
from gateway.firewall.core import AuditEntry, Firewall
from gateway.firewall.policy import default_policy
from gateway.firewall.rules import compile_policy
from gateway.firewall.state import VehicleFacts
from gateway.uds.channel import DiagnosticChannel, FunctionalChannel
from gateway.update.ecu import EcuInstaller
from gateway.update.ecu_links import RouterLinks
from gateway.update.ecu_model import NotYetError
from gateway.update.ecu_reservation import EcuReservation
from gateway.update.ecu_set import EcuSet
from tests.crash.disk import CrashFiles
from tests.gateway.diag.router_bench import OTHER, Everyone
from tests.gateway.diag.test_poll import LoopClock
from tests.gateway.update.ecu_bench import NAMES, NEW, OLD, Car, Gateway, NoFetcher, in_car, old_everywhere

ADDRESSES = {name: 0x1010 + number for number, name in enumerate(NAMES)}
CONFIGS = tuple(
    EcuConfig(name=name, bus="powertrain", logical_address=address, request_id=address, response_id=address + 0x100)
    for name, address in ADDRESSES.items()
)


class Vehicle:
    """A car, its gateway's router, and a set installer behind it."""

    def __init__(self, car: Car, gateway: Gateway) -> None:
        self.car, self.audit = car, list[AuditEntry]()
        self.speed_kmh: float | None = 0.0
        names = names_of(CONFIGS)
        firewall = Firewall(compile_policy(default_policy(), names), vehicle=self._facts, record=self.audit.append)
        self.reservation = EcuReservation(firewall, ADDRESSES)
        self.router = Router(
            CONFIGS, open_channel=self._channel, open_functional=self._everyone, firewall=self.reservation,
            clock=LoopClock(),
        )  # fmt: skip
        self.set = EcuSet(
            EcuInstaller(
                gateway.ecus, links=RouterLinks(self.router, CONFIGS), images=car.shelf, store=gateway.installer.store,
                key=gateway.installer._key, limits=gateway.installer.limits, reservation=self.reservation,
            )
        )  # fmt: skip

    def _facts(self, now_ns: int) -> VehicleFacts:
        return VehicleFacts(is_standing=self.speed_kmh == 0, was_standing=True, speed_kmh=self.speed_kmh)

    async def _channel(self, ecu: EcuConfig) -> DiagnosticChannel:
        return self.car.ecus[ecu.name]

    async def _everyone(self, ecus: Sequence[EcuConfig]) -> FunctionalChannel:
        return Everyone(())

    async def ask(self, tester: ports.Tester, ecu: str, request: str) -> str:
        """One request of a tester; its last answer, "" for none."""
        session = self.router.open_session(tester)
        try:
            await session.send(ADDRESSES[ecu], bytes.fromhex(request))
            with anyio.move_on_after(1.0):
                while True:
                    _, pdu = await session.receive()
                    if pdu[0] != 0x7F or pdu[2] != 0x78:
                        return pdu.hex(" ").upper()
            return ""
        finally:
            session.close()


@asynccontextmanager
async def driving(car: Car) -> AsyncIterator[Vehicle]:
    gateway = await old_everywhere(car, CrashFiles())
    vehicle = Vehicle(car, gateway)
    async with anyio.create_task_group() as tasks:
        await tasks.start(lambda *, task_status: vehicle.router.run(task_status=task_status))
        yield vehicle
        tasks.cancel_scope.cancel()


def test_a_set_goes_through_the_router_and_its_firewall() -> None:
    async def work(car: Car) -> None:
        async with driving(car) as vehicle:
            await vehicle.set.prepare(car.targets(), NoFetcher())
            await vehicle.set.install(car.targets(), NoFetcher())
            assert car.versions == dict.fromkeys(NAMES, NEW)
            assert {entry.tester.name for entry in vehicle.audit if entry.kind == "write"} == {"updater"}
            assert [entry for entry in vehicle.audit if entry.kind == "refuse"] == []
            await anyio.sleep(10)
            assert car.is_left_usable()
            assert vehicle.router.statistics().sessions == 0

    in_car(work)


def test_meanwhile_other_testers_may_read_and_not_write() -> None:
    async def work(car: Car) -> None:
        async with driving(car) as vehicle:
            answers: dict[str, str] = {}

            async def interfere() -> None:
                answers["read a waiting one"] = await vehicle.ask(OTHER, "brakes", "22 F1 89")
                answers["session of a waiting one"] = await vehicle.ask(OTHER, "brakes", "10 03")
                answers["read the one in work"] = await vehicle.ask(OTHER, "motor", "22 F1 89")
                answers["reset the one in work"] = await vehicle.ask(OTHER, "motor", "11 01")
                answers["keep-alive"] = await vehicle.ask(OTHER, "motor", "3E 80")

            async with anyio.create_task_group() as tasks:
                begun = False

                def look(ecu: str, state: str, done: int, total: int) -> None:
                    nonlocal begun
                    if ecu == "motor" and state == "installing" and not begun:
                        begun = True
                        tasks.start_soon(interfere)

                await vehicle.set.prepare(car.targets(), NoFetcher())
                await vehicle.set.install(car.targets(), NoFetcher(), look)
            assert answers["read a waiting one"].startswith("62 F1 89")
            assert answers["session of a waiting one"] == "7F 10 21"
            assert answers["read the one in work"] == "7F 22 21"
            assert answers["reset the one in work"] == "7F 11 21"
            assert answers["keep-alive"] == ""
            assert car.versions == dict.fromkeys(NAMES, NEW)
            assert (await vehicle.ask(OTHER, "brakes", "10 03")).startswith("50 03")

    in_car(work)


def test_who_is_told_busy_is_told_why() -> None:
    async def work(car: Car) -> None:
        async with driving(car) as vehicle, vehicle.reservation.reserve(["motor", "unknown"], "new software"):
            decision = vehicle.reservation.judge(OTHER, ADDRESSES["motor"], b"\x10\x03", is_functional=False, now_ns=0)
            assert (decision.rule, decision.nrc, decision.detail) == ("update under way", 0x21, "new software")

    in_car(work)


def test_a_tester_at_one_of_them_is_waited_for_before_anything_is_written() -> None:
    async def work(car: Car) -> None:
        async with driving(car) as vehicle:
            workshop = vehicle.router.open_session(OTHER)
            await workshop.send(ADDRESSES["brakes"], b"\x10\x03")
            assert (await workshop.receive())[1][0] == 0x50
            await vehicle.set.prepare(car.targets(), NoFetcher())
            with pytest.raises(NotYetError, match="brakes"):
                await vehicle.set.install(car.targets(), NoFetcher())
            assert car.versions == dict.fromkeys(NAMES, OLD)
            assert vehicle.set.journals() == []
            workshop.close()
            await anyio.sleep(1)
            await vehicle.set.install(car.targets(), NoFetcher())
            assert car.versions == dict.fromkeys(NAMES, NEW)

    in_car(work)


def test_n8_a_moving_vehicle_is_not_written() -> None:
    async def work(car: Car) -> None:
        async with driving(car) as vehicle:
            vehicle.speed_kmh = 50.0
            await vehicle.set.prepare(car.targets(), NoFetcher())
            with pytest.raises(NotYetError):
                await vehicle.set.install(car.targets(), NoFetcher())
            assert vehicle.set.journals() == []

    in_car(work)


def test_an_ecu_that_diagnostics_do_not_know_is_named() -> None:
    async def work(car: Car) -> None:
        async with driving(car) as vehicle:
            with pytest.raises(ConfigError, match="radio"):
                async with RouterLinks(vehicle.router, CONFIGS).client("radio"):
                    pass

    in_car(work)
