"""A router over ECUs in memory, and a node in a thread of its own for clients that block."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.diag.config import DoipSection
from gateway.diag.ports import Tester, UnknownTargetError
from gateway.doip.messages import HEADER_BYTES, Message, decode, encode
from gateway.doip.model import NodeLimits, VehicleFacts, vehicle_facts
from gateway.doip.node import DoipNode
from gateway.errors import GatewayError
from gateway.runtime.clock import SystemClock
from gateway.runtime.health import HealthBoard
from gateway.uds.channel import ChannelClosedError

VIN = "0UTR1DERDEM000001".replace("0", "1")
MOTOR, BODY, GATEWAY, ALL = 0x1010, 0x1030, 0x1001, 0xE400
Ecu = Callable[[bytes], list[bytes]]


def ecu(name: str) -> Ecu:
    """Answers 3E, 22 F1 90 with its name, 36 with a pending first; what else, 7F SID 11."""

    def answer(pdu: bytes) -> list[bytes]:
        match pdu[:1]:
            case b"\x3e":
                return [] if pdu[1:2] == b"\x80" else [b"\x7e\x00"]
            case b"\x22":
                return [b"\x62" + pdu[1:3] + name.encode()]
            case b"\x36":
                return [b"\x7f\x36\x78", b"\x76" + pdu[1:2]]
            case _:
                return [bytes((0x7F, pdu[0], 0x11))]

    return answer


class MemorySession:
    """One tester's access; answers queue without limit unless it stops reading, which tests look at."""

    def __init__(self, router: MemoryRouter, tester: Tester) -> None:
        self.router, self._tester = router, tester
        self.answers: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue()
        self.is_closed = False

    @property
    def tester(self) -> Tester:
        return self._tester

    async def send(self, target: int, pdu: bytes) -> None:
        if (gate := self.router.gates.get(target)) is not None:
            self.router.waiting += 1
            await gate.wait()
        if (error := self.router.errors.get(target)) is not None:
            raise error
        ecus = [target] if target in self.router.ecus else list(self.router.functional_targets(target))
        if not ecus:
            raise UnknownTargetError(f"{target:#06x}")
        self.router.requests.append((target, pdu))
        for address in ecus:
            for answer in self.router.ecus[address](pdu):
                self.answers.put_nowait((address, answer))

    async def receive(self) -> tuple[int, bytes]:
        item = await self.answers.get()
        if item is None:
            raise ChannelClosedError("session closed")
        return item

    async def aclose(self) -> None:
        self.is_closed = True
        self.answers.put_nowait(None)
        self.router.sessions.remove(self)


class MemoryRouter:
    """ECUs that answer at once; ``gates`` hold requests to a target back, ``errors`` refuse them."""

    def __init__(self) -> None:
        self.ecus: dict[int, Ecu] = {MOTOR: ecu("motor"), BODY: ecu("body"), GATEWAY: ecu("gateway")}
        self.gates: dict[int, anyio.Event] = {}
        self.errors: dict[int, GatewayError] = {}
        self.sessions: list[MemorySession] = []
        self.testers: list[Tester] = []
        self.requests: list[tuple[int, bytes]] = []
        self.waiting = 0

    @property
    def targets(self) -> Collection[int]:
        return self.ecus.keys()

    def functional_targets(self, address: int) -> Collection[int]:
        return [MOTOR, BODY] if address == ALL else []

    def open_session(self, tester: Tester) -> MemorySession:
        session = MemorySession(self, tester)
        self.sessions.append(session)
        self.testers.append(tester)
        return session


def section(**changes: Any) -> DoipSection:
    """A section for tests: any free port, no announcements."""
    defaults: dict[str, Any] = {"enabled": True, "port": 0, "announce": False, "vin": VIN, "eid": "02:00:00:00:00:01"}
    return msgspec.structs.replace(DoipSection(), **(defaults | changes))


def facts(config: DoipSection) -> VehicleFacts:
    return vehicle_facts(config, "BENCH-1")


@asynccontextmanager
async def running(
    config: DoipSection, router: MemoryRouter | None = None, *, limits: NodeLimits | None = None, **hooks: Any
) -> AsyncIterator[DoipNode]:
    """A node that runs."""
    clock = SystemClock()
    node = DoipNode(
        config,
        router or MemoryRouter(),
        facts(config),
        clock,
        HealthBoard(),
        limits=limits or NodeLimits(announce_wait_ms=1, announce_interval_ms=5),
        **hooks,
    )
    async with anyio.create_task_group() as tasks:
        await tasks.start(node.run)
        yield node
        tasks.cancel_scope.cancel()


@contextmanager
def in_thread(config: DoipSection, router: MemoryRouter | None = None, **hooks: Any) -> Iterator[DoipNode]:
    """A node in a loop of its own, for clients that block."""
    ready: list[DoipNode] = []
    is_ready = threading.Event()
    stop: list[Callable[[], object]] = []

    async def main() -> None:
        done = asyncio.Event()
        loop = asyncio.get_running_loop()
        async with running(config, router, **hooks) as node:
            ready.append(node)
            stop.append(lambda: loop.call_soon_threadsafe(done.set))
            is_ready.set()
            await done.wait()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert is_ready.wait(10)
    try:
        yield ready[0]
    finally:
        stop[0]()
        thread.join(10)
    assert not thread.is_alive()


class Raw:
    """A tester that says exactly what it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.versions: set[int] = set()

    @classmethod
    async def connect(cls, node: DoipNode) -> Raw:
        return cls(*await asyncio.open_connection("127.0.0.1", node.port))

    def say(self, message: Message | bytes, version: int = 2) -> None:
        self.writer.write(message if isinstance(message, bytes) else encode(message, version))

    async def hear(self) -> Message:
        with anyio.fail_after(5):
            header = await self.reader.readexactly(HEADER_BYTES)
            self.versions.add(header[0])
            return decode(
                int.from_bytes(header[2:4], "big"), await self.reader.readexactly(int.from_bytes(header[4:], "big"))
            )

    async def ask(self, message: Message | bytes, version: int = 2) -> Message:
        self.say(message, version)
        return await self.hear()

    async def is_closed(self) -> bool:
        """Whether the node closed it, with nothing more to read; waits for that."""
        with anyio.fail_after(5):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True

    async def aclose(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            return


async def until(is_so: Callable[[], object]) -> None:
    """Let the loop run until something is so."""
    with anyio.fail_after(10):
        while not is_so():  # noqa: ASYNC110 - the node's numbers have no event
            await anyio.sleep(0.001)


class Certificates:
    """A CA, a node's certificate and a tester's, as files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._ca_key = ec.generate_private_key(ec.SECP256R1())
        self._ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "workshop CA")])
        self.ca = self._write("ca.pem", self._sign(self._ca_name, self._ca_key.public_key(), is_ca=True))
        self.node, self.node_key = self._issue("node")
        self.tester, self.tester_key = self._issue("workshop 7")

    def _issue(self, name: str) -> tuple[str, str]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return self._write(f"{name}.pem", self._sign(subject, key.public_key())), self._write(f"{name}.key", private)

    def _sign(self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, is_ca: bool = False) -> bytes:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._ca_name).public_key(key)
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        return builder.sign(self._ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _write(self, name: str, content: bytes) -> str:
        path = self.directory / name
        path.write_bytes(content)
        return str(path)


def free_port() -> int:
    """A port that nothing uses now, TCP and UDP."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
