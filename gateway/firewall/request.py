"""What a request asks for, taken apart into items that are judged one by one. Bytes in, facts out; nothing raises.

A request for several data identifiers is several items; one that defines or schedules data is also a reading of every
source; one that stores another request (0x86) is also that request. A request passes only if each item does. What
cannot be taken apart as far as judging needs it is malformed and goes no further; bytes beyond that are the ECU's to
refuse.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.firewall.services import WITH_SUBFUNCTION, is_writing

INCORRECT_LENGTH, SUBFUNCTION_UNKNOWN, OUT_OF_RANGE = 0x13, 0x12, 0x31
#: More identifiers than this in one request are refused as ISO 14229-1 has it for "too many": 0x13.
MAX_ITEMS = 64

PERIODIC = 0xF200  # the high byte of periodic data identifiers
DYNAMIC = range(0xF200, 0xF400)  # what 0x2C may define

#: 0x86: event type -> bytes of its eventTypeRecord before the stored request (ISO 14229-1 §10.9).
#: Events of later editions (0x08, 0x09) carry no stored request and are refused until someone needs them.
_EVENT_RECORDS = {0x01: 1, 0x02: 1, 0x03: 2, 0x07: 10}
_EVENT_CONTROL = frozenset({0x00, 0x04, 0x05, 0x06})  # stop, report, start, clear: nothing stored
_EVENT_DIDS = frozenset({0x03, 0x07})  # their record begins with a data identifier


class Item(NamedTuple):
    """One thing asked for. ``memory`` is (first, last) address; ``sub`` is without the suppress bit."""

    sid: int
    sub: int | None = None
    did: int | None = None
    routine: int | None = None
    memory: tuple[int, int] | None = None

    @property
    def is_writing(self) -> bool:
        """Whether it changes something."""
        return is_writing(self.sid, self.sub)


class Request(NamedTuple):
    """A request taken apart. With ``nrc`` it is malformed, and that is the answer it deserves."""

    sid: int
    sub: int | None
    items: tuple[Item, ...]
    nrc: int = 0
    detail: str = ""
    defines: int | None = None  # the data identifier 0x2C defines from the items after the first

    @property
    def is_writing(self) -> bool:
        """Whether any part of it changes something."""
        return is_writing(self.sid, self.sub) or any(item.is_writing for item in self.items)


class _MalformedError(Exception):
    def __init__(self, nrc: int, detail: str) -> None:
        super().__init__(detail)
        self.nrc, self.detail = nrc, detail


def parse(pdu: bytes) -> Request:
    """Take a request of at least one byte apart."""
    sid = pdu[0]
    sub = pdu[1] & 0x7F if sid in WITH_SUBFUNCTION and len(pdu) > 1 else None
    try:
        if sid in WITH_SUBFUNCTION and sub is None:
            raise _MalformedError(INCORRECT_LENGTH, "no sub-function")
        items = _items(sid, sub, pdu)
        if len(items) > MAX_ITEMS:
            raise _MalformedError(INCORRECT_LENGTH, f"more than {MAX_ITEMS} identifiers")
    except _MalformedError as error:
        return Request(sid, sub, (), error.nrc, error.detail)
    return Request(sid, sub, items, defines=items[0].did if sid == 0x2C and sub in (1, 2) else None)


def _items(sid: int, sub: int | None, pdu: bytes) -> tuple[Item, ...]:
    if sid == 0x22:
        return _read_dids(pdu)
    if sid in (0x24, 0x2E, 0x2F):
        return (Item(sid, None, _word(pdu, 1)),)
    if sid in (0x23, 0x3D):
        return (Item(sid, memory=_memory(pdu, 1)),)
    if sid in (0x34, 0x35):
        return (Item(sid, memory=_memory(pdu, 2)),)
    if sid == 0x31:
        return (Item(sid, sub, routine=_word(pdu, 2)),)
    if sid == 0x38:
        return (Item(sid, _byte(pdu, 1)),)
    if sid == 0x2A:
        return _periodic(_byte(pdu, 1), pdu[2:])
    if sid == 0x2C:
        return _definition(sub, pdu)
    if sid == 0x86:
        return _event(sub or 0, pdu)
    return (Item(sid, sub),)


def _byte(pdu: bytes, at: int) -> int:
    if len(pdu) <= at:
        raise _MalformedError(INCORRECT_LENGTH, "too short")
    return pdu[at]


def _word(pdu: bytes, at: int) -> int:
    if len(pdu) < at + 2:
        raise _MalformedError(INCORRECT_LENGTH, "too short")
    return pdu[at] << 8 | pdu[at + 1]


def _read_dids(pdu: bytes) -> tuple[Item, ...]:
    if len(pdu) < 3 or len(pdu) % 2 == 0:
        raise _MalformedError(INCORRECT_LENGTH, "not whole data identifiers")
    if len(pdu) > 1 + 2 * MAX_ITEMS:
        raise _MalformedError(INCORRECT_LENGTH, f"more than {MAX_ITEMS} identifiers")
    return tuple(Item(0x22, None, did) for did in dict.fromkeys(_word(pdu, at) for at in range(1, len(pdu), 2)))


def _periodic(rate: int, lows: bytes) -> tuple[Item, ...]:
    """0x2A: each identifier is scheduled, and read."""
    items = [Item(0x2A, rate)] if not lows else []
    for low in dict.fromkeys(lows):
        items += [Item(0x2A, rate, PERIODIC | low), Item(0x22, None, PERIODIC | low)]
    return tuple(items)


def _memory(pdu: bytes, at: int, sizes: int | None = None) -> tuple[int, int]:
    """The range that an addressAndLengthFormatIdentifier at ``at`` announces (or ``sizes``, the range at ``at``)."""
    if sizes is None:
        sizes, at = _byte(pdu, at), at + 1
    address_bytes, length_bytes = sizes & 0x0F, sizes >> 4
    if not address_bytes or not length_bytes:
        raise _MalformedError(OUT_OF_RANGE, "no address or no length")
    if len(pdu) < at + address_bytes + length_bytes:
        raise _MalformedError(INCORRECT_LENGTH, "address or length cut short")
    address = int.from_bytes(pdu[at : at + address_bytes], "big")
    length = int.from_bytes(pdu[at + address_bytes : at + address_bytes + length_bytes], "big")
    return address, address + max(length, 1) - 1


def _definition(sub: int | None, pdu: bytes) -> tuple[Item, ...]:
    """0x2C: the identifier defined, then a reading of each source."""
    if sub == 3:
        return (Item(0x2C, 3, _word(pdu, 2) if len(pdu) > 2 else None),)
    if sub not in (1, 2):
        raise _MalformedError(SUBFUNCTION_UNKNOWN, "unknown kind of definition")
    items = [Item(0x2C, sub, _word(pdu, 2))]
    if items[0].did not in DYNAMIC:
        raise _MalformedError(OUT_OF_RANGE, "not an identifier that can be defined")
    if sub == 1:
        if len(pdu) < 8 or (len(pdu) - 4) % 4:
            raise _MalformedError(INCORRECT_LENGTH, "not whole sources")
        items += [Item(0x22, None, _word(pdu, at)) for at in range(4, len(pdu), 4)]
    else:
        sizes = _byte(pdu, 4)
        step = (sizes & 0x0F) + (sizes >> 4)
        if not step or len(pdu) < 5 + step or (len(pdu) - 5) % step:
            raise _MalformedError(INCORRECT_LENGTH, "not whole ranges")
        items += [Item(0x23, memory=_memory(pdu, at, sizes)) for at in range(5, len(pdu), step)]
    return tuple(dict.fromkeys(items))


def _event(sub: int, pdu: bytes) -> tuple[Item, ...]:
    """0x86: the set-up, the identifier it watches, and the request it stores."""
    event = sub & 0x3F  # bit 6 stores the event beyond the power cycle
    items: tuple[Item, ...] = (Item(0x86, sub),)
    if event in _EVENT_CONTROL:
        return items
    if event not in _EVENT_RECORDS:
        raise _MalformedError(SUBFUNCTION_UNKNOWN, "unknown event")
    stored = pdu[3 + _EVENT_RECORDS[event] :]
    if not stored:
        raise _MalformedError(INCORRECT_LENGTH, "no stored request")
    if event in _EVENT_DIDS:
        items += (Item(0x22, None, _word(pdu, 3)),)
    if stored[0] not in (0x19, 0x22):  # it runs later, when nobody judges it; and no event within an event
        raise _MalformedError(OUT_OF_RANGE, "a stored request may only read (0x19, 0x22)")
    inner = parse(stored)
    if inner.nrc:
        raise _MalformedError(inner.nrc, f"stored request: {inner.detail}")
    return items + inner.items
