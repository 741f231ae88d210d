"""Frames of a bus as diagnostic messages, by listening only: ISO-TP is put together, nothing is ever sent. No I/O.

Who speaks where is known from the vehicle; else by the habits of the standards: 29-bit 18DA/18DB identifiers, and the
11-bit ones of legislated OBD (7DF, 7E0-7EF).
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from gateway.can.link import CanFrame
from gateway.diag.addresses import address_of, functional_address_of
from gateway.errors import ConfigError
from gateway.isotp.framing import CONSECUTIVE, FIRST, FLOW_CONTROL, SINGLE, Framing
from gateway.isotp.model import Address, IsoTpError, Settings
from gateway.isotp.receiving import Receiver
from tester.trace_pdu import describe_pdu
from tester.vehicle import Ecu

MAX_MESSAGE_BYTES = 1 << 20
MAX_SPEAKERS = 4096
_LISTENING = Settings(block_size=0, max_message_bytes=MAX_MESSAGE_BYTES, n_cr_ms=5000)


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A PDU, or what went wrong with one (``problem``)."""

    at_ns: int
    bus: str
    can_id: int
    ecu: str
    direction: str  # request, answer, functional
    pdu: bytes = b""
    text: str = ""
    problem: str = ""


class _Speaker:
    """One identifier (with its extension byte): who sends on it, and its half of a conversation."""

    def __init__(self, ecu: Ecu | None, name: str, direction: str, extension: int | None) -> None:
        self.ecu, self.name, self.direction, self.extension = ecu, name, direction, extension
        anything = Address(tx_id=0x7E0, rx_id=0x7E8)
        self.receiver = Receiver(Framing(anything, _LISTENING), _LISTENING, extension)


#: Bus, identifier, whether it has 29 bits, extension byte.
_Key = tuple[str, int, bool, int | None]


class BusListener:
    """All conversations of some buses. ``ecus``: those known, each on its own bus or (``bus`` empty) on any."""

    def __init__(self, ecus: Iterable[Ecu]) -> None:
        self._known: dict[tuple[int, bool], list[tuple[Ecu, str, int | None]]] = {}
        self._speakers: dict[_Key, _Speaker] = {}
        self.ignored = 0  # frames that are no diagnostics
        for ecu in ecus:
            self._learn(ecu)

    def _learn(self, ecu: Ecu) -> None:
        if not ecu.link.request_id and ecu.link.addressing != "normal_fixed":
            return
        try:
            address = address_of(ecu.link)
        except ConfigError:
            return
        for identifier, direction, extension in (
            (address.tx_id, "request", address.tx_extension),
            (address.rx_id, "answer", address.rx_extension),
        ):
            self._known.setdefault((identifier, address.extended_id), []).append((ecu, direction, extension))
        where = functional_address_of(ecu.link)
        if where is not None:
            self._known.setdefault((where.tx_id, where.extended_id), []).append((ecu, "functional", None))

    def frame(self, bus: str, frame: CanFrame) -> list[Message]:
        """What a frame completes; usually nothing."""
        speaker = self._speaker(bus, frame)
        if speaker is None or len(frame.data) < (2 if speaker.extension is not None else 1):
            self.ignored += 1
            return []
        at = 0 if speaker.extension is None else 1
        kind = frame.data[at] & 0xF0
        if kind == FLOW_CONTROL or kind not in (SINGLE, FIRST, CONSECUTIVE) or len(frame.data) < at + 2:
            return []
        now_ns = frame.timestamp_ns
        events = [*speaker.receiver.expire(now_ns), *speaker.receiver.frame(frame.data, now_ns)]
        if speaker.receiver.offer() is not None:
            speaker.receiver.sent(now_ns)  # somebody else sends the flow control
        return [self._message(bus, frame, speaker, event) for event in events]

    @staticmethod
    def _message(bus: str, frame: CanFrame, speaker: _Speaker, event: bytes | IsoTpError) -> Message:
        is_pdu = isinstance(event, bytes)
        return Message(
            at_ns=frame.timestamp_ns, bus=bus, can_id=frame.can_id, ecu=speaker.name, direction=speaker.direction,
            pdu=event if isinstance(event, bytes) else b"",
            text=describe_pdu(event, speaker.ecu) if isinstance(event, bytes) else "",
            problem="" if is_pdu else str(event),
        )  # fmt: skip

    def _speaker(self, bus: str, frame: CanFrame) -> _Speaker | None:
        known = self._known.get((frame.can_id, frame.extended), [])
        first = frame.data[0] if frame.data else None
        mine = [k for k in known if k[0].link.bus in ("", bus)] or known
        for ecu, direction, extension in mine:
            if extension is None or extension == first:
                name = "*" if direction == "functional" else ecu.name
                return self._speaker_of((bus, frame.can_id, frame.extended, extension), ecu, name, direction)
        habit = None if known else by_habit(frame.can_id, frame.extended)
        if habit is None:
            return None
        return self._speaker_of((bus, frame.can_id, frame.extended, None), None, *habit)

    def _speaker_of(self, key: _Key, ecu: Ecu | None, name: str, direction: str) -> _Speaker | None:
        if key not in self._speakers:
            if len(self._speakers) >= MAX_SPEAKERS:
                return None
            self._speakers[key] = _Speaker(ecu, name, direction, key[3])
        return self._speakers[key]


def by_habit(can_id: int, extended: bool) -> tuple[str, str] | None:
    """(name of the ECU, direction) of identifiers that standards give to diagnostics."""
    if extended:
        kind, target, source = can_id >> 16, can_id >> 8 & 0xFF, can_id & 0xFF
        if kind == 0x18DB:
            return "*", "functional"
        if kind != 0x18DA:
            return None
        return (f"{target:02X}", "request") if source >= 0xF0 else (f"{source:02X}", "answer")
    if can_id == 0x7DF:
        return "*", "functional"
    if 0x7E0 <= can_id <= 0x7E7:
        return f"{can_id:X}", "request"
    return (f"{can_id - 8:X}", "answer") if 0x7E8 <= can_id <= 0x7EF else None
