"""Response on event (0x86): have the ECU answer a service by itself when something happens."""

from __future__ import annotations

from enum import IntEnum

from gateway.uds.codec.query import Answer, Query, Reader, byte, number, query, sub_function
from gateway.uds.names import Sid


class EventType(IntEnum):
    """Sub-functions of 0x86; bit 6 asks to keep the event over a power cycle."""

    STOP = 0
    ON_DTC_STATUS_CHANGE = 1
    ON_TIMER = 2
    ON_CHANGE_OF_DID = 3
    REPORT_ACTIVATED = 4
    START = 5
    CLEAR = 6
    ON_COMPARISON = 7
    MOST_RECENT_DTC = 8
    DTC_RECORD = 9


STORAGE_BIT = 0x40
INFINITE_WINDOW = 0x02
#: Length of the eventTypeRecord, in requests and answers.
RECORD_BYTES = {0: 0, 1: 1, 2: 1, 3: 2, 4: 0, 5: 0, 6: 0, 7: 10, 8: 1, 9: 2}


class EventSetUp(Answer, frozen=True):
    """An event as the ECU keeps it. ``service``: the request it will answer."""

    event: int
    window: int
    record: bytes
    service: bytes


class EventAnswer(Answer, frozen=True):
    """The answer to a set-up, a start or stop, or the final one when the window ends; ``happened`` counts events."""

    event: int
    happened: int
    set_up: EventSetUp


class ActivatedEvents(Answer, frozen=True):
    """The answer to ``REPORT_ACTIVATED``."""

    events: tuple[EventSetUp, ...]


def _record_bytes(event: int) -> int:
    return RECORD_BYTES.get(event & ~STORAGE_BIT, 0)


def read_event_answer(reader: Reader) -> EventAnswer:
    """After the SID."""
    event, happened, window = reader.number(1, "event type"), reader.number(1, "count"), reader.number(1, "window")
    record = reader.take(_record_bytes(event), "event record")
    return EventAnswer(event, happened, EventSetUp(event, window, record, reader.rest()))


def response_on_event(
    event: int, window: int = INFINITE_WINDOW, record: bytes = b"", service: bytes = b"", *, stored: bool = False
) -> Query[EventAnswer]:
    """Set up an event, or start, stop, clear those set up. ``service`` is the whole request to answer.

    Raises:
        ValueError: a record that is not of the length the event type has, or ``REPORT_ACTIVATED``.
    """
    if event == EventType.REPORT_ACTIVATED:
        raise ValueError("use activated_events")
    if event in RECORD_BYTES and len(record) != RECORD_BYTES[event]:
        raise ValueError(f"event type {event} has a record of {RECORD_BYTES[event]} bytes, not {len(record)}")
    kind = sub_function(event | (STORAGE_BIT if stored else 0))
    return query(
        bytes([Sid.RESPONSE_ON_EVENT]) + kind + byte(window, "window") + record + service, 1, read_event_answer
    )


#: Length of a service to respond to, by its SID; what other SIDs have, the answer does not tell.
_SERVICE_BYTES = {Sid.READ_DID: 3, Sid.READ_DTCS: 2, Sid.IO_CONTROL: 4, Sid.ROUTINE: 4}
_WITH_MASK = frozenset({0x01, 0x02, 0x0F, 0x11, 0x12, 0x13})  # reports of 0x19 with one more byte


def _read_service(reader: Reader, *, is_last: bool) -> bytes:
    if is_last:
        return reader.rest()
    sid = reader.number(1, "service")
    if sid not in _SERVICE_BYTES:
        raise reader.fail(f"where service 0x{sid:02X} ends cannot be told")
    service = bytes([sid]) + reader.take(_SERVICE_BYTES[Sid(sid)] - 1, "service")
    if sid == Sid.READ_DTCS and service[1] in _WITH_MASK:
        service += reader.take(1, "service")
    return service


def activated_events(window: int = INFINITE_WINDOW) -> Query[ActivatedEvents]:
    """Which events are active."""

    def read(reader: Reader) -> ActivatedEvents:
        reader.take(1, "echo")
        count = reader.number(1, "number of events")
        found = []
        for index in range(count):
            event, until = reader.number(1, "event type"), reader.number(1, "window")
            record = reader.take(_record_bytes(event), "event record")
            found.append(EventSetUp(event, until, record, _read_service(reader, is_last=index == count - 1)))
        if not count:
            reader.rest()  # the window may be repeated
        return ActivatedEvents(tuple(found))

    request = bytes([Sid.RESPONSE_ON_EVENT, EventType.REPORT_ACTIVATED]) + number(window, 1, "window")
    return query(request, 1, read)
