"""ISO-TP: single-frame round trips and 4 kB transfers, ours beside can-isotp and the kernel's sockets.

Tester and ECU are in one process, each with a socket of its own, and all CPU time of both ends is counted. Where vcan
exists (``tests/vcan/run -- python -m bench.isotp``) the sockets are CAN sockets; elsewhere ours meet in memory and
can-isotp's on python-can's virtual bus. Where the kernel has ISO-TP (``tests/vcan/run --qemu``) its sockets are
the peer in time, since its work shows in no process: as they come (with their default pause of 50 µs between frames),
which the budget is about, and through our channels, which do without that pause.

The peer is what one writes with the library: a ``NotifierBasedCanStack`` per end, ``send`` and a blocking ``recv``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import can
import isotp

from bench.receive import CHANNEL, has_vcan
from gateway.can.link import CanLink
from gateway.can.link_memory import MemoryBus
from gateway.isotp import Address, IsoTpBus, Settings, open_channel
from gateway.isotp.bus import KernelUse
from gateway.isotp.kernel import OPTS, RECV_FC, SOL_CAN_ISOTP, TX_PADDING, has_kernel_isotp
from gateway.uds.channel import DiagnosticChannel

BUDGET_CPU, BUDGET_KERNEL = 10.0, 2.5
#: Each measurement, and how often ours and theirs take turns; the best of each counts. (The guest's CPU clock ticks in
#: hundredths of a second.)
SECONDS, TURNS = 0.8, 3
ADDRESS = Address(tx_id=0x7E0, rx_id=0x7E8)
SINGLE, LONG = b"\x22\xf1\x90", bytes(range(256)) * 15 + bytes(255)
BLOCK_SIZE = 64

Row = dict[str, Any]
Ends = tuple[DiagnosticChannel, DiagnosticChannel]


class Cost(NamedTuple):
    """Of one message exchanged."""

    cpu_s: float
    wall_s: float


@contextlib.asynccontextmanager
async def our_ends(use: KernelUse, tx_dl: int) -> AsyncIterator[Ends]:
    """Tester and ECU on two links."""
    settings = Settings(block_size=BLOCK_SIZE, tx_dl=tx_dl)
    if has_vcan():
        buses = [IsoTpBus("socketcan", CHANNEL, kernel=use) for _ in range(2)]
        links: list[CanLink] = [bus.link for bus in buses]
    else:
        bus = MemoryBus()
        links = [bus.link(), bus.link()]
    ends = open_channel(links[0], ADDRESS, settings), open_channel(links[1], ADDRESS.reversed(), settings)
    yield ends
    for end in ends:
        await end.aclose()
    for link in links:
        await link.aclose()


async def round_trip(ends: Ends) -> None:
    """A single frame there and back."""
    await ends[0].send(SINGLE)
    await ends[1].send(await ends[1].receive())
    await ends[0].receive()


async def transfer(ends: Ends) -> None:
    """4095 bytes one way."""
    await ends[0].send(LONG)
    if await ends[1].receive() != LONG:
        raise RuntimeError("not what was sent")


def ours(work: Callable[[Ends], Awaitable[None]], use: KernelUse = "never", tx_dl: int = 8) -> Cost:
    """The cost of ``work`` over our channels."""

    async def run() -> Cost:
        async with our_ends(use, tx_dl) as ends:
            await work(ends)
            count, cpu, wall = 0, time.process_time(), time.monotonic()
            while time.monotonic() - wall < SECONDS:
                await work(ends)
                count += 1
            return Cost((time.process_time() - cpu) / count, (time.monotonic() - wall) / count)

    return asyncio.run(run())


@contextlib.contextmanager
def their_ends(tx_dl: int) -> Iterator[tuple[isotp.NotifierBasedCanStack, isotp.NotifierBasedCanStack]]:
    """Two stacks of can-isotp, each with a bus and a notifier."""
    interface, channel = ("socketcan", CHANNEL) if has_vcan() else ("virtual", "bench")
    parameters = {
        "blocksize": BLOCK_SIZE, "tx_padding": 0xCC, "tx_data_length": tx_dl, "can_fd": tx_dl > 8,
    }  # fmt: skip
    opened: list[Any] = []
    stacks = []
    for tx, rx in ((0x7E0, 0x7E8), (0x7E8, 0x7E0)):
        options: dict[str, Any] = {"fd": True} if has_vcan() else {}
        bus = can.Bus(interface=interface, channel=channel, **options)
        notifier = can.Notifier(bus, [])
        address = isotp.Address(isotp.AddressingMode.Normal_11bits, txid=tx, rxid=rx)
        stack = isotp.NotifierBasedCanStack(bus, notifier, address=address, params=parameters)
        stack.start()
        stacks.append(stack)
        opened += [stack.stop, notifier.stop, bus.shutdown]
    try:
        yield stacks[0], stacks[1]
    finally:
        for close in opened:
            close()


def theirs(is_long: bool, tx_dl: int = 8) -> Cost:
    """The cost of the same over can-isotp."""
    with their_ends(tx_dl) as (tester, ecu):
        count, lost, cpu, wall = 0, 0, time.process_time(), time.monotonic()
        while time.monotonic() - wall < SECONDS:
            tester.send(LONG if is_long else SINGLE)
            got = ecu.recv(block=True, timeout=5)
            if not is_long and got is not None:
                ecu.send(got)
                got = tester.recv(block=True, timeout=5)
            count += got is not None
            lost += got is None
        if not count or lost > count:
            raise RuntimeError("can-isotp lost its messages")
        return Cost((time.process_time() - cpu) / count, (time.monotonic() - wall) / count)


def plain_kernel(is_long: bool) -> Cost:
    """Two kernel sockets as they come, but for padding and the block size; blocking."""
    with (
        socket.socket(socket.AF_CAN, socket.SOCK_DGRAM, socket.CAN_ISOTP) as tester,
        socket.socket(socket.AF_CAN, socket.SOCK_DGRAM, socket.CAN_ISOTP) as ecu,
    ):
        for end, rx, tx in ((tester, 0x7E8, 0x7E0), (ecu, 0x7E0, 0x7E8)):
            end.settimeout(20)
            end.setsockopt(SOL_CAN_ISOTP, OPTS, struct.pack("=IIBBBB", TX_PADDING, 0, 0, 0xCC, 0, 0))
            end.setsockopt(SOL_CAN_ISOTP, RECV_FC, struct.pack("BBB", BLOCK_SIZE, 0, 0))
            end.bind((CHANNEL, rx, tx))
        count, cpu, wall = 0, time.process_time(), time.monotonic()
        while time.monotonic() - wall < SECONDS:
            tester.send(LONG if is_long else SINGLE)
            got = ecu.recv(5000)
            if not is_long:
                ecu.send(got)
                tester.recv(5000)
            count += 1
        return Cost((time.process_time() - cpu) / count, (time.monotonic() - wall) / count)


def best(mine: Callable[[], Cost], peer: Callable[[], Cost]) -> tuple[Cost, Cost]:
    """The least of each in turns."""
    costs = [(mine(), peer()) for _ in range(TURNS)]
    a, b = (Cost(min(c.cpu_s for c in side), min(c.wall_s for c in side)) for side in zip(*costs, strict=True))
    return a, b


def run() -> list[Row]:
    """Rows against can-isotp in CPU time, and against the kernel, where it is, in time."""
    place = "vcan" if has_vcan() else "in memory"
    rows = []
    kinds = [("single-frame round trip", round_trip, False, 8), ("4 kB", transfer, True, 8)]
    if not has_kernel_isotp():
        kinds.append(("4 kB, FD", transfer, True, 64))
        for name, work, is_long, tx_dl in kinds:
            mine, peer = best(partial(ours, work, tx_dl=tx_dl), partial(theirs, is_long, tx_dl))
            ratio = peer.cpu_s / mine.cpu_s
            is_judged = has_vcan()
            rows.append(
                {
                    "name": f"ISO-TP {name}, {place}",
                    "value": round(1 / mine.cpu_s),
                    "unit": "1/CPU-s",
                    "peer": f"can-isotp {1 / peer.cpu_s:,.0f}",
                    "ratio": round(ratio, 2),
                    "budget": f">= {BUDGET_CPU:g}x" if is_judged else None,
                    "met": ratio >= BUDGET_CPU if is_judged else None,
                }
            )
        return rows
    for name, work, is_long, tx_dl in kinds:
        peers = {"plain kernel sockets": partial(plain_kernel, is_long)}
        peers["the kernel through our channels"] = partial(ours, work, "always", tx_dl)
        for peer_name, peer_run in peers.items():
            mine, peer = best(partial(ours, work, tx_dl=tx_dl), peer_run)
            ratio = mine.wall_s / peer.wall_s
            is_judged = is_long and peer_name.startswith("plain")
            rows.append(
                {
                    "name": f"ISO-TP {name}, {place}, time",
                    "value": round(mine.wall_s * 1000, 3),
                    "unit": "ms",
                    "peer": f"{peer_name} {peer.wall_s * 1000:,.3f}",
                    "ratio": round(ratio, 2),
                    "budget": f"<= {BUDGET_KERNEL:g}x" if is_judged else None,
                    "met": ratio <= BUDGET_KERNEL if is_judged else None,
                }
            )
    return rows


if __name__ == "__main__":
    for row in run():
        print(json.dumps(row))
