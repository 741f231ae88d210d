"""What the firewall remembers of each target: who holds it, in which session, what is unlocked, what was defined.

One entry per target, each bounded, so that no flood of requests makes it grow. Answers of the ECU move it; a request
whose answer is suppressed is taken as accepted where that is the careful side. No I/O; time is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from gateway.diag.ports import Tester
from gateway.firewall.request import Item, Request

SECOND_NS = 1_000_000_000
#: What goes on after the answer, until the session ends: communication control, outputs, routines.
ACTING = frozenset({0x28, 0x2F, 0x31})
MAX_DEFINITIONS, MAX_SOURCES = 64, 128  # dynamically defined identifiers of one target, sources of one identifier


class VehicleFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the vehicle now. ``is_standing`` only if the speed is known, fresh and near zero.

    ``was_standing``: the last speed seen was near zero, however long ago.
    """

    is_standing: bool = False
    was_standing: bool = False
    speed_kmh: float | None = None
    voltage_v: float | None = None


#: Who a tester is, whatever connection it came by.
TesterKey = tuple[str, int, str]


def key_of(tester: Tester) -> TesterKey:
    """Port, address and name."""
    return tester.port, tester.address, tester.name


@dataclass(slots=True)
class Hold:
    """A tester holds a target: it writes, or has a session or a transfer open there."""

    tester: Tester
    since_ns: int
    last_ns: int  # of its last request or the last answer to it
    sid: int  # what took or last renewed it
    sub: int | None = None
    session: int = 1
    unlocked: frozenset[int] = frozenset()
    is_transferring: bool = False
    assumed_from: tuple[int, frozenset[int]] | None = None  # what it was before a session that no answer will confirm
    is_acting: bool = False  # it moves or silences something, which was allowed because the vehicle stood
    was_acting: bool = False  # before the last request of that kind, should it be refused
    is_abandoned: bool = False  # the tester left, or fell silent
    closing_tries: int = 0

    @property
    def is_exclusive(self) -> bool:
        """Whether even reading by others would disturb."""
        return self.session == 2 or self.is_transferring

    @property
    def is_lasting(self) -> bool:
        """Whether something stays open between requests."""
        return self.session != 1 or self.is_transferring or bool(self.unlocked)

    @property
    def may_be_open(self) -> bool:
        """Whether something is open, or will be once the ECU has done what it was asked."""
        return self.is_lasting or (self.sid == 0x10 and self.sub != 1)


@dataclass(slots=True)
class TargetState:
    """One target."""

    hold: Hold | None = None
    definitions: dict[int, frozenset[Item]] = field(default_factory=dict)

    def session_of(self, tester: TesterKey) -> tuple[int, frozenset[int]]:
        """The session and the unlocked levels this tester enjoys there."""
        if self.hold is not None and not self.hold.is_abandoned and key_of(self.hold.tester) == tester:
            return self.hold.session, self.hold.unlocked
        return 1, frozenset()

    def take(self, tester: Tester, request: Request, now_ns: int, *, suppressed: bool) -> None:
        """The tester's request was let through; it holds the target from now on, if only until the answer.

        Only call it when nobody else holds the target, and it is not abandoned.
        """
        if self.hold is None:
            self.hold = Hold(tester, now_ns, now_ns, request.sid)
        hold = self.hold
        hold.tester, hold.last_ns, hold.sid, hold.sub = tester, now_ns, request.sid, request.sub
        if request.sid == 0x10:
            hold.assumed_from = None
        if request.sid == 0x10 and suppressed and request.sub != 1:  # no answer will tell
            hold.assumed_from = hold.session, hold.unlocked
            hold.session, hold.unlocked = request.sub or 1, frozenset()

    def renew(self, tester: TesterKey, now_ns: int) -> None:
        """Whatever the holder sends keeps its session alive."""
        if self.hold is not None and not self.hold.is_abandoned and key_of(self.hold.tester) == tester:
            self.hold.last_ns = now_ns

    def define(self, did: int, sources: frozenset[Item]) -> bool:
        """Remember what a dynamically defined identifier reads; False when there is no room, and nothing is kept."""
        known = self.definitions.get(did)
        if known is None and len(self.definitions) >= MAX_DEFINITIONS:
            return False
        together = sources if known is None else known | sources  # ECUs append to an existing definition
        if len(together) > MAX_SOURCES:
            return False
        self.definitions[did] = together
        return True

    def answered(self, tester: TesterKey, pdu: bytes, now_ns: int) -> None:
        """The ECU answered this tester."""
        hold = self.hold
        if hold is None or key_of(hold.tester) != tester or not pdu:
            return
        hold.last_ns = now_ns
        if pdu[0] == 0x7F:
            if len(pdu) >= 3 and pdu[2] != 0x78:
                if pdu[1] == 0x10 and hold.assumed_from is not None:  # it was refused after all
                    (hold.session, hold.unlocked), hold.assumed_from = hold.assumed_from, None
                if pdu[1] in ACTING:
                    hold.is_acting = hold.was_acting
                self._release_if_done(pdu[1])
            return
        _positive(hold, pdu)
        self._forget_definitions(pdu)
        self._release_if_done(pdu[0] & ~0x40)

    def _forget_definitions(self, pdu: bytes) -> None:
        """A reset clears them, and 0x2C 03."""
        if pdu[0] == 0x51 or (pdu[0] == 0x6C and len(pdu) == 2 and pdu[1] == 3):
            self.definitions.clear()
        elif pdu[0] == 0x6C and len(pdu) == 4 and pdu[1] == 3:
            self.definitions.pop(pdu[2] << 8 | pdu[3], None)

    def _release_if_done(self, sid: int) -> None:
        """A hold for one request ends with its answer."""
        if self.hold is not None and self.hold.sid == sid and not self.hold.is_lasting:
            self.hold = None


def _positive(hold: Hold, pdu: bytes) -> None:
    """What a positive answer says about session, unlocks and transfers (ISO 14229-1 §10.2, §10.4, §14)."""
    sub = pdu[1] & 0x7F if len(pdu) > 1 else 0
    if pdu[0] == 0x50:
        hold.assumed_from = None
        hold.session, hold.unlocked, hold.is_transferring, hold.is_acting = sub, frozenset(), False, False
    elif pdu[0] == 0x51:
        hold.session, hold.unlocked, hold.is_transferring, hold.is_acting = 1, frozenset(), False, False
    elif pdu[0] == 0x67 and sub and sub % 2 == 0:
        hold.unlocked |= {sub - 1}
    elif pdu[0] == 0x67 and len(pdu) > 2 and not any(pdu[2:]):  # a zero seed: already open
        hold.unlocked |= {sub}
    elif pdu[0] in (0x74, 0x75, 0x78):  # 0x34, 0x35, 0x38 accepted
        hold.is_transferring = True
    elif pdu[0] == 0x77:
        hold.is_transferring = False
