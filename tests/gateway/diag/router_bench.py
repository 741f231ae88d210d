"""A router between scripted ECUs and testers, all in memory, with the real firewall."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio

from gateway.diag.config import EcuConfig
from gateway.diag.ports import Tester
from gateway.diag.router import Router, names_of
from gateway.diag.router_model import RouterLimits
from gateway.diag.router_session import Session
from gateway.errors import TransportError
from gateway.firewall.core import AuditEntry, Firewall
from gateway.firewall.policy import default_policy_text, parse_policy
from gateway.firewall.rules import compile_policy
from gateway.firewall.state import VehicleFacts
from gateway.isotp import IsoTpError
from gateway.runtime import SystemClock
from gateway.uds.channel import ChannelClosedError

MOTOR, GEARBOX, BATTERY, GATEWAY, ALL = 0x1010, 0x1011, 0x1020, 0x1001, 0xE400

WORKSHOP = Tester(port="doip", address=0x0E80)
OTHER = Tester(port="doip", address=0x0E81)
POLLER = Tester(port="gateway", address=0x0001)


def ecu_config(name: str, address: int, bus: str, request_id: int, **more: object) -> EcuConfig:
    settings = {"p2_ms": 10, "p2_star_ms": 3000, "max_pending": 5, "functional_id": 0x7DF, **more}
    return EcuConfig(
        name=name, bus=bus, logical_address=address, request_id=request_id, response_id=request_id + 8, **settings  # type: ignore[arg-type]  # the keywords of EcuConfig
    )  # fmt: skip


ECUS = (
    ecu_config("motor", MOTOR, "powertrain", 0x7E0),
    ecu_config("gearbox", GEARBOX, "powertrain", 0x7E1),
    ecu_config("battery", BATTERY, "battery", 0x7E4),
)


class Ecu:
    """An ECU at the far end of a channel. ``script`` gives the answers to a request; ``say`` sends one unasked."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.max_pdu_bytes = 4095
        self.heard: list[bytes] = []
        self.heard_functional: list[bytes] = []
        self.session = 1
        self.script: Callable[[bytes], Sequence[bytes]] = self.obey
        self.gate: asyncio.Event | None = None  # transmissions wait for it
        self.is_down = False
        self.has_no_room = False  # answers a first frame with an overflow
        self.is_receiving = False  # a long answer is arriving
        self._said: asyncio.Queue[bytes | Exception] = asyncio.Queue()

    def obey(self, pdu: bytes) -> Sequence[bytes]:
        """Answer positively, and keep a session."""
        if pdu[0] == 0x10:
            self.session = pdu[1] & 0x7F
        if len(pdu) > 1 and pdu[0] in (0x10, 0x3E, 0x28, 0x85, 0x11) and pdu[1] & 0x80:
            return []
        echo = {0x22: 3, 0x2E: 3, 0x31: 4, 0x14: 1}.get(pdu[0], 2)
        return [bytes([pdu[0] | 0x40]) + pdu[1:echo] + (b"\x00\x0a\x00\x06" if pdu[0] == 0x10 else b"")]

    def say(self, answer: str | Exception) -> None:
        self._said.put_nowait(bytes.fromhex(answer) if isinstance(answer, str) else answer)

    async def send(self, pdu: bytes) -> None:
        if self.is_down:
            raise TransportError("bus-off")
        if self.has_no_room:
            raise IsoTpError("buffer_ovflw", "the receiver has no room for the message")
        if self.gate is not None:
            await self.gate.wait()
        if len(pdu) > self.max_pdu_bytes:
            raise ValueError("too long")
        self.heard.append(pdu)
        for answer in self.script(pdu):
            self._said.put_nowait(answer)

    async def receive(self) -> bytes:
        said = await self._said.get()
        if isinstance(said, Exception):
            raise said
        return said

    def drain(self) -> int:
        return 0

    async def aclose(self) -> None:
        return None


class Everyone:
    """Functional requests to some ECUs."""

    def __init__(self, ecus: Sequence[Ecu]) -> None:
        self.ecus = ecus
        self.is_down = False

    async def send(self, pdu: bytes) -> None:
        if self.is_down:
            raise TransportError("bus-off")
        if len(pdu) > 7:
            raise ValueError("no single frame")
        for ecu in self.ecus:
            ecu.heard_functional.append(pdu)
            for answer in ecu.script(pdu):
                ecu.say(answer.hex())

    async def receive(self) -> tuple[str, bytes]:
        raise ChannelClosedError("only sends")

    async def aclose(self) -> None:
        return None


class OwnServer:
    """The gateway's own diagnostic server: echoes identifiers."""

    def __init__(self) -> None:
        self.heard: list[tuple[Tester, bytes, bool]] = []
        self.gone: list[Tester] = []

    def left(self, tester: Tester) -> None:
        self.gone.append(tester)

    async def handle(self, tester: Tester, pdu: bytes, *, is_functional: bool) -> list[bytes]:
        self.heard.append((tester, pdu, is_functional))
        await anyio.lowlevel.checkpoint()
        return [] if len(pdu) > 1 and pdu[0] == 0x3E and pdu[1] & 0x80 else [bytes([pdu[0] | 0x40]) + pdu[1:3]]


class Bench:
    """Everything around the router."""

    def __init__(self, limits: RouterLimits, policy: str) -> None:
        self.ecus = {ecu.logical_address: Ecu(ecu.name) for ecu in ECUS}
        self.everyone = {
            "powertrain": Everyone([self.ecus[MOTOR], self.ecus[GEARBOX]]),
            "battery": Everyone([self.ecus[BATTERY]]),
        }
        self.own = OwnServer()
        self.vehicle = VehicleFacts(is_standing=True, speed_kmh=0.0)
        self.records: list[AuditEntry] = []
        self.firewall = Firewall(
            compile_policy(parse_policy(policy), names_of(ECUS)),
            vehicle=lambda _: self.vehicle,
            record=self.records.append,
        )
        self.opened = 0
        self.router = Router(
            ECUS,
            open_channel=self._open_channel,
            open_functional=self._open_functional,
            firewall=self.firewall,
            clock=SystemClock(),
            own=self.own,
            limits=limits,
        )

    async def _open_channel(self, ecu: EcuConfig) -> Ecu:
        self.opened += 1
        if self.ecus[ecu.logical_address].is_down:
            raise TransportError("no such interface")
        return self.ecus[ecu.logical_address]

    async def _open_functional(self, ecus: Sequence[EcuConfig]) -> Everyone:
        return self.everyone[ecus[0].bus]

    def session(self, tester: Tester = WORKSHOP) -> Session:
        return self.router.open_session(tester)


async def ask(session: Session, target: int, request: str) -> str:
    """Send and wait for one answer of that ECU."""
    await session.send(target, bytes.fromhex(request))
    source, pdu = await hear(session)
    assert source == target
    return pdu


async def hear(session: Session) -> tuple[int, str]:
    async with asyncio.timeout(20):
        source, pdu = await session.receive()
    return source, pdu.hex().upper()


async def until(condition: Callable[[], bool]) -> None:
    """Let others work until something holds."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # what is waited for tells nobody
            await anyio.sleep(0.001)


async def nothing_comes(session: Session) -> bool:
    """Whether the inbox stays empty for longer than any P2 here."""
    with anyio.move_on_after(0.25):
        await session.receive()
        return False
    return True


FAST = RouterLimits(
    busy_after_ms=20, p2_margin_ms=30, housekeeping_ms=10, reopen_first_ms=5, reopen_max_ms=10, max_queued=4
)


@asynccontextmanager
async def routing(limits: RouterLimits = FAST, policy: str = "") -> AsyncIterator[Bench]:
    """A running router; when it is left, no task of it may be left."""
    bench = Bench(limits, policy or default_policy_text())
    before = asyncio.all_tasks()
    async with anyio.create_task_group() as tg:
        await tg.start(bench.router.run)
        await until(lambda: all(t.is_reachable for t in bench.router.statistics().targets.values()))
        yield bench
        tg.cancel_scope.cancel()
    assert asyncio.all_tasks() == before
