"""Where live values come from: identifiers asked in turn, OBD values, periodic messages of 0x2A, signals of a DBC."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

import anyio

from dbc.decode import Decoder, Values
from dbc.frames import EXTENDED, FD, FrameBatch
from dbc.manifest import Manifest
from gateway.can.link import CanFrame, CanLink
from gateway.errors import GatewayError
from gateway.uds.client import UdsClient
from gateway.uds.errors import NegativeResponse
from tester import obd_table
from tester.did import values_of
from tester.errors import UsageError
from tester.live import Board
from tester.vehicle import Did, Ecu

RATES = {"slow": 1, "medium": 2, "fast": 3}
STOP_PERIODIC = 4


def _put(board: Board, ecu: Ecu, did: Did, data: bytes) -> None:
    values = values_of(did, data)
    label = did.name or f"{did.number:04X}"
    for value in values:
        name = f"{label} {value.name}" if value.name and len(values) > 1 else label
        board.put(ecu.name, name, value.label or value.value, value.unit)


async def poll_dids(board: Board, ecu: Ecu, client: UdsClient, numbers: Sequence[int]) -> None:
    """Read each once."""
    for number in numbers:
        did = ecu.did(number)
        try:
            _put(board, ecu, did, await client.read_did(number))
        except NegativeResponse as refusal:
            board.fail(ecu.name, did.name or f"{number:04X}", refusal.name)
        except GatewayError:
            board.fail(ecu.name, did.name or f"{number:04X}", "no answer")


async def poll_pids(board: Board, ecu: Ecu, client: UdsClient, pids: Sequence[int]) -> None:
    """Read OBD values of mode 01, each once."""
    for pid in pids:
        try:
            answer = await client.request(bytes([1, pid]), (bytes([0x41, pid]),))
        except GatewayError:
            board.fail(ecu.name, f"PID {pid:02X}", "no answer")
            continue
        for reading in obd_table.read_pid(pid, (answer or b"")[2:]):
            board.put(ecu.name, reading.name, reading.value, reading.unit)


async def hear_periodic(board: Board, ecu: Ecu, client: UdsClient, numbers: Sequence[int], rate: str) -> None:
    """Have 0xF2xx sent by the ECU until cancelled; then stop them.

    Raises:
        GatewayError: refused.
    """
    await client.periodic(RATES[rate], [number & 0xFF for number in numbers])
    try:
        async for message in client.periodic_messages():
            _put(board, ecu, ecu.did(message.did), message.data)
    finally:
        it_ends_with_the_session_too = contextlib.suppress(GatewayError)
        with anyio.CancelScope(shield=True), anyio.move_on_after(1.0), it_ends_with_the_session_too:
            await client.periodic(STOP_PERIODIC)


def hear_uudt(board: Board, ecu: Ecu, numbers: Sequence[int], link: CanLink, can_id: int) -> Callable[[], None]:
    """Periodic messages on an identifier of their own: low byte of the identifier, data. Returns what ends it."""
    wanted = {number & 0xFF for number in numbers}

    def handle(frame: CanFrame) -> None:
        if frame.data and frame.data[0] in wanted:
            did = ecu.did(0xF200 | frame.data[0])
            _put(board, ecu, did, frame.data[1 : None if did.bytes is None else 1 + did.bytes])

    return link.hear([(can_id, can_id > 0x7FF)], handle)


class SignalSource:
    """Signals of a compiled DBC (a manifest) on buses that are only listened to."""

    def __init__(self, board: Board, manifest: Manifest, patterns: Sequence[str]) -> None:
        """``patterns``: ``bus.Message.Signal`` with ``*`` and ``?``.

        Raises:
            UsageError: nothing is meant.
        """
        self._board, self._manifest = board, manifest
        names = manifest.signal_names
        chosen = [i for i, name in enumerate(names) if any(fnmatchcase(name.lower(), p.lower()) for p in patterns)]
        if not chosen:
            raise UsageError(f"no signal of the manifest fits {', '.join(patterns)}")
        self._decoder, self._values = Decoder(manifest, chosen), Values(manifest)

    def hear(self, link: CanLink, bus: str) -> Callable[[], None]:
        """Begin; returns what ends it.

        Raises:
            UsageError: the manifest has no such bus.
        """
        if bus not in self._manifest.buses:
            raise UsageError(f"the manifest has no bus {bus!r}; name it: --via {self._manifest.buses[0]}=…")
        number = self._manifest.buses.index(bus)

        def handle(frame: CanFrame) -> None:
            flags = (EXTENDED if frame.extended else 0) | (FD if frame.fd else 0)
            batch = FrameBatch.from_rows([(frame.timestamp_ns, number, frame.can_id, flags, frame.data)])
            decoded = self._decoder.decode(batch)
            for signal, raw in zip(decoded.signal.tolist(), decoded.raw.tolist(), strict=True):
                about = self._values.describe(signal, raw)
                name = self._manifest.signal_names[signal].partition(".")[2]
                self._board.put(bus, name, about.label or about.value, about.unit)

        return link.hear(None, handle)
