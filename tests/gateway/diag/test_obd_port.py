"""The connector's bus: testers reach ECUs by their own identifiers, in their own frame format, and no further."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest

from gateway.can.link import CanFrame
from gateway.can.link_memory import MemoryBus, MemoryLink
from gateway.diag.addresses import address_of, functional_address_of, settings_of
from gateway.diag.config import EcuConfig, ObdPortSection
from gateway.diag.obd_port import ObdPort
from gateway.diag.router import Router, names_of
from gateway.diag.router_model import RouterLimits
from gateway.errors import TransportError
from gateway.firewall.core import Firewall
from gateway.firewall.policy import default_policy
from gateway.firewall.rules import compile_policy
from gateway.firewall.state import VehicleFacts
from gateway.isotp import (
    Address,
    IsoTpChannel,
    IsoTpFunctional,
    Settings,
    fixed,
    open_channel,
    open_functional,
    open_functional_listener,
)
from gateway.runtime import SystemClock
from tests.gateway.diag.router_bench import until

ECUS = (
    EcuConfig(name="motor", bus="powertrain", logical_address=0x1010, request_id=0x7E0, response_id=0x7E8,
              functional_id=0x7DF),
    EcuConfig(name="gearbox", bus="powertrain", logical_address=0x1011, request_id=0x7E1, response_id=0x7E9,
              functional_id=0x7DF),
    EcuConfig(name="battery", bus="battery", logical_address=0x1020, request_id=0x7E4, response_id=0x7EC, tx_dl=64,
              functional_id=0x7DF),
    EcuConfig(
        name="brakes", bus="powertrain", logical_address=0x1040, addressing="extended", request_id=0x6F1,
        response_id=0x629, target_address=0x29,
    ),
    EcuConfig(
        name="telematics", bus="auxiliary", logical_address=0x1050, addressing="normal_fixed", target_address=0x50,
        functional_id=0x18DB33F1,
    ),
)  # fmt: skip
MOTOR, GEARBOX, BATTERY, BRAKES, TELEMATICS = (address_of(ecu) for ecu in ECUS)


class Echo:
    """An ECU on an inner bus: answers with its request, longer if asked."""

    def __init__(self, ecu: EcuConfig, link: MemoryLink) -> None:
        self.heard: list[bytes] = []
        self.script: Callable[[bytes], Sequence[bytes]] = self.positive
        self._channel = open_channel(link, address_of(ecu).reversed(), Settings(tx_dl=ecu.tx_dl), name=ecu.name)
        functional = functional_address_of(ecu)
        self._listener = open_functional_listener(link, functional) if functional else None

    @staticmethod
    def positive(pdu: bytes) -> Sequence[bytes]:
        long = bytes(200) if pdu[:3] == b"\x22\xf1\xff" else b""
        return [bytes([pdu[0] | 0x40]) + pdu[1:3] + long]

    async def run(self) -> None:
        async with anyio.create_task_group() as tg:
            tg.start_soon(self._serve, self._channel.receive)
            if self._listener is not None:
                tg.start_soon(self._serve, self._listener.receive)

    async def _serve(self, receive: Callable[[], Awaitable[bytes]]) -> None:
        while True:
            pdu = await receive()
            self.heard.append(pdu)
            for answer in self.script(pdu):
                await self._channel.send(answer)


class Bench:
    def __init__(self) -> None:
        self.connector = MemoryBus(fd=True)
        self.tester = self.connector.link("tester")
        self.inner = {name: MemoryBus(fd=True) for name in ("powertrain", "battery", "auxiliary")}
        self.ecus = {ecu.name: Echo(ecu, self.inner[ecu.bus].link(ecu.name)) for ecu in ECUS}
        self.vehicle = VehicleFacts(is_standing=True)
        self.links = {name: bus.link("gateway") for name, bus in self.inner.items()}
        clock = SystemClock()
        self.firewall = Firewall(
            compile_policy(default_policy(), names_of(ECUS)), vehicle=lambda _: self.vehicle, record=lambda _: None
        )
        self.router = Router(
            ECUS,
            open_channel=self._open_channel,
            open_functional=self._open_functional,
            firewall=self.firewall,
            clock=clock,
            limits=RouterLimits(p2_margin_ms=200),
        )
        self.port = ObdPort(
            ObdPortSection(enabled=True), ECUS, self.router, open_link=lambda: self.connector.link("port"), clock=clock
        )

    async def _open_channel(self, ecu: EcuConfig) -> IsoTpChannel:
        return open_channel(self.links[ecu.bus], address_of(ecu), settings_of(ecu), name=ecu.name)

    async def _open_functional(self, ecus: Sequence[EcuConfig]) -> IsoTpFunctional:
        address = functional_address_of(ecus[0])
        assert address is not None
        return open_functional(self.links[ecus[0].bus], address, {})

    def channel(self, address: Address, *, fd: bool = False) -> IsoTpChannel:
        return open_channel(self.tester, address, Settings(tx_dl=64 if fd else 8))

    async def ask(self, address: Address, request: str, *, fd: bool = False) -> str:
        channel = self.channel(address, fd=fd)
        try:
            await channel.send(bytes.fromhex(request))
            return await hear(channel)
        finally:
            await channel.aclose()


async def hear(channel: IsoTpChannel) -> str:
    async with asyncio.timeout(5):
        return (await channel.receive()).hex().upper()


@asynccontextmanager
async def plugged_in() -> AsyncIterator[Bench]:
    bench = Bench()
    before = asyncio.all_tasks()
    async with anyio.create_task_group() as tg:
        for ecu in bench.ecus.values():
            tg.start_soon(ecu.run)
        await tg.start(bench.router.run)
        await until(lambda: all(t.is_reachable for t in bench.router.statistics().targets.values()))
        await tg.start(bench.port.run)
        yield bench
        tg.cancel_scope.cancel()
    assert asyncio.all_tasks() == before


def run(test: Callable[[Bench], Awaitable[None]]) -> None:
    async def main() -> None:
        async with plugged_in() as bench:
            await test(bench)

    asyncio.run(main())


@pytest.mark.parametrize(
    "address", [MOTOR, GEARBOX, BATTERY, BRAKES, TELEMATICS], ids=["motor", "gearbox", "battery", "extended", "29 bit"]
)
def test_every_ecu_is_reached_by_its_own_identifiers(address: Address) -> None:
    async def test(bench: Bench) -> None:
        assert await bench.ask(address, "22F190") == "62F190"

    run(test)


def test_long_requests_and_answers_pass() -> None:
    async def test(bench: Bench) -> None:
        assert await bench.ask(MOTOR, "22F1FF") == "62F1FF" + "00" * 200
        assert await bench.ask(MOTOR, "2EF190" + "41" * 300) == "6EF190"
        assert bench.ecus["motor"].heard[-1] == b"\x2e\xf1\x90" + b"A" * 300

    run(test)


@pytest.mark.parametrize("fd", [False, True], ids=["classic", "fd"])
def test_the_answer_has_the_frame_format_of_the_request(fd: bool) -> None:
    async def test(bench: Bench) -> None:
        bench.connector.sent = []
        for address in (MOTOR, BATTERY):
            assert await bench.ask(address, "22F1FF", fd=fd) == "62F1FF" + "00" * 200
        formats = {frame.fd for name, frame in bench.connector.sent if name == "port"}
        assert formats == {fd}

    run(test)


def test_pending_answers_come_back_too() -> None:
    async def test(bench: Bench) -> None:
        bench.ecus["motor"].script = lambda pdu: [b"\x7f\x22\x78", b"\x7f\x22\x78", b"\x62\xf1\x90"]
        channel = bench.channel(MOTOR)
        await channel.send(bytes.fromhex("22F190"))
        assert [await hear(channel) for _ in range(3)] == ["7F2278", "7F2278", "62F190"]

    run(test)


def test_a_functional_request_reaches_those_who_hear_it_and_they_answer_with_their_own_identifiers() -> None:
    async def test(bench: Bench) -> None:
        channels = {name: bench.channel(a) for name, a in (("motor", MOTOR), ("gearbox", GEARBOX), ("bms", BATTERY))}
        functional = open_functional(bench.tester, Address(tx_id=0x7DF, rx_id=0x7E8), {})
        await functional.send(bytes.fromhex("0100"))
        for channel in channels.values():
            assert await hear(channel) == "4100"
        assert bench.ecus["telematics"].heard == bench.ecus["brakes"].heard == []
        other = bench.channel(TELEMATICS)
        wide = open_functional(bench.tester, fixed(0x33, 0xF1, functional=True), {})
        await wide.send(bytes.fromhex("3E00"))
        assert await hear(other) == "7E00"

    run(test)


def test_what_the_firewall_refuses_is_answered_on_the_connector() -> None:
    async def test(bench: Bench) -> None:
        bench.vehicle = VehicleFacts(speed_kmh=80.0)
        assert await bench.ask(MOTOR, "2EF19041") == "7F2E22"
        assert await bench.ask(MOTOR, "04") == "7F0422"
        assert await bench.ask(MOTOR, "0902") == "4902"
        assert [pdu[0] for pdu in bench.ecus["motor"].heard] == [0x09]

    run(test)


def test_no_frame_passes_the_connector_by_itself() -> None:
    """Only whole requests to configured ECUs reach an inner bus."""

    async def test(bench: Bench) -> None:
        for bus in bench.inner.values():
            bus.sent = []
        for can_id in (0x000, 0x123, 0x7E8, 0x7E2, 0x7FF):
            bench.tester.send(CanFrame(can_id, bytes.fromhex("0322F190CCCCCCCC")))
        bench.tester.send(CanFrame(0x7E0, bytes.fromhex("2122F190CCCCCCCC")))  # a consecutive frame of nothing
        bench.tester.send(CanFrame(0x7E0, b""))
        assert await bench.ask(GEARBOX, "3E00") == "7E00"
        sent = [(frame.can_id, bytes(frame.data[:3])) for bus in bench.inner.values() for _, frame in bus.sent or []]
        assert [s for s in sent if s[0] < 0x7E8] == [(0x7E1, b"\x02\x3e\x00")]

    run(test)


def test_a_flood_of_first_frames_leaves_the_port_working() -> None:
    async def test(bench: Bench) -> None:
        for i in range(3000):
            bench.tester.send(CanFrame(0x7E0, bytes([0x1F, 0xFF, 0x22, i & 0xFF, 0, 0, 0, 0])))
        assert await bench.ask(GEARBOX, "3E00") == "7E00"
        assert await bench.ask(MOTOR, "3E00") == "7E00"
        assert [pdu.hex() for pdu in bench.ecus["motor"].heard] == ["3e00"]

    run(test)


def test_a_flood_of_requests_is_bounded_and_the_port_recovers() -> None:
    async def test(bench: Bench) -> None:
        bench.ecus["motor"].script = lambda pdu: []
        for i in range(2000):
            bench.tester.send(CanFrame(0x7E0, bytes([3, 0x22, 0xF1, i & 0xFF, 0, 0, 0, 0])))
        assert await bench.ask(GEARBOX, "3E00") == "7E00"
        assert len(bench.ecus["motor"].heard) <= 2
        bench.ecus["motor"].script = Echo.positive
        channel = bench.channel(MOTOR)
        async with asyncio.timeout(20):
            while True:
                await channel.send(bytes.fromhex("3E00"))
                with anyio.move_on_after(0.2):
                    if await channel.receive() == b"\x7e\x00":
                        break

    run(test)


def test_an_inner_bus_that_is_down_gives_silence_and_a_count() -> None:
    async def test(bench: Bench) -> None:
        bench.inner["powertrain"].is_down = True
        await bench.channel(MOTOR).send(bytes.fromhex("22F190"))
        await until(lambda: bench.port.statistics().undeliverable == 1)
        assert await bench.ask(BATTERY, "3E00") == "7E00"

    run(test)


def test_a_connector_that_cannot_be_opened_fails_with_a_clear_error() -> None:
    async def main() -> None:
        async with plugged_in() as bench:

            def no_link() -> MemoryLink:
                raise TransportError("vcan5: no such interface")

            port = ObdPort(ObdPortSection(enabled=True), ECUS, bench.router, open_link=no_link, clock=SystemClock())
            async with anyio.create_task_group() as tg:
                await tg.start(port.run)

    with pytest.raises(BaseExceptionGroup) as caught:
        asyncio.run(main())
    assert "diagnostic connector: vcan5: no such interface" in repr(caught.value)
