"""What the guest tests of the CAN path share: sockets to send on, and a reader that is closed again."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio

from dbc.frames import FrameBatch
from gateway.can.config import BusConfig, ReadConfig
from gateway.can.layout import build_frames
from gateway.can.reader import BusReader
from gateway.can.socketcan import SocketCanPort
from gateway.wire.samples import Event

START_NS = 1_700_000_000_000_000_000


def frames(count: int, *, first: int = 0, can_id: int | None = None, bus: int = 0) -> FrameBatch:
    """``count`` classic frames whose payload is their number."""
    rows = []
    for n in range(first, first + count):
        rows.append((START_NS + n, bus, can_id if can_id is not None else n % 0x800, 0, n.to_bytes(8, "big")))
    return FrameBatch.from_rows(rows)


def open_sender(channel: str) -> socket.socket:
    """A raw socket that may send FD and error frames and hears nothing."""
    sock = socket.socket(socket.PF_CAN, socket.SOCK_RAW, socket.CAN_RAW)
    sock.setsockopt(socket.SOL_CAN_RAW, socket.CAN_RAW_FD_FRAMES, 1)
    sock.setsockopt(socket.SOL_CAN_RAW, socket.CAN_RAW_FILTER, b"")
    sock.bind((channel,))
    return sock


def send(channel: str, batch: FrameBatch) -> None:
    """Put all frames of the batch on the bus."""
    with open_sender(channel) as sock:
        for frame in build_frames(batch):
            sock.send(frame)


def ip(*arguments: str) -> None:
    """ip-link(8) and the like; the guest's root may."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@asynccontextmanager
async def reading(*configs: BusConfig, tick_ms: float = 0.0, max_batch: int = 2000) -> AsyncIterator[BusReader]:
    """A reader over SocketCAN buses, its opening events taken."""
    reader = BusReader(
        [SocketCanPort(configs, max_batch=max_batch)],
        ReadConfig(tick_ms=tick_ms, max_wait_ms=200, max_batch=max_batch),
    )
    try:
        await reader.receive()
        reader.take_events()
        yield reader
    finally:
        await reader.aclose()


async def receive_until(
    reader: BusReader, done: Callable[[Sequence[FrameBatch], Sequence[Event]], bool], timeout_s: float = 20
) -> tuple[FrameBatch, list[Event]]:
    """Receive until the batches and events so far satisfy ``done``."""
    batches: list[FrameBatch] = []
    events: list[Event] = []
    with anyio.fail_after(timeout_s):
        while not done(batches, events):
            batches.append(await reader.receive())
            events += reader.take_events()
    return FrameBatch.concatenate(batches), events


async def receive_frames(reader: BusReader, count: int) -> FrameBatch:
    """Receive until ``count`` frames came."""
    batch, _ = await receive_until(reader, lambda batches, _: sum(map(len, batches)) >= count)
    return batch
