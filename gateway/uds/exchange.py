"""One request and what may come of it: the rules of ISO 14229-1/-2 as a core. No I/O, no clock.

Theory of operation. A request waits for its first answer until P2 has passed; each 0x78 moves the deadline to P2* from
then, so many times and until the whole takes too long. 0x21 asks to repeat after a pause. An answer belongs to the
request when its SID fits and it repeats what the service repeats (sub-function, identifier, block counter); anything
else is foreign: late answers to former requests, or messages the ECU sends by itself. With the positive answer
suppressed, silence is success, unless a 0x78 came: then the final answer is due whatever was suppressed.
"""

from __future__ import annotations

from enum import Enum, auto

from gateway.uds.errors import NegativeResponse, NoAnswer, PendingTooLong, UnexpectedAnswer
from gateway.uds.names import NEGATIVE, POSITIVE_BIT, SUPPRESS_BIT, WITH_SUBFUNCTION, Nrc, Sid
from gateway.uds.timing import MS_NS, Timing


class Verdict(Enum):
    """What a PDU is to the request under way."""

    FOREIGN = auto()  # not an answer to it; wait on
    PENDING = auto()  # 0x78: wait on until the new deadline
    AGAIN = auto()  # 0x21: send it again after the pause
    DONE = auto()  # the positive answer
    REFUSED = auto()  # the final negative answer
    TOO_LONG = auto()  # 0x78 once too often


def is_suppressed(request: bytes) -> bool:
    """Whether a request asks for no positive answer."""
    return len(request) > 1 and request[0] in WITH_SUBFUNCTION and bool(request[1] & SUPPRESS_BIT)


def positive_prefix(request: bytes, echo: int) -> bytes:
    """What the positive answer begins with: the answer's SID and ``echo`` bytes of the request."""
    start = bytearray(request[: 1 + echo])
    start[0] |= POSITIVE_BIT
    if echo and request[0] in WITH_SUBFUNCTION:
        start[1] &= ~SUPPRESS_BIT
    return bytes(start)


class Exchange:
    """The state of one request. Call ``sent`` when it is on its way, then feed what comes."""

    def __init__(self, request: bytes, prefixes: tuple[bytes, ...], timing: Timing, *, extra_ms: int = 0) -> None:
        """Nothing sent yet.

        Args:
            request: the whole PDU.
            prefixes: what a positive answer may begin with.
            timing: the limits.
            extra_ms: added to every wait.

        Raises:
            ValueError: an empty request.
        """
        if not request:
            raise ValueError("an empty request")
        self.request, self.prefixes, self._timing = request, prefixes, timing
        self.is_suppressed = is_suppressed(request)
        self.pending = 0
        self.repeated = 0
        self.deadline_ns = 0
        self.resend_at_ns: int | None = None
        self._extra_ns = (timing.latency_ms + extra_ms) * MS_NS
        self._began_ns: int | None = None
        self._waits_since_ns = 0
        self._foreign: bytes | None = None

    @property
    def sid(self) -> int:
        """Of the request."""
        return self.request[0]

    @property
    def has_begun(self) -> bool:
        """Whether it has been transmitted."""
        return self._began_ns is not None

    def sent(self, now_ns: int) -> None:
        """The request has been transmitted."""
        if self._began_ns is None:
            self._began_ns = now_ns
        self.resend_at_ns = None
        self._wait(now_ns, self._timing.p2_ms)

    def _wait(self, now_ns: int, wait_ms: int) -> None:
        assert self._began_ns is not None  # a mistake of ours, not of a peer
        self._waits_since_ns = now_ns
        until = now_ns + wait_ms * MS_NS + self._extra_ns
        self.deadline_ns = max(now_ns, min(until, self._began_ns + self._timing.max_total_ms * MS_NS))

    def receive(self, pdu: bytes, now_ns: int) -> Verdict:
        """Judge one PDU."""
        if len(pdu) >= 3 and pdu[0] == NEGATIVE and pdu[1] == self.sid:
            return self._receive_negative(pdu[2], now_ns)
        if any(pdu.startswith(prefix) for prefix in self.prefixes) and not self._is_periodic_data(pdu):
            return Verdict.DONE
        if self._foreign is None:
            self._foreign = pdu
        return Verdict.FOREIGN

    @staticmethod
    def _is_periodic_data(pdu: bytes) -> bool:
        """Data of 0x2A begins like its answer, which is the SID alone."""
        return pdu[0] == Sid.READ_PERIODIC | POSITIVE_BIT and len(pdu) > 1

    def _receive_negative(self, nrc: int, now_ns: int) -> Verdict:
        if nrc == Nrc.RESPONSE_PENDING:
            self.pending += 1
            if self.pending > self._timing.max_pending or self.is_overdue(now_ns):
                return Verdict.TOO_LONG
            self._wait(now_ns, self._timing.p2_star_ms)
            return Verdict.PENDING
        if nrc == Nrc.BUSY and not self.pending and self.repeated < self._timing.busy_retries:
            self.repeated += 1
            self.resend_at_ns = now_ns + self._timing.busy_pause_ms * MS_NS
            return Verdict.REFUSED if self.is_overdue(self.resend_at_ns) else Verdict.AGAIN
        return Verdict.REFUSED

    def is_overdue(self, now_ns: int) -> bool:
        """Whether the limit on the whole has passed."""
        return self._began_ns is not None and now_ns - self._began_ns >= self._timing.max_total_ms * MS_NS

    def waits_on(self, now_ns: int, wait_ms: int) -> None:
        """The deadline passed, but an answer is arriving: wait for it, within the limit on the whole."""
        assert self._began_ns is not None  # a mistake of ours, not of a peer
        until = now_ns + wait_ms * MS_NS
        self.deadline_ns = min(until, self._began_ns + self._timing.max_total_ms * MS_NS)

    def give_up(self, now_ns: int) -> NoAnswer | PendingTooLong | UnexpectedAnswer | None:
        """The deadline has passed: what to raise, or None where silence means success."""
        if self.is_suppressed and not self.pending:
            return None
        if self.pending and self.is_overdue(now_ns):
            return self.too_long(now_ns)
        if self._foreign is not None and not self.pending:
            return UnexpectedAnswer(self.sid, self._foreign)
        return NoAnswer(self.sid, (now_ns - self._waits_since_ns) // MS_NS, self.pending)

    def too_long(self, now_ns: int) -> PendingTooLong:
        """The error of ``Verdict.TOO_LONG``."""
        return PendingTooLong(self.sid, self.pending, (now_ns - (self._began_ns or now_ns)) // MS_NS)

    def refusal(self, pdu: bytes) -> NegativeResponse:
        """The error of ``Verdict.REFUSED``."""
        return NegativeResponse(self.sid, pdu[2])
