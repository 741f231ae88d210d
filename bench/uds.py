"""UDS: 4 kB identifiers, downloads, and a session kept alive, ours beside udsoncan over can-isotp.

Tester and ECU are in one process, each with a socket or virtual bus of its own, and all CPU time of both ends is
counted. Where vcan exists (``tests/vcan/run -- python -m bench.uds``) the sockets are CAN sockets; elsewhere ours meet
in memory and theirs on python-can's virtual bus. The ECU is the least that answers, over the same ISO-TP as its tester.

The peer is what one writes with the libraries: ``udsoncan.Client`` on a ``PythonIsoTpConnection``. It moves less data,
as it takes its time; all figures are per megabyte.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from threading import Event, Thread
from typing import Any

import can
import isotp
import udsoncan.client
import udsoncan.configs
import udsoncan.connections

from bench.isotp import BLOCK_SIZE, our_ends
from bench.receive import CHANNEL, has_vcan
from gateway.uds.channel import DiagnosticChannel
from gateway.uds.client import UdsClient
from gateway.uds.transfer import download

Row = dict[str, Any]

BUDGET = 10.0
MEGABYTE = 1 << 20
DID, DID_BYTES = 0xD000, 4092
BLOCK_BYTES = 4095
READS, PEER_READS = 100, 8
PEER_DOWNLOAD_BYTES = 48 * 1024
SESSIONS, PEER_SESSIONS, IDLE_S = 20, 5, 5.2  # the first keep-alive is due after 2.5 s, the second after 5
_CONTENT = bytes(range(256)) * 16


def answer_of(request: bytes) -> bytes | None:
    """The ECU of both sides."""
    if request[0] == 0x22:
        return b"\x62" + request[1:3] + _CONTENT[:DID_BYTES]
    if request[0] == 0x34:
        return b"\x74\x20" + BLOCK_BYTES.to_bytes(2, "big")
    if request[0] == 0x36:
        return b"\x76" + request[1:2]
    if request[0] == 0x10:
        return b"\x50" + request[1:2] + b"\x00\x32\x01\xf4"
    if request[0] == 0x3E and request[1] & 0x80:
        return None
    return bytes([request[0] | 0x40])


async def _serve(channel: DiagnosticChannel) -> None:
    while True:
        answer = answer_of(await channel.receive())
        if answer is not None:
            await channel.send(answer)


def _our_cost(payload_bytes: int, work: Callable[[UdsClient], Any]) -> tuple[float, float]:
    """CPU and wall seconds per megabyte of ``payload_bytes`` moved by ``work``."""

    async def run() -> tuple[float, float]:
        async with our_ends("never", 8) as (tester, ecu):
            server = asyncio.create_task(_serve(ecu))
            client = UdsClient(tester)
            await client.read_did(DID)  # warm
            cpu, wall = time.process_time(), time.monotonic()
            await work(client)
            spent = time.process_time() - cpu, time.monotonic() - wall
            server.cancel()
            return spent[0] * MEGABYTE / payload_bytes, spent[1] * MEGABYTE / payload_bytes

    return asyncio.run(run())


async def _read(client: UdsClient) -> None:
    for _ in range(READS):
        if len(await client.read_did(DID)) != DID_BYTES:
            raise RuntimeError("not what was asked for")


async def _download(client: UdsClient) -> None:
    await download(client, 0, bytes(MEGABYTE))


def _their_stack(tx: int, rx: int, bus: can.BusABC, notifier: can.Notifier) -> isotp.NotifierBasedCanStack:
    address = isotp.Address(isotp.AddressingMode.Normal_11bits, txid=tx, rxid=rx)
    return isotp.NotifierBasedCanStack(
        bus, notifier, address=address, params={"blocksize": BLOCK_SIZE, "tx_padding": 0xCC}
    )


@contextlib.contextmanager
def their_clients(count: int) -> Iterator[list[udsoncan.client.Client]]:
    """Testers of udsoncan, each with an ECU of can-isotp, two buses for all."""
    interface, channel = ("socketcan", CHANNEL) if has_vcan() else ("virtual", "bench-uds")
    options: dict[str, Any] = {"fd": True} if has_vcan() else {}
    buses = [can.Bus(interface=interface, channel=channel, **options) for _ in range(2)]
    notifiers = [can.Notifier(bus, []) for bus in buses]
    stop, threads, clients = Event(), [], []

    def serve(stack: isotp.NotifierBasedCanStack) -> None:
        stack.start()
        while not stop.is_set():
            request = stack.recv(block=True, timeout=0.5)
            if request and (answer := answer_of(bytes(request))) is not None:
                stack.send(answer)
        stack.stop()

    for number in range(count):
        tx, rx = 0x600 + number, 0x680 + number
        threads.append(Thread(target=serve, args=(_their_stack(rx, tx, buses[1], notifiers[1]),)))
        threads[-1].start()
        connection = udsoncan.connections.PythonIsoTpConnection(_their_stack(tx, rx, buses[0], notifiers[0]))
        config: Any = dict(udsoncan.configs.default_client_config)
        config |= {"data_identifiers": {DID: f"{DID_BYTES}s"}, "request_timeout": 20, "p2_timeout": 10}
        clients.append(udsoncan.client.Client(connection, config=config))
        clients[-1].open()
    try:
        yield clients
    finally:
        for client in clients:
            client.close()
        stop.set()
        for thread in threads:
            thread.join()
        for notifier in notifiers:
            notifier.stop()
        for bus in buses:
            bus.shutdown()


def _their_cost(payload_bytes: int, work: Callable[[udsoncan.client.Client], None]) -> tuple[float, float]:
    with their_clients(1) as (client,):
        cpu, wall = time.process_time(), time.monotonic()
        work(client)
        spent = time.process_time() - cpu, time.monotonic() - wall
    return spent[0] * MEGABYTE / payload_bytes, spent[1] * MEGABYTE / payload_bytes


def _their_reads(client: udsoncan.client.Client) -> None:
    for _ in range(PEER_READS):
        client.read_data_by_identifier(DID)


def _their_download(client: udsoncan.client.Client) -> None:
    place = udsoncan.MemoryLocation(0, PEER_DOWNLOAD_BYTES, 32, 32)
    client.request_download(place)
    block = bytes(BLOCK_BYTES - 2)
    for number in range(PEER_DOWNLOAD_BYTES // len(block)):
        client.transfer_data((number + 1) & 0xFF, block)
    client.request_transfer_exit()


def _our_idle() -> float:
    """CPU milliseconds per second and session kept alive."""

    async def run() -> float:
        async with our_ends("never", 8) as (tester, ecu), contextlib.AsyncExitStack() as stack:
            server = asyncio.create_task(_serve(ecu))
            clients = [await stack.enter_async_context(UdsClient(tester)) for _ in range(SESSIONS)]
            for client in clients:
                await client.session(3)
            cpu = time.process_time()
            await asyncio.sleep(IDLE_S)
            spent = time.process_time() - cpu
            server.cancel()
            return spent * 1000 / IDLE_S / SESSIONS

    return asyncio.run(run())


def _their_idle() -> float:
    """The same for connections that are merely open: udsoncan keeps no session alive by itself."""
    with their_clients(PEER_SESSIONS) as clients:
        for client in clients:
            client.change_session(3)
        cpu = time.process_time()
        time.sleep(IDLE_S)
        return (time.process_time() - cpu) * 1000 / IDLE_S / PEER_SESSIONS


def _row(name: str, ours: tuple[float, float], theirs: tuple[float, float]) -> list[Row]:
    place = "vcan" if has_vcan() else "in memory"
    ratio = theirs[0] / ours[0]
    return [
        {
            "name": f"UDS {name}, CPU, {place}",
            "value": ours[0],
            "unit": "s/MB",
            "peer": f"udsoncan + can-isotp {theirs[0]:.1f} s/MB",
            "ratio": ratio,
            "budget": f"≥ {BUDGET:.0f}×" if has_vcan() else "",
            "met": ratio >= BUDGET if has_vcan() else None,
        },
        {"name": f"UDS {name}, time, {place}", "value": ours[1], "unit": "s/MB", "peer": f"{theirs[1]:.1f} s/MB"},
    ]


def run() -> list[Row]:
    """Rows against udsoncan over can-isotp."""
    read_bytes = PEER_READS * DID_BYTES
    blocks = PEER_DOWNLOAD_BYTES // (BLOCK_BYTES - 2) * (BLOCK_BYTES - 2)
    rows = _row("4 kB identifier", _our_cost(READS * DID_BYTES, _read), _their_cost(read_bytes, _their_reads))
    rows += _row("download of 1 MB", _our_cost(MEGABYTE, _download), _their_cost(blocks, _their_download))
    ours, theirs = _our_idle(), _their_idle()
    rows.append(
        {
            "name": "UDS session kept alive, CPU",
            "value": ours,
            "unit": "ms/s",
            "peer": f"an idle connection of udsoncan {theirs:.2f} ms/s",
            "ratio": theirs / ours if ours else None,
        }
    )
    return rows


if __name__ == "__main__":
    print(json.dumps(run(), indent=2, ensure_ascii=False))
