"""What the router keeps of a request under way, and its limits. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta

from gateway.diag.ports import Tester
from gateway.firewall.services import WITH_SUBFUNCTION

MS_NS = 1_000_000
#: Answers that ISO 14229-1 suppresses after a functional request.
FUNCTIONALLY_SILENT = frozenset({0x11, 0x12, 0x31, 0x7E, 0x7F})
BUSY, PENDING = 0x21, 0x78

_WITH_IDENTIFIER = frozenset({0x24, 0x2E, 0x2F})


class RouterLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of the router. The defaults suit a car with tens of ECUs and a few testers."""

    max_sessions: Annotated[int, Meta(ge=1)] = 64
    max_queued: Annotated[int, Meta(ge=1)] = 8  # requests of one tester that wait for one ECU
    max_functional: Annotated[int, Meta(ge=1)] = 32  # functional requests whose answers one ECU may still owe
    functional_ms: Annotated[int, Meta(ge=0)] = 1000  # on top of P2, for answers of several frames
    busy_after_ms: Annotated[int, Meta(ge=1)] = 40  # behind another tester, a request waits so long; then 0x21
    accept_within_ms: Annotated[int, Meta(ge=1)] = 1000  # a longer transmission is reported as accepted under way
    p2_margin_ms: Annotated[int, Meta(ge=0)] = 100  # for buses and this machine, on top of the ECU's P2 and P2*
    reception_ms: Annotated[int, Meta(ge=1)] = 30_000  # an answer that has begun may take so long
    late_after_ms: Annotated[int, Meta(ge=0)] = 5000  # a late answer still finds who asked
    inbox_pdus: Annotated[int, Meta(ge=1)] = 256  # answers that wait for a tester; the oldest are dropped, counted
    inbox_bytes: Annotated[int, Meta(ge=4096)] = 1 << 20
    housekeeping_ms: Annotated[int, Meta(ge=1)] = 250
    goodbye_ms: Annotated[int, Meta(ge=0)] = 1500  # at the stop, for closing the sessions that testers left open
    reopen_first_ms: Annotated[int, Meta(ge=1)] = 1000
    reopen_max_ms: Annotated[int, Meta(ge=1)] = 30_000


class TargetStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """One target since the start."""

    name: str
    is_reachable: bool
    requests: int = 0  # sent to the ECU
    answers: int = 0  # including 0x78 and what it sent unasked
    pending: int = 0  # 0x78
    unanswered: int = 0  # P2 or P2* ran out, or too many 0x78
    refused: int = 0  # by the firewall, silent ones included
    busy: int = 0  # answered 0x21 or 7E in the ECU's place
    swallowed: int = 0  # tester present during a conversation
    undelivered: int = 0  # answers nobody was there for
    failed: int = 0  # transmissions and receptions that failed


class RouterStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """The router since the start."""

    sessions: int
    ports: Mapping[str, int]  # sessions by port; the gateway's own clients are "gateway"
    inbox_dropped: int
    targets: Mapping[int, TargetStatistics]


class Asker(Protocol):
    """Who asked: a session."""

    @property
    def tester(self) -> Tester:
        """Who it is."""

    def deliver(self, target: int, pdu: bytes) -> bool:
        """Put an answer into the inbox; False when nobody is there any more."""


def is_suppressed(pdu: bytes) -> bool:
    """Whether the request asks for no positive answer."""
    return len(pdu) > 1 and pdu[0] in WITH_SUBFUNCTION and bool(pdu[1] & 0x80)


def is_keep_alive(pdu: bytes) -> bool:
    """3E 80."""
    return pdu[:1] == b"\x3e" and is_suppressed(pdu)


def negative(sid: int, nrc: int) -> bytes:
    """A negative response."""
    return bytes((0x7F, sid, nrc))


def is_answer_to(request: bytes, pdu: bytes) -> bool:
    """Whether ``pdu`` answers ``request``, as far as service, sub-function and identifiers tell.

    An answer too short to tell counts as one: it is the tester's to see that it is malformed.
    """
    sid = request[0]
    if pdu[0] == 0x7F:
        return len(pdu) > 1 and pdu[1] == sid
    if pdu[0] != sid | 0x40:
        return False
    if sid == 0x22:  # the first identifiers asked for may be ones the ECU does not know
        asked = {request[at : at + 2] for at in range(1, len(request) - 1, 2)}
        return len(pdu) < 3 or pdu[1:3] in asked
    if len(request) < 2 or len(pdu) < 2:
        return True
    if sid in WITH_SUBFUNCTION:
        if pdu[1] & 0x7F != request[1] & 0x7F:
            return False
        return sid != 0x31 or len(pdu) < 4 or pdu[2:4] == request[2:4]
    if sid in _WITH_IDENTIFIER:
        return len(pdu) < 3 or pdu[1:3] == request[1:3]
    return sid != 0x36 or pdu[1] == request[1]


class Timing:
    """P2 and P2* of one ECU: as configured, or longer if it says so in its answer to 0x10 (ISO 14229-1 §10.2)."""

    def __init__(self, p2_ms: int, p2_star_ms: int, margin_ms: int) -> None:
        self._configured = p2_ms, p2_star_ms
        self._margin_ms = margin_ms
        self.p2_ms, self.p2_star_ms = p2_ms + margin_ms, p2_star_ms + margin_ms

    def told(self, pdu: bytes) -> None:
        """A positive answer to 0x10 with its timing record."""
        if len(pdu) >= 6:
            p2_ms, p2_star_ms = pdu[2] << 8 | pdu[3], (pdu[4] << 8 | pdu[5]) * 10
            self.p2_ms = max(self._configured[0], p2_ms) + self._margin_ms
            self.p2_star_ms = max(self._configured[1], p2_star_ms) + self._margin_ms


class Conversation:
    """A request on its way or being answered. The state machine: open → (0x78)* → done."""

    __slots__ = ("asker", "begun_ns", "deadline_ns", "is_done", "is_silent", "last", "pendings", "request")

    def __init__(self, asker: Asker | None, request: bytes, deadline_ns: int, *, is_silent: bool = False) -> None:
        self.asker, self.request, self.deadline_ns = asker, request, deadline_ns
        self.is_silent = is_silent  # drop negative answers that a functional request has none of
        self.pendings = 0
        self.begun_ns = 0  # when an answer was first seen to have begun
        self.is_done = False
        self.last = b""

    @property
    def may_be_overtaken(self) -> bool:
        """Whether silence is the expected answer, so that the same tester's next request need not wait."""
        return self.pendings == 0 and is_suppressed(self.request)

    def take(self, pdu: bytes, now_ns: int, timing: Timing, max_pending: int) -> bool:
        """An answer to this request; True if it was one that the asker should see."""
        self.last = pdu
        if pdu[0] == 0x7F and len(pdu) > 2 and pdu[2] == PENDING:
            self.pendings += 1
            self.begun_ns = 0
            self.deadline_ns = now_ns + timing.p2_star_ms * MS_NS
            self.is_done = self.pendings > max_pending
            return True
        self.is_done = True
        return not (self.is_silent and pdu[0] == 0x7F and len(pdu) > 2 and pdu[2] in FUNCTIONALLY_SILENT)
