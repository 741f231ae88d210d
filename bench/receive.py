"""Frames per CPU-second from the socket to what is worth storing, beside python-can and cantools in the same run.

20,000 frames are queued in a socket, then drained; only draining is timed. Where vcan exists (``tests/vcan/run --
python -m bench.receive``) the socket is a CAN socket; elsewhere the same code reads a local packet socket that carries
the same bytes and timestamps, which tells the cost in user space but is not CAN.

Ours is the path the gateway runs: ``BusReader.receive``, ``Decoder.decode`` of every signal the DBC has,
``Selector.feed``. The peer is what one writes with the libraries: ``Bus.recv``, then ``decode_message`` (numbers
without labels, its faster form) for identifiers the DBC knows.
"""

from __future__ import annotations

import contextlib
import json
import random
import select
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import can
import cantools.database
from can.interfaces.socketcan.socketcan import SocketcanBus, capture_message

from dbc.decode import Decoder
from dbc.frames import FrameBatch
from dbc.load import compile_manifest
from dbc.logs import open_log
from dbc.manifest import Manifest
from gateway.can import messages
from gateway.can.config import BusConfig, ReadConfig
from gateway.can.layout import build_frames
from gateway.can.ports import Poller
from gateway.can.reader import BusReader
from gateway.can.socketcan import SocketCanPort
from gateway.collect import Names, Selector, parse_scheme, resolve
from tests.support import DBC_DIR, LOG_DIR

FRAMES = 20_000
BUS, CHANNEL = "powertrain", "vcan0"
BUFFER_BYTES = 64 * 1024 * 1024
RUNS, PEER_RUNS = 5, 2
#: Frames per round on the stand-in, whose queue is short: about a tick of two full buses.
ROUND = 250
BUDGET_WHOLE = 20.0
#: What a fleet asks of a vehicle: every signal, on change, at most every 100 ms, and at least every 10 s.
SCHEME = """
id = "all"
version = 1
[[signals]]
name = "*"
on_change = true
min_period_ms = 100
heartbeat_ms = 10000
"""

Row = dict[str, Any]


def has_vcan() -> bool:
    """vcan0 is here."""
    return any(name == CHANNEL for _, name in socket.if_nameindex())


def traffic() -> tuple[str, FrameBatch, Path]:
    """The frames, a DBC that knows some of them, and where both come from."""
    log, dbc = LOG_DIR / "rav4_2016_bus0_60s.log.xz", DBC_DIR / "toyota_new_mc_pt_generated.dbc"
    if log.exists() and dbc.exists():
        with open_log(log) as reader:
            return "rav4", FrameBatch.concatenate(list(reader)).take(slice(0, FRAMES)), dbc
    dbc = Path(__file__).resolve().parent.parent / "simulator" / "data" / "outrider_one_powertrain.dbc"
    messages_ = [m for m in compile_manifest({BUS: [dbc]}, name="bench")[0].messages if not m.fd]
    chance = random.Random(1)
    rows = []
    for n in range(FRAMES):
        message = chance.choice(messages_)
        rows.append((n * 1_000_000, 0, message.can_id, int(message.extended), chance.randbytes(message.length)))
    return "simulated", FrameBatch.from_rows(rows), dbc


class Rig:
    """Where frames are queued and what reads them."""

    name: str
    round: int

    @contextlib.contextmanager
    def ours(self) -> Iterator[SocketCanPort]:
        """A port of ours, not opened."""
        raise NotImplementedError

    @contextlib.contextmanager
    def theirs(self) -> Iterator[Callable[[], can.Message | None]]:
        """python-can's receive."""
        raise NotImplementedError

    def send(self, frames: list[bytes]) -> int:
        """Queue frames; returns how many fitted."""
        raise NotImplementedError


class VcanRig(Rig):
    """A CAN socket."""

    name, round = "vcan", FRAMES

    def __init__(self) -> None:
        self.sender = socket.socket(socket.PF_CAN, socket.SOCK_RAW, socket.CAN_RAW)
        self.sender.setsockopt(socket.SOL_CAN_RAW, socket.CAN_RAW_FILTER, b"")
        self.sender.bind((CHANNEL,))

    @contextlib.contextmanager
    def ours(self) -> Iterator[SocketCanPort]:
        yield SocketCanPort([BusConfig(name=BUS, channel=CHANNEL, receive_buffer_bytes=BUFFER_BYTES)])

    @contextlib.contextmanager
    def theirs(self) -> Iterator[Callable[[], can.Message | None]]:
        bus = SocketcanBus(channel=CHANNEL)
        bus.socket.setsockopt(socket.SOL_SOCKET, messages.SO_RCVBUFFORCE, BUFFER_BYTES)
        try:
            yield lambda: bus.recv(0)
        finally:
            bus.shutdown()

    def send(self, frames: list[bytes]) -> int:
        for frame in frames:
            self.sender.send(frame)
        return len(frames)


class _StandInPort(SocketCanPort):
    """Our port with a socket that is given to it instead of a CAN interface."""

    def __init__(self, config: BusConfig, given: socket.socket) -> None:
        super().__init__([config])
        messages.prepare(given, config.receive_buffer_bytes)
        self._buses[0].socket = given

    def open(self, poller: Poller) -> None:
        self._poller = poller
        poller.add(self._buses[0].socket.fileno() if self._buses[0].socket else -1)


class LocalRig(Rig):
    """A local packet socket that carries the same bytes."""

    name, round = "host stand-in", ROUND

    def __init__(self) -> None:
        self.sender: socket.socket | None = None

    @contextlib.contextmanager
    def _pair(self) -> Iterator[socket.socket]:
        self.sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with self.sender, receiver:
            self.sender.setblocking(False)
            yield receiver

    @contextlib.contextmanager
    def ours(self) -> Iterator[SocketCanPort]:
        with self._pair() as receiver:
            yield _StandInPort(BusConfig(name=BUS, channel="none", receive_buffer_bytes=BUFFER_BYTES), receiver)

    @contextlib.contextmanager
    def theirs(self) -> Iterator[Callable[[], can.Message | None]]:
        with self._pair() as receiver:
            receiver.setsockopt(socket.SOL_SOCKET, messages.SO_TIMESTAMPNS, 1)

            def receive() -> can.Message | None:
                # What python-can's SocketCAN bus does per frame.
                if not select.select([receiver], [], [], 0)[0]:
                    return None
                return capture_message(receiver)

            yield receive

    def send(self, frames: list[bytes]) -> int:
        if self.sender is None:
            raise RuntimeError("no receiver")
        for n, frame in enumerate(frames):
            try:
                self.sender.send(frame)
            except BlockingIOError:
                return n
        return len(frames)


def drain_ours(rig: Rig, contents: list[bytes], work: Callable[[FrameBatch], object]) -> float:
    """CPU seconds of receiving all frames through the gateway's reader and handing the batches to ``work``."""

    async def run() -> float:
        with rig.ours() as port:
            reader = BusReader([port], ReadConfig(tick_ms=0, max_wait_ms=50))
            await reader.receive()
            spent, sent = 0.0, 0
            while sent < len(contents):
                count = rig.send(contents[sent : sent + rig.round])
                started, got = time.process_time(), 0
                while got < count:
                    batch = await reader.receive()
                    work(batch)
                    got += len(batch)
                spent += time.process_time() - started
                sent += count
            counters = reader.statistics()[0]
            await reader.aclose()
        if (counters.received, counters.kernel_dropped) != (len(contents), 0):
            raise RuntimeError(f"not all frames were received: {counters}")
        return spent

    return anyio.run(run)


def drain_theirs(rig: Rig, contents: list[bytes], work: Callable[[can.Message], object]) -> float:
    """CPU seconds of python-can for the same."""
    with rig.theirs() as receive:
        spent, sent = 0.0, 0
        while sent < len(contents):
            count = rig.send(contents[sent : sent + rig.round])
            started, got = time.process_time(), 0
            while got < count:
                message = receive()
                if message is not None:
                    work(message)
                    got += 1
            spent += time.process_time() - started
            sent += count
    return spent


def library_decoder(dbc: Path) -> Callable[[can.Message], object]:
    """cantools for frames it knows."""
    database = cantools.database.load_file(dbc, strict=False)
    if not isinstance(database, cantools.database.can.Database):
        raise TypeError(f"{dbc} holds no CAN messages")
    known = {message.frame_id for message in database.messages}

    def decode(message: can.Message) -> object:
        if message.arbitration_id in known:
            with contextlib.suppress(Exception):  # a frame it cannot decode is cheap for it
                data: Any = message.data  # a bytearray; making bytes of it would cost the peer
                return database.decode_message(message.arbitration_id, data, decode_choices=False)
        return None

    return decode


def our_stages(manifest: Manifest) -> list[tuple[str, Callable[[], Callable[[FrameBatch], object]]]]:
    """Name and maker of the work of each row; fresh state per run."""

    def selecting() -> Callable[[FrameBatch], object]:
        selector = Selector(manifest, [resolve(parse_scheme(SCHEME), Names(manifest))])
        return lambda batch: selector.feed(batch, time.time_ns())

    return [
        ("receive", lambda: lambda batch: None),
        ("receive + decode", lambda: Decoder(manifest).decode),
        ("receive + decode + select", selecting),
    ]


def run() -> list[Row]:
    """Three rows: receive alone, with decoding, and with selection; each against its peer on the same socket."""
    source, frames, dbc = traffic()
    manifest, _ = compile_manifest({BUS: [dbc]}, name="bench")
    contents = build_frames(frames)
    rig: Rig = VcanRig() if has_vcan() else LocalRig()
    alone = min(drain_theirs(rig, contents, lambda message: None) for _ in range(PEER_RUNS))
    decode = library_decoder(dbc)
    decoded = min(drain_theirs(rig, contents, decode) for _ in range(PEER_RUNS))
    rows = []
    for name, make in our_stages(manifest):
        # The mean: the guest's CPU clock ticks in hundredths of a second, too coarse for a median of short runs.
        spent = statistics.mean(drain_ours(rig, contents, make()) for _ in range(RUNS))
        peer_name, peer = ("python-can", alone) if name == "receive" else ("python-can + cantools", decoded)
        budget = BUDGET_WHOLE if name.endswith("select") and rig.name == "vcan" else None
        ratio = peer / spent
        rows.append(
            {
                "name": f"{name}, {source} frames, {rig.name}",
                "value": round(len(contents) / spent),
                "unit": "frames/CPU-s",
                "peer": f"{peer_name} {len(contents) / peer:,.0f}",
                "ratio": round(ratio, 2),
                "budget": f">= {budget:g}x" if budget else None,
                "met": ratio >= budget if budget else None,
            }
        )
    return rows


if __name__ == "__main__":
    for row in run():
        print(json.dumps(row))
