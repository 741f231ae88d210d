"""Many bad clients of the DoIP node at once: good ones keep working, and nothing of the bad ones stays."""

from __future__ import annotations

import asyncio
import gc
import random
import resource
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from gateway.doip.client import ClientSettings, DoipConnection
from gateway.doip.errors import ActivationRefusedError
from gateway.doip.messages import ActivationRequest, Diagnostic, PayloadType, encode, frame
from gateway.doip.model import NodeLimits
from gateway.doip.node import DoipNode
from gateway.uds.channel import ChannelClosedError
from tests.gateway.doip.support import ALL, BODY, MOTOR, MemoryRouter, running, section, until
from tests.support import LONG

pytestmark = pytest.mark.anyio

DURATION_S = 120.0 if LONG else 6.0
WORKERS = 12 if LONG else 4  # of each kind of bad client
GOOD, VISITOR, BAD = 0x0E01, 0x0E02, range(0x0F00, 0x1000)
TALKATIVE = 0x1020  # an ECU with long answers
MOST_GROWTH_KIB = 32 * 1024


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """With a small receive buffer, so that not reading shows soon."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    except BaseException:
        sock.close()
        raise
    return await asyncio.open_connection(sock=sock)


Badness = Callable[[asyncio.StreamReader, asyncio.StreamWriter, random.Random], Awaitable[None]]


async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random) -> None:
    """Random bytes, or a sound header with a payload that is none."""
    if rng.random() < 0.5:
        writer.write(rng.randbytes(rng.randrange(1, 3000)))
    else:
        writer.write(
            frame(rng.choice([*PayloadType, 0x1234]), rng.randbytes(rng.randrange(40)), rng.choice((2, 3, 255)))
        )
    await reader.read(1000)


async def half_messages(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random) -> None:
    """Announces much, sends a part, leaves."""
    writer.write(frame(PayloadType.DIAGNOSTIC, bytes(4000))[: rng.randrange(1, 2000)])
    await anyio.sleep(rng.random() * 0.05)


async def half_open(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter, _rng: random.Random) -> None:
    """Connects and says nothing until it is thrown out."""
    await reader.read(1)


async def never_reading(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random) -> None:
    """Activates, asks without end, reads nothing."""
    source = rng.choice(BAD)
    writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport
    writer.write(encode(ActivationRequest(source)))
    while not writer.is_closing():
        writer.write(encode(Diagnostic(source, TALKATIVE, b"\x22\xf1\x90")) * 4)
        await writer.drain()
        await anyio.sleep(0.005)


async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random) -> None:
    """Activates and floods with requests to all, known and unknown, and messages that are too long."""
    source = rng.choice(BAD)
    writer.write(encode(ActivationRequest(source)))
    for _ in range(20):
        writer.write(encode(Diagnostic(source, rng.choice((ALL, MOTOR, BODY, 0x4711)), rng.randbytes(20))) * 20)
        writer.write(frame(PayloadType.DIAGNOSTIC, bytes(5000)))
        await reader.read(65536)


async def cutting(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random) -> None:
    """Activates, asks, and resets the connection in the middle."""
    source = rng.choice(BAD)
    writer.write(encode(ActivationRequest(source)) + encode(Diagnostic(source, ALL, b"\x22\xf1\x90")) * 5)
    await anyio.sleep(rng.random() * 0.01)
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def taking_our_address(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _rng: random.Random) -> None:
    """Wants the good tester's address."""
    writer.write(encode(ActivationRequest(GOOD)))
    assert (await reader.readexactly(13))[12] != 0x10


BADNESS: tuple[Badness, ...] = (garbage, half_messages, half_open, never_reading, flood, cutting, taking_our_address)


class Soak:
    """The good and the bad on one node."""

    def __init__(self, node: DoipNode) -> None:
        self.node = node
        self.is_over = False
        self.exchanges = self.visits = self.turned_away = 0
        self.refused: Counter[int] = Counter()
        self.bad: Counter[str] = Counter()

    async def misbehave(self, behave: Badness, rng: random.Random) -> None:
        while not self.is_over:
            try:
                reader, writer = await connect(self.node.port)
            except OSError:
                await anyio.sleep(0.01)
                continue
            try:
                with anyio.move_on_after(2):
                    await behave(reader, writer, rng)
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            writer.transport.abort()
            self.bad[getattr(behave, "__name__", "")] += 1
            await anyio.sleep(0.005)

    async def datagrams(self, rng: random.Random) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            while not self.is_over:
                data = (
                    rng.randbytes(rng.randrange(60)) if rng.random() < 0.5 else frame(rng.choice([*PayloadType]), b"")
                )
                sock.sendto(data, ("127.0.0.1", self.node.port))
                self.bad["datagrams"] += 1
                await anyio.sleep(0.001)

    async def work(self, connection: DoipConnection) -> None:
        """The good tester, from before to after."""
        motor = connection.channel(MOTOR)
        while not self.is_over:
            await motor.send(b"\x22\xf1\x90")
            assert await motor.receive() == b"\x62\xf1\x90motor"
            self.exchanges += 1
            await anyio.sleep(0.002)

    async def visit(self) -> None:
        """Good testers that come and go; all places may be taken, by living ones, but never is nobody let in."""
        while not self.is_over:
            try:
                settings = ClientSettings(activation_timeout_s=20, connect_timeout_s=20)
                connection = await DoipConnection.open("127.0.0.1", self.node.port, VISITOR, settings=settings)
            except ActivationRefusedError as error:
                self.refused[error.code] += 1
                await anyio.sleep(0.01)
                continue
            except ChannelClosedError:  # pushed out by the crowd before it could speak
                self.turned_away += 1
                await anyio.sleep(0.01)
                continue
            body = connection.channel(BODY)
            await body.send(b"\x3e\x00")
            assert await body.receive() == b"\x7e\x00"
            await connection.aclose()
            self.visits += 1
            await anyio.sleep(0.02)

    async def run(self, connection: DoipConnection) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.work, connection)
            tasks.start_soon(self.visit)
            tasks.start_soon(self.datagrams, random.Random(7))
            for seed in range(WORKERS):
                for behave in BADNESS:
                    tasks.start_soon(self.misbehave, behave, random.Random(seed))
            await anyio.sleep(DURATION_S)
            self.is_over = True


def descriptors() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.timeout(DURATION_S + 120)
async def test_bad_clients_leave_nothing_and_good_ones_keep_working() -> None:
    router = MemoryRouter()
    router.ecus[TALKATIVE] = lambda pdu: [bytes(4000)]
    config = section(
        max_pending_connections=4, initial_inactivity_ms=2000, alive_check_ms=3000, general_inactivity_ms=60_000
    )
    limits = NodeLimits(write_buffer_bytes=16 * 1024, write_stall_ms=200, linger_ms=200)
    async with running(config, router, limits=limits) as node:
        connection = await DoipConnection.open(
            "127.0.0.1", node.port, GOOD, settings=ClientSettings(ack_timeout_s=20, max_pdu_bytes=4096)
        )
        await until(lambda: router.sessions)
        fds, tasks = descriptors(), len(asyncio.all_tasks())
        soak = Soak(node)
        warm_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        await soak.run(connection)
        await until(lambda: node.statistics().open == 1 and len(router.sessions) == 1)
        await until(lambda: len(asyncio.all_tasks()) <= tasks)
        await until(lambda: descriptors() <= fds)
        grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - warm_kib
        statistics = node.statistics()
        assert connection.is_open
        await connection.channel(BODY).send(b"\x3e\x00")
        await connection.aclose()
    assert set(soak.bad) == {getattr(b, "__name__", "") for b in BADNESS} | {"datagrams"}
    assert soak.exchanges > 10
    assert soak.visits > soak.turned_away
    assert set(soak.refused) <= {0x01, 0x03}
    assert grown_kib < MOST_GROWTH_KIB, f"{grown_kib} KiB after {sum(soak.bad.values())} bad clients"
    assert statistics.closed.get("does not read", 0) > 0
    assert statistics.evicted > 0
    good = f"{soak.exchanges=} {soak.visits=} {soak.refused=} {soak.turned_away=}"
    print(f"{dict(soak.bad)} {good} {grown_kib=} {statistics}")
