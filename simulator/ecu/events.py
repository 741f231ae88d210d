"""Service 0x86: answers that come by themselves when something happens, until the window closes or the session ends."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from simulator.ecu.base import BaseService
from simulator.ecu.context import EcuContext
from simulator.ecu.description import EcuDescription
from simulator.ecu.service import Access, Call, Nrc, Refusal, SubFunction

STOP, ON_DTC, ON_DID, REPORT, START, CLEAR, ON_COMPARISON = 0x00, 0x01, 0x03, 0x04, 0x05, 0x06, 0x07
STORE = 0x40
#: Bytes of the event type record, by event.
RECORD_BYTES = {ON_DTC: 1, ON_DID: 2, ON_COMPARISON: 10}
#: Event windows in seconds; 02 is "for ever".
WINDOWS_S = {0x02: float("inf"), 0x03: 10.0, 0x04: 60.0, 0x05: 600.0}
#: Services an event may be answered with.
ANSWERED_WITH = (0x19, 0x22)
MAX_EVENTS = 4
#: An event that happens more often is told this often.
SHORTEST_S = 0.1
STORED = "events"


@dataclass(slots=True)
class _Event:
    kind: int
    window: int
    record: bytes
    respond: bytes
    happened: bool = False
    last: bytes | bool | None = None
    next_s: float = 0.0
    count: int = 0

    @property
    def setup(self) -> bytes:
        return bytes([self.window]) + self.record + self.respond


class ResponseOnEvent(BaseService):
    """0x86: onDTCStatusChange, onChangeOfDataIdentifier, onComparisonOfValues; each with or without storage."""

    SID = 0x86
    MIN_LENGTH = 3

    def __init__(self, context: EcuContext, description: EcuDescription) -> None:
        super().__init__(context, description)
        self._events: dict[int, _Event] = {}
        self._ends_s: float | None = None  # None: not started
        context.dtc_listeners.append(self._dtc_changed)

    def subfunctions(self) -> Mapping[int, SubFunction]:
        """See ``Service``."""
        access = Access(sessions=self.description.session_ids)
        plain = {n: SubFunction(access=access, length=3) for n in (STOP, REPORT, START, CLEAR)}
        plain |= {n: SubFunction(access=access) for n in RECORD_BYTES}
        return self.chosen(plain | {n | STORE: sub for n, sub in plain.items() if n != REPORT})

    def handle(self, call: Call) -> bytes:
        """See ``Service``."""
        assert call.sub is not None
        kind, store, window = call.sub & ~STORE, bool(call.sub & STORE), call.data[0]
        if window not in WINDOWS_S:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        if kind in RECORD_BYTES:
            out = self._set_up(call, kind, window)
        elif kind == REPORT:
            events = list(self._events.values())
            return bytes([call.sub, len(events)]) + b"".join(bytes([e.kind]) + e.setup for e in events)
        else:
            out = self._switch(call, kind, window)
        if store:
            self._store()
        return out

    def _set_up(self, call: Call, kind: int, window: int) -> bytes:
        record, respond = call.data[1 : 1 + RECORD_BYTES[kind]], call.data[1 + RECORD_BYTES[kind] :]
        if len(record) != RECORD_BYTES[kind] or len(respond) < 2:
            raise Refusal(Nrc.INCORRECT_LENGTH)
        if respond[0] not in ANSWERED_WITH or len(respond) > 16:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        if kind != ON_DTC and self._value(record) is None:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        if kind == ON_COMPARISON and record[2] not in (1, 2, 3, 4):
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        if kind not in self._events and len(self._events) >= MAX_EVENTS:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        self._events[kind] = _Event(kind, window, record, respond)
        return bytes([call.sub or 0, 0]) + call.data

    def _switch(self, call: Call, kind: int, window: int) -> bytes:
        if kind == START:
            if not self._events:
                raise Refusal(Nrc.REQUEST_SEQUENCE_ERROR)
            self._ends_s = call.now_s + WINDOWS_S[window]
            for event in self._events.values():
                event.last, event.happened, event.count = self._look(event), False, 0
        else:
            self._ends_s = None
            if kind == CLEAR:
                self._events.clear()
        return bytes([call.sub or 0, 0, window])

    def _store(self) -> None:
        events = [[e.kind, e.window, e.record, e.respond] for e in self._events.values()]
        self.context.nv.set(STORED, {"events": events, "started": self._ends_s is not None})

    def _value(self, record: bytes) -> bytes | None:
        number = int.from_bytes(record[:2], "big")
        did = self.context.dids.known.get(number)
        return None if did is None or did.read is None else self.context.dids.read(number)

    def _look(self, event: _Event) -> bytes | bool | None:
        """What is compared from one look to the next."""
        if event.kind == ON_DTC:
            return None
        value = self._value(event.record)
        if event.kind == ON_DID or value is None:
            return value
        return self._compare(event, value)

    @staticmethod
    def _compare(event: _Event, value: bytes) -> bool:
        """Record: DID, logic (1 <, 2 >, 3 =, 4 not =), reference (4), hysteresis in percent, place (2).

        The place: bit 15 signed, bits 14-10 length in bits (0: 32), bits 9-0 first bit, counted from the DID's first.
        """
        logic, reference, hysteresis = event.record[2], int.from_bytes(event.record[3:7], "big"), event.record[7]
        place = int.from_bytes(event.record[8:10], "big")
        length, first = (place >> 10 & 0x1F) or 32, place & 0x3FF
        total = 8 * len(value)
        length = min(length, max(0, total - first))
        raw = int.from_bytes(value, "big") >> max(0, total - first - length) & (1 << length) - 1
        if place & 0x8000:
            raw -= (1 << length) if length and raw >> length - 1 else 0
            reference -= (1 << 32) if reference >> 31 else 0
        band = abs(reference) * hysteresis / 100 if event.last is True else 0.0
        if logic == 1:
            return raw < reference + band
        if logic == 2:
            return raw > reference - band
        return (raw == reference) == (logic == 3)

    def _dtc_changed(self, dtc: int, before: int, after: int) -> None:
        event = self._events.get(ON_DTC)
        if event is not None and self._ends_s is not None and after & event.record[0] & (before ^ after):
            event.happened = True

    def tick(self, now_s: float) -> Collection[bytes]:
        """See ``Service``."""
        if self._ends_s is None:
            return ()
        out: list[bytes] = []
        if now_s >= self._ends_s:
            self._ends_s = None
            return [bytes([0xC6, e.kind, min(255, e.count)]) + e.setup for e in self._events.values()]
        for event in self._events.values():
            if event.kind != ON_DTC:
                seen = self._look(event)
                if seen != event.last and (event.kind == ON_DID or seen is True):
                    event.happened = True
                event.last = seen
            if event.happened and now_s >= event.next_s:
                event.happened, event.next_s, event.count = False, now_s + SHORTEST_S, event.count + 1
                answer = self.context.execute(event.respond, now_s)
                if isinstance(answer, bytes):
                    out.append(answer)
        return out

    def session_changed(self, session: int, now_s: float) -> None:
        """See ``Service``."""
        self._ends_s = None
        self._events.clear()

    def reset(self, now_s: float) -> None:
        """See ``Service``: what was stored is there again, and runs if it ran."""
        stored = self.context.nv.get(STORED)
        if not isinstance(stored, dict):
            return
        for kind, window, record, respond in stored["events"]:
            self._events[kind] = _Event(kind, window, record, respond)
        if stored["started"] and self._events:
            self._ends_s = now_s + min(WINDOWS_S[event.window] for event in self._events.values())
            for event in self._events.values():
                event.last = self._look(event)

    def describe(self) -> Mapping[str, object]:
        """See ``Service``."""
        return {"windows_s": {f"{n:02X}": s if s < 1e9 else None for n, s in WINDOWS_S.items()}, "at_most": MAX_EVENTS,
                "answered_with": [f"{sid:02X}" for sid in ANSWERED_WITH]}  # fmt: skip
