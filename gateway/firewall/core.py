"""The diagnostic firewall: policy, one writer at a time, brute-force protection, and a record of what it decided.

Order of judging, the first that says no decides: a request at all; a known service; well formed; the policy's rules,
for each item; nobody else holds the target; guessing; limits per minute. Only a request that passed all of it changes
what the firewall remembers. In mode "observe" everything goes through and the record tells what would not have.

A core: time is an argument, vehicle facts come from a callable that must be quick, records go to a sink that must not
raise. Judge a request immediately before it is sent, not when it is queued: vehicle and locks may have changed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from typing import Literal

import msgspec

from gateway.diag.ports import Tester
from gateway.firewall.guard import Guard
from gateway.firewall.policy import Rule
from gateway.firewall.ports import Decision, Verdict
from gateway.firewall.request import Item, Request, parse
from gateway.firewall.rules import Circumstances, CompiledPolicy
from gateway.firewall.services import OPAQUE, WITH_SUBFUNCTION, WRITING
from gateway.firewall.state import ACTING, SECOND_NS, Hold, TargetState, TesterKey, VehicleFacts, key_of

SERVICE_NOT_SUPPORTED, BUSY, CONDITIONS_NOT_CORRECT, DELAY_NOT_EXPIRED = 0x11, 0x21, 0x22, 0x37
MAX_BUCKETS = 1024
MAX_CLOSING_TRIES = 3
UNKNOWN_SPEED_NS = 5 * SECOND_NS  # so long a vehicle that stood is believed to stand
RECORDED_BYTES = 16
#: Requests that hold a target at least until they are answered. 0x10 back to default too: it ends a session.
_HOLDING = WRITING | OPAQUE | {0x10, 0x2C}
#: What they carry is secret: only service and sub-function are recorded.
_SECRET = frozenset({0x27, 0x29, 0x84})


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing worth recording. ``request`` is hexadecimal and may end in "…"; keys are left out."""

    kind: str  # "refuse", "drop", "observed", "write", "read", "session", "unlock", "lockout", "left", "expired",
    # "moving"
    tester: Tester
    target: int
    sid: int = 0
    request: str = ""
    rule: str = ""
    nrc: int = 0
    detail: str = ""
    is_functional: bool = False


class FirewallStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Requests judged since the start, by verdict, and who holds what now."""

    allowed: int
    refused: int
    dropped: int
    observed: int
    holds: Mapping[int, str]


class Firewall:
    """Judges requests; implements ``gateway.firewall.ports.DiagnosticFirewall``."""

    def __init__(
        self,
        policy: CompiledPolicy,
        *,
        vehicle: Callable[[int], VehicleFacts],
        record: Callable[[AuditEntry], None],
        changed: Callable[[], None] = lambda: None,
        mode: Literal["enforce", "observe"] = "enforce",
    ) -> None:
        """``vehicle`` is called with monotonic nanoseconds; ``changed`` when the guard's counts are to be saved."""
        self._changed = changed
        self._policy, self._vehicle, self._record, self._mode = policy, vehicle, record, mode
        self.guard = Guard(policy.policy.security_access)
        self._timeout_ns = policy.policy.lock.session_timeout_ms * 1_000_000
        self._targets: dict[int, TargetState] = {}
        self._buckets: OrderedDict[tuple[str, TesterKey, int], tuple[float, int]] = OrderedDict()
        self._stood_ns = 0  # when the vehicle was last known to stand
        self._counts = dict.fromkeys(("allowed", "refused", "dropped", "observed"), 0)

    def statistics(self) -> FirewallStatistics:
        """The numbers at this moment."""
        holds = {t: f"{s.hold.tester.port} {s.hold.tester.address:#06x}" for t, s in self._targets.items() if s.hold}
        return FirewallStatistics(holds=holds, **self._counts)

    def _state(self, target: int) -> TargetState:
        """Targets come from the router, which knows its own; so there are only as many as it has."""
        return self._targets.setdefault(target, TargetState())

    # judging

    def judge(self, tester: Tester, target: int, pdu: bytes, *, is_functional: bool, now_ns: int) -> Decision:
        """Decide on one request; what is allowed is taken as sent."""
        if not pdu:
            return Decision(verdict=Verdict.DROP, rule="empty request")
        request, key, state = parse(pdu), key_of(tester), self._state(target)
        self._expire(target, state, now_ns)
        session, unlocked = state.session_of(key)
        now = Circumstances(
            tester=tester,
            target=target,
            is_functional=is_functional,
            session=session,
            unlocked=unlocked,
            vehicle=_as_seen_from(self._vehicle(now_ns), session),
        )
        suppressed = request.sid in WITH_SUBFUNCTION and len(pdu) > 1 and bool(pdu[1] & 0x80)
        decision, rules = self._decide(request, now, state, suppressed, now_ns)
        if decision.verdict is not Verdict.ALLOW and self._mode == "observe":
            decision = msgspec.structs.replace(decision, verdict=Verdict.ALLOW, is_observed=True)
        if decision.verdict is Verdict.ALLOW:
            self._let_through(tester, target, state, request, suppressed, now_ns)
            self._note_acting(state, key, request, rules)
        self._tell(tester, target, pdu, request, decision, rules, is_functional)
        return decision

    def _decide(
        self, request: Request, now: Circumstances, state: TargetState, suppressed: bool, now_ns: int
    ) -> tuple[Decision, list[Rule]]:
        rules: list[Rule] = []
        decision = self._well_formed(request) or self._by_rules(request, now, state, rules)
        decision = decision or self._by_hold(request, now, state, suppressed)
        decision = decision or self._by_guard(request, now, now_ns)
        decision = decision or self._by_limits(rules, now, now_ns) or self._by_room(request, state)
        return decision or Decision(verdict=Verdict.ALLOW, rule=rules[0].name if rules else ""), rules

    def _well_formed(self, request: Request) -> Decision | None:
        if request.sid & 0x40:
            return Decision(verdict=Verdict.DROP, rule="an answer, not a request")
        if not self._policy.knows(request.sid):
            return Decision(verdict=Verdict.REFUSE, nrc=SERVICE_NOT_SUPPORTED, rule="unknown service")
        if request.nrc:
            return Decision(verdict=Verdict.REFUSE, nrc=request.nrc, rule="malformed", detail=request.detail)
        return None

    def _by_rules(self, request: Request, now: Circumstances, state: TargetState, rules: list[Rule]) -> Decision | None:
        for item in self._all_items(request, state):
            rule = self._policy.find(item, now)
            if rule is None:
                nrc = self._policy.policy.default_nrc
                return Decision(verdict=Verdict.REFUSE, nrc=nrc, rule="default", detail=_name(item))
            if rule.action == "drop":
                return Decision(verdict=Verdict.DROP, rule=rule.name, detail=_name(item))
            if rule.action == "refuse":
                return Decision(verdict=Verdict.REFUSE, nrc=rule.nrc, rule=rule.name, detail=_name(item))
            if not any(rule is known for known in rules):
                rules.append(rule)
        return None

    @staticmethod
    def _all_items(request: Request, state: TargetState) -> Collection[Item]:
        """The items, and what dynamically defined identifiers among them read."""
        items = dict.fromkeys(request.items)
        if state.definitions:
            for item in request.items:
                if item.sid in (0x22, 0x2A) and item.did in state.definitions:
                    items.update(dict.fromkeys(state.definitions[item.did]))
        return items

    def _by_hold(self, request: Request, now: Circumstances, state: TargetState, suppressed: bool) -> Decision | None:
        """One writer at a time; reading beside a download disturbs it."""
        key = key_of(now.tester)
        for other in self._targets.values() if self._policy.policy.lock.scope == "vehicle" else (state,):
            hold = other.hold
            if hold is None or (key_of(hold.tester) == key and not hold.is_abandoned):
                continue
            detail = f"held by {hold.tester.port} {hold.tester.address:#06x}"
            if request.sid == 0x3E:
                if other is state and suppressed:  # it would keep the other's session open
                    return Decision(verdict=Verdict.DROP, rule="keep-alive beside another tester", detail=detail)
            elif hold.is_exclusive and other is state:
                return Decision(verdict=Verdict.REFUSE, nrc=BUSY, rule="download of another tester", detail=detail)
            elif request.sid in _HOLDING:
                nrc = BUSY if hold.is_abandoned else self._policy.policy.lock.nrc
                return Decision(verdict=Verdict.REFUSE, nrc=nrc, rule="one writer at a time", detail=detail)
        return None

    def _by_guard(self, request: Request, now: Circumstances, now_ns: int) -> Decision | None:
        if request.sid not in (0x27, 0x29):
            return None
        detail = self.guard.must_wait(key_of(now.tester), now.target, now_ns)
        if (
            not detail
            and request.sid == 0x27
            and (request.sub or 0) % 2
            and not self.guard.take_seed(now.target, now_ns)
        ):
            detail = "too many seeds in a minute"
        if detail:
            return Decision(verdict=Verdict.REFUSE, nrc=DELAY_NOT_EXPIRED, rule="guessing keys", detail=detail)
        return None

    def _by_limits(self, rules: list[Rule], now: Circumstances, now_ns: int) -> Decision | None:
        """Token buckets, of a minute's worth. The least recently used one makes room."""
        for rule in rules:
            if rule.max_per_minute is None:
                continue
            place = rule.name, key_of(now.tester), now.target
            tokens, since_ns = self._buckets.pop(place, (float(rule.max_per_minute), now_ns))
            tokens += (now_ns - since_ns) * rule.max_per_minute / (60 * SECOND_NS)
            tokens = min(float(rule.max_per_minute), tokens)
            is_empty = tokens < 1
            self._buckets[place] = tokens if is_empty else tokens - 1, now_ns
            if len(self._buckets) > MAX_BUCKETS:
                self._buckets.popitem(last=False)
            if is_empty:
                detail = f"more than {rule.max_per_minute} in a minute"
                return Decision(verdict=Verdict.REFUSE, nrc=BUSY, rule=rule.name, detail=detail)
        return None

    @staticmethod
    def _by_room(request: Request, state: TargetState) -> Decision | None:
        """A definition nobody could remember would be a way around the rules."""
        if request.defines is None or state.define(request.defines, frozenset(request.items[1:])):
            return None
        return Decision(verdict=Verdict.REFUSE, nrc=CONDITIONS_NOT_CORRECT, rule="too many definitions")

    def _let_through(
        self, tester: Tester, target: int, state: TargetState, request: Request, suppressed: bool, now_ns: int
    ) -> None:
        state.renew(key_of(tester), now_ns)
        if request.sid not in _HOLDING:
            return
        is_free = state.hold is None or (key_of(state.hold.tester) == key_of(tester) and not state.hold.is_abandoned)
        if is_free:  # not so only in mode "observe"
            state.take(tester, request, now_ns, suppressed=suppressed)

    @staticmethod
    def _note_acting(state: TargetState, key: TesterKey, request: Request, rules: list[Rule]) -> None:
        hold = state.hold
        if hold is None or request.sid not in ACTING or key_of(hold.tester) != key:
            return
        hold.was_acting = hold.is_acting
        hold.is_acting |= any((rule.vehicle or "standstill") == "standstill" for rule in rules)

    def _tell(
        self, tester: Tester, target: int, pdu: bytes, request: Request, decision: Decision, rules: list[Rule],
        is_functional: bool,
    ) -> None:  # fmt: skip
        """Count, and record what is worth it: all that was not let through, and all writing that was."""
        if decision.is_observed:
            counted, kind = "observed", "observed"
        elif decision.verdict is Verdict.ALLOW:
            wishes = {rule.audit for rule in rules}
            is_worth = True in wishes or (request.is_writing and False not in wishes)
            counted, kind = "allowed", ("write" if request.is_writing else "read") if is_worth else ""
        elif decision.verdict is Verdict.REFUSE:
            counted, kind = "refused", "refuse"
        else:
            counted, kind = "dropped", "" if request.sid == 0x3E else "drop"
        self._counts[counted] += 1
        if kind:
            self._record(
                AuditEntry(
                    kind=kind,
                    tester=tester,
                    target=target,
                    sid=request.sid,
                    request=_shown(pdu),
                    rule=decision.rule,
                    nrc=decision.nrc if decision.verdict is Verdict.REFUSE or decision.is_observed else 0,
                    detail=decision.detail,
                    is_functional=is_functional,
                )
            )

    # what happened since

    def answered(self, tester: Tester, target: int, pdu: bytes, *, now_ns: int) -> None:
        """An ECU answered this tester: sessions, unlocks, failed keys and transfers follow from it."""
        if not pdu:
            return
        key, state = key_of(tester), self._state(target)
        before = state.session_of(key)
        sub = state.hold.sub or 0 if state.hold is not None and key_of(state.hold.tester) == key else 0
        state.answered(key, pdu, now_ns)
        after = state.session_of(key)
        if after[0] != before[0]:
            self._note("session", tester, target, 0x10, f"session {before[0]:#04x} to {after[0]:#04x}")
        if opened := after[1] - before[1]:
            self._note("unlock", tester, target, 0x27, f"level {max(opened):#04x}")
        if told := self.guard.answered(key, target, pdu, sub, now_ns):
            self._note("lockout", tester, target, pdu[1], told)
        if self.guard.has_changed:
            self._changed()

    def left(self, tester: Tester, *, now_ns: int) -> None:
        """The tester is gone: what it held is free, what it left open must be closed first (``abandoned``)."""
        for target, state in self._targets.items():
            if state.hold is not None and key_of(state.hold.tester) == key_of(tester):
                self._abandon("left", target, state)

    def abandoned(self, now_ns: int, *, busy: Collection[int] = ()) -> list[tuple[int, Tester]]:
        """Targets with something left open by a tester that left or fell silent for longer than S3.

        Whoever sends them 10 01 in that tester's name reports it by ``closed``; until then others may only read there.
        ``busy`` targets are still working on a request: that is no silence. What moves or silences something because
        the vehicle stood ends, too, when it drives off: at once, or when its speed is not known for too long. A
        download does not: cut off, the ECU would have no software; its blocks are refused until the vehicle stands.
        """
        found = []
        is_moving = self._is_moving(now_ns)
        for target, state in self._targets.items():
            if target in busy and state.hold is not None:
                state.hold.last_ns = now_ns
            self._expire(target, state, now_ns)
            if is_moving and state.hold is not None and state.hold.is_acting and not state.hold.is_exclusive:
                self._abandon("moving", target, state)
            if state.hold is not None and state.hold.is_abandoned:
                found.append((target, state.hold.tester))
        return found

    def _is_moving(self, now_ns: int) -> bool:
        """Whether it certainly moves, or nobody has known for too long."""
        facts = self._vehicle(now_ns)
        if facts.is_standing:
            self._stood_ns = now_ns
        return not facts.is_standing and (facts.speed_kmh is not None or now_ns - self._stood_ns > UNKNOWN_SPEED_NS)

    def closed(self, target: int, *, is_certain: bool) -> None:
        """10 01 was answered there, or not; after some vain tries the ECU's own S3 has done it."""
        hold = self._state(target).hold
        if hold is not None and hold.is_abandoned:
            hold.closing_tries += 1
            if is_certain or hold.closing_tries >= MAX_CLOSING_TRIES:
                self._targets[target].hold = None

    def _expire(self, target: int, state: TargetState, now_ns: int) -> None:
        hold = state.hold
        if hold is not None and not hold.is_abandoned and now_ns - hold.last_ns > self._timeout_ns:
            self._abandon("expired", target, state)

    def _abandon(self, kind: str, target: int, state: TargetState) -> None:
        hold = state.hold
        if hold is None or hold.is_abandoned:
            return
        if hold.may_be_open:
            hold.is_abandoned = True
            self._note(kind, hold.tester, target, 0, f"session {_open_session(hold):#04x} left open")
        else:
            state.hold = None

    def _note(self, kind: str, tester: Tester, target: int, sid: int, detail: str) -> None:
        self._record(AuditEntry(kind=kind, tester=tester, target=target, sid=sid, detail=detail))


def _open_session(hold: Hold) -> int:
    """The one it is in, or was asked to go to without having answered yet."""
    return hold.session if hold.is_lasting else hold.sub or 1


def _as_seen_from(vehicle: VehicleFacts, session: int) -> VehicleFacts:
    """A vehicle that was standing when its speed fell silent still stands for who has the target in programming.

    That session began at a known standstill, and its ECU runs its boot loader: what sends the speed may be this very
    ECU, or was silenced for the programming. Stopping a download in the middle would be no safer for anybody.
    """
    if session == 2 and vehicle.was_standing and vehicle.speed_kmh is None:
        return msgspec.structs.replace(vehicle, is_standing=True)
    return vehicle


def _name(item: Item) -> str:
    """What of a request was not allowed."""
    if item.did is not None:
        return f"0x{item.sid:02X} identifier 0x{item.did:04X}"
    if item.routine is not None:
        return f"0x{item.sid:02X} routine 0x{item.routine:04X}"
    if item.memory is not None:
        return f"0x{item.sid:02X} memory {item.memory[0]:#x}-{item.memory[1]:#x}"
    return f"0x{item.sid:02X}" + ("" if item.sub is None else f" {item.sub:02X}")


def _shown(pdu: bytes) -> str:
    shown = 2 if pdu[0] in _SECRET else RECORDED_BYTES
    return pdu[:shown].hex() + ("…" if len(pdu) > shown else "")
