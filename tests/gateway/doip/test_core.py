"""The rules of connections and routing activation, in virtual time; any order of events keeps the invariants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.doip.core import Action, Activated, Close, DoipCore, Phase, Route, Send
from gateway.doip.messages import (
    ActivationRequest,
    ActivationResponse,
    AliveCheckRequest,
    AliveCheckResponse,
    Diagnostic,
    DiagnosticNack,
    HeaderNack,
    Message,
    PayloadType,
    decode,
    encode,
    frame,
)
from gateway.doip.model import Applicant, Verdict, authorise
from tests.gateway.doip.support import MOTOR, section

TESTER = 0x0E80
MS = 1_000_000


def said(actions: list[Action], key: int | None = None) -> list[Message]:
    """The messages among actions."""
    sends = [a.data for a in actions if isinstance(a, Send) and key in (None, a.key)]
    return [decode(int.from_bytes(d[2:4], "big"), d[8:]) for d in sends]


def closed(actions: list[Action]) -> list[int]:
    return [a.key for a in actions if isinstance(a, Close)]


class Bench:
    """A core and a clock."""

    def __init__(self, judge: Callable[[Applicant], Verdict] = authorise, **changes: Any) -> None:
        receive_bytes = changes.pop("receive_bytes", 1 << 20)
        self.core = DoipCore(
            section(**changes), is_target=lambda t: t == MOTOR, authorise=judge, receive_bytes=receive_bytes
        )
        self.now_ns = 0
        self.keys = 0

    def open(self, *, is_tls: bool = False, name: str = "") -> int:
        self.keys += 1
        self.last = self.core.open(self.keys, self.now_ns, peer="somewhere", is_tls=is_tls)
        if name:
            self.core.identified(self.keys, name)
        return self.keys

    def say(self, key: int, message: Message, version: int = 2) -> list[Action]:
        return self.core.receive(key, encode(message, version), self.now_ns)

    def active(self, source: int) -> int:
        key = self.open()
        assert code(self.say(key, ActivationRequest(source))) == 0x10
        return key

    def wait(self, ms: int) -> list[Action]:
        """Let time pass, waking the core when it asked for it."""
        actions: list[Action] = []
        end_ns = self.now_ns + ms * MS
        while (deadline := self.core.next_deadline_ns()) is not None and deadline <= end_ns:
            self.now_ns = max(self.now_ns, deadline)
            actions += self.core.handle_deadline(self.now_ns)
        self.now_ns = end_ns
        return actions


def code(actions: list[Action], key: int | None = None) -> int | None:
    """The code of the activation response among actions; None when there is none."""
    return next((m.code for m in said(actions, key) if isinstance(m, ActivationResponse)), None)


# routing activation


@pytest.mark.parametrize("kind", range(256))
def test_a_sweep_over_activation_types_learns_which_there_are_and_never_blocks(kind: int) -> None:
    """As discovery scanners do it: every type, with a source address that is none."""
    bench = Bench()
    key = bench.open()
    actions = bench.say(key, ActivationRequest(0x0000, kind))
    assert code(actions) == (0x00 if kind in (0x00, 0x01, 0xE0) else 0x06)
    assert closed(actions) == [key]


@pytest.mark.parametrize(("source", "expected"), [(0x0DFF, 0x00), (0x0E00, 0x10), (0x0FFF, 0x10), (0x1000, 0x00)])
def test_only_configured_source_addresses_are_activated(source: int, expected: int) -> None:
    bench = Bench()
    assert code(bench.say(bench.open(), ActivationRequest(source))) == expected


def test_an_activation_repeated_is_confirmed_once_more_and_activates_once() -> None:
    bench = Bench()
    key = bench.open()
    actions = bench.say(key, ActivationRequest(TESTER)) + bench.say(key, ActivationRequest(TESTER, 1))
    assert [m.code for m in said(actions) if isinstance(m, ActivationResponse)] == [0x10, 0x10]
    assert [a for a in actions if isinstance(a, Activated)] == [Activated(key, TESTER, 0)]


def test_a_connection_has_one_source_address() -> None:
    bench = Bench()
    key = bench.active(TESTER)
    actions = bench.say(key, ActivationRequest(TESTER + 1))
    assert (code(actions), closed(actions)) == (0x02, [key])


def test_plain_connections_are_sent_to_tls_where_it_is_required() -> None:
    bench = Bench(require_tls=True)
    plain, secured = bench.open(), bench.open(is_tls=True)
    assert code(bench.say(plain, ActivationRequest(TESTER))) == 0x07
    assert code(bench.say(secured, ActivationRequest(TESTER))) == 0x10


def test_central_security_needs_a_verified_certificate() -> None:
    bench = Bench()
    plain, secured, verified = bench.open(), bench.open(is_tls=True), bench.open(is_tls=True, name="workshop 7")
    asked = ActivationRequest(TESTER, 0xE0)
    assert code(bench.say(plain, asked)) == 0x07
    missing = bench.say(secured, asked)
    assert (code(missing), closed(missing)) == (0x04, [])
    assert code(bench.say(verified, ActivationRequest(TESTER + 1, 0xE0))) == 0x10


def test_without_authentication_nothing_is_routed_and_a_second_try_is_possible() -> None:
    verdicts = [Verdict.AUTHENTICATE, Verdict.ALLOWED]
    bench = Bench(lambda applicant: verdicts.pop(0))
    key = bench.open()
    assert code(bench.say(key, ActivationRequest(TESTER))) == 0x04
    actions = bench.say(key, ActivationRequest(TESTER))
    assert code(actions) == 0x10
    assert Activated(key, TESTER, 0) in actions


def test_a_request_before_authentication_is_refused() -> None:
    bench = Bench(lambda applicant: Verdict.AUTHENTICATE)
    key = bench.open()
    bench.say(key, ActivationRequest(TESTER))
    actions = bench.say(key, Diagnostic(TESTER, MOTOR, b"\x3e\x00"))
    assert said(actions) == [DiagnosticNack(MOTOR, TESTER, 0x02)]
    assert closed(actions) == [key]


@pytest.mark.parametrize("accepted", [True, False])
def test_confirmation_in_the_vehicle_decides(accepted: bool) -> None:
    bench = Bench(lambda applicant: Verdict.CONFIRM)
    key = bench.open()
    asked = bench.say(key, ActivationRequest(TESTER))
    assert (code(asked), closed(asked)) == (0x11, [])
    assert bench.core.confirm(TESTER + 1, accepted, 0) == []
    decided = bench.core.confirm(TESTER, accepted, 0)
    assert code(decided) == (0x10 if accepted else 0x05)
    assert (Activated(key, TESTER, 0) in decided, closed(decided)) == ((True, []) if accepted else (False, [key]))
    assert bench.core.confirm(TESTER, accepted, 0) == []


def test_an_authoriser_may_refuse() -> None:
    bench = Bench(lambda applicant: Verdict.REJECTED)
    key = bench.open()
    actions = bench.say(key, ActivationRequest(TESTER))
    assert (code(actions), closed(actions)) == (0x05, [key])


# alive checks


def test_a_silent_holder_of_the_address_is_replaced_after_the_alive_check_time() -> None:
    bench = Bench(alive_check_ms=500)
    old, new = bench.active(TESTER), bench.open()
    actions = bench.say(new, ActivationRequest(TESTER))
    assert said(actions, old) == [AliveCheckRequest()]
    assert bench.wait(499) == []
    actions = bench.wait(1)
    assert (closed(actions), code(actions, new)) == ([old], 0x10)


def test_when_all_places_are_taken_all_are_asked_and_the_dead_ones_go() -> None:
    bench = Bench(max_connections=3)
    holders = [bench.active(TESTER + i) for i in range(3)]
    new = bench.open()
    actions = bench.say(new, ActivationRequest(TESTER + 9))
    assert {a.key for a in actions if isinstance(a, Send)} == set(holders)
    bench.say(holders[0], AliveCheckResponse(TESTER))
    bench.say(holders[2], AliveCheckResponse(TESTER + 2))
    actions = bench.wait(500)
    assert (closed(actions), code(actions, new)) == ([holders[1]], 0x10)


def test_when_all_places_are_taken_and_alive_the_newcomer_is_refused() -> None:
    bench = Bench(max_connections=2)
    holders = [bench.active(TESTER + i) for i in range(2)]
    new = bench.open()
    bench.say(new, ActivationRequest(TESTER + 9))
    assert code(bench.say(holders[0], AliveCheckResponse(TESTER))) is None
    actions = bench.say(holders[1], AliveCheckResponse(TESTER + 1))
    assert (code(actions, new), closed(actions)) == (0x01, [new])
    assert bench.core.active_sockets == 2


def test_several_newcomers_get_the_places_that_become_free_in_the_order_they_came() -> None:
    bench = Bench(max_connections=2)
    holders = [bench.active(TESTER + i) for i in range(2)]
    first, second = bench.open(), bench.open()
    bench.say(first, ActivationRequest(TESTER + 5))
    assert said(bench.say(second, ActivationRequest(TESTER + 6))) == []  # they are being asked already
    bench.say(holders[0], AliveCheckResponse(TESTER))
    actions = bench.wait(500)
    assert closed(actions) == [holders[1], second]
    assert (code(actions, first), code(actions, second)) == (0x10, 0x01)


def test_a_place_that_becomes_free_ends_the_waiting_at_once() -> None:
    bench = Bench(max_connections=1)
    holder, new = bench.active(TESTER), bench.open()
    bench.say(new, ActivationRequest(TESTER + 1))
    assert code(bench.core.closed(holder, 0), new) == 0x10


def test_any_message_is_a_sign_of_life() -> None:
    bench = Bench()
    old, new = bench.active(TESTER), bench.open()
    bench.say(new, ActivationRequest(TESTER))
    actions = bench.say(old, Diagnostic(TESTER, MOTOR, b"\x3e\x00"))
    assert code(actions, new) == 0x03
    assert Route(old, MOTOR, b"\x3e\x00") in actions


def test_a_newcomer_that_leaves_while_waiting_changes_nothing() -> None:
    bench = Bench()
    old, new = bench.active(TESTER), bench.open()
    bench.say(new, ActivationRequest(TESTER))
    assert bench.core.closed(new, 0) == []
    assert bench.say(old, AliveCheckResponse(TESTER)) == []
    assert bench.wait(1000) == []


# time


def test_the_initial_time_is_not_prolonged_by_talk() -> None:
    bench = Bench(initial_inactivity_ms=2000)
    key = bench.open()
    assert bench.wait(1900) == []
    bench.say(key, AliveCheckResponse(TESTER))
    assert closed(bench.wait(100)) == [key]


def test_the_general_time_starts_anew_with_whatever_is_said_or_heard() -> None:
    bench = Bench(general_inactivity_ms=300_000)
    key = bench.active(TESTER)
    for _ in range(3):
        assert bench.wait(299_999) == []
        bench.say(key, AliveCheckResponse(TESTER))
    assert bench.wait(299_999) == []
    bench.core.sent(key, bench.now_ns)
    assert bench.wait(299_999) == []
    assert closed(bench.wait(1)) == [key]


# bounds


def test_the_oldest_silent_connection_makes_room() -> None:
    bench = Bench(max_pending_connections=3)
    active = bench.active(TESTER)
    silent = [bench.open() for _ in range(3)]
    for expected in silent:
        bench.open()
        assert bench.last == [Close(expected, "evicted", at_once=True)]
    assert bench.core.connection(active) is not None
    assert bench.core.open_sockets == 4


def test_hundreds_of_half_open_connections_keep_no_tester_out() -> None:
    bench = Bench(max_pending_connections=16)
    for i in range(500):
        bench.open()
        if i % 100 == 0:
            bench.active(TESTER + i // 100)
    assert (bench.core.active_sockets, bench.core.open_sockets) == (5, 21)


def test_announced_payloads_are_bounded_over_all_connections() -> None:
    bench = Bench(max_request_bytes=4096, receive_bytes=5000)
    first, second = bench.active(TESTER), bench.active(TESTER + 1)
    header = frame(PayloadType.DIAGNOSTIC, bytes(4000))[:20]
    assert bench.core.receive(first, header, 0) == []
    assert said(bench.core.receive(second, header, 0)) == [HeaderNack(0x03)]
    bench.core.closed(first, 0)
    bench.core.receive(second, bytes(4008 - 20), 0)  # what was skipped
    assert bench.core.receive(second, header, 0) == []


def test_strangers_cannot_take_the_memory_of_testers_nor_hinder_activations() -> None:
    bench = Bench(max_request_bytes=4096, receive_bytes=8000)
    tester = bench.active(TESTER)
    header = frame(PayloadType.DIAGNOSTIC, bytes(1900))[:20]
    strangers = [bench.open() for _ in range(5)]
    answers = [said(bench.core.receive(key, header, 0)) for key in strangers]
    assert answers == [[], *[[HeaderNack(0x03)]] * 4]
    assert bench.core.receive(tester, frame(PayloadType.DIAGNOSTIC, bytes(4000))[:20], 0) == []
    assert code(bench.say(bench.open(), ActivationRequest(TESTER + 1))) == 0x10


# any order of events


class Connections(RuleBasedStateMachine):
    """Whatever testers do and whenever: places are bounded, addresses are unique, nobody waits for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(max_connections=3, max_pending_connections=4, receive_bytes=0, max_request_bytes=64)
        self.open: list[int] = []
        self.registered: dict[int, int] = {}

    def take(self, actions: list[Action]) -> None:
        for action in actions:
            assert action.key in self.open, "an action for a connection that is gone"
            match action:
                case Close(key):
                    self.open.remove(key)
                    self.registered.pop(key, None)
                case Activated(key, source):
                    assert source not in self.registered.values()
                    self.registered[key] = source
                case Route(key):
                    assert key in self.registered
                case _:
                    pass

    @rule()
    def connect(self) -> None:
        key = self.bench.open()
        self.open.append(key)
        self.take(self.bench.last)

    @rule(data=st.data(), source=st.integers(0x0E80, 0x0E85), kind=st.sampled_from((0, 0, 0, 1, 0xE0, 9)))
    def activate(self, data: st.DataObject, source: int, kind: int) -> None:
        if self.open:
            self.take(self.bench.say(data.draw(st.sampled_from(self.open)), ActivationRequest(source, kind)))

    @rule(data=st.data(), raw=st.binary(max_size=30) | st.sampled_from((bytes.fromhex("02fd800100000010"), b"\x02")))
    def talk(self, data: st.DataObject, raw: bytes) -> None:
        if self.open:
            self.take(self.bench.core.receive(data.draw(st.sampled_from(self.open)), raw, self.bench.now_ns))

    @rule(data=st.data(), is_diagnostic=st.booleans())
    def live(self, data: st.DataObject, is_diagnostic: bool) -> None:
        if self.registered:
            key = data.draw(st.sampled_from(sorted(self.registered)))
            source = self.registered[key]
            message = Diagnostic(source, MOTOR, b"\x3e") if is_diagnostic else AliveCheckResponse(source)
            self.take(self.bench.say(key, message))

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        if self.open:
            key = data.draw(st.sampled_from(self.open))
            self.open.remove(key)
            self.registered.pop(key, None)
            self.take(self.bench.core.closed(key, self.bench.now_ns))

    @rule(ms=st.sampled_from((1, 100, 500, 2000, 300_000)))
    def pass_time(self, ms: int) -> None:
        self.take(self.bench.wait(ms))
        waiting = [k for k in self.open if (c := self.bench.core.connection(k)) is not None and c.waiting is not None]
        if ms >= 500:
            assert waiting == []
        if ms >= 2000:
            assert set(self.open) == set(self.registered)

    @invariant()
    def bounds_hold(self) -> None:
        core = self.bench.core
        connections = [core.connection(key) for key in self.open]
        assert core.open_sockets == len(connections)
        phases = [c.phase for c in connections if c is not None]
        assert len(phases) == len(connections)
        assert phases.count(Phase.OPEN) <= 4
        assert core.active_sockets == len(self.registered) <= 3
        assert core._reserved == sum(c.reserved_bytes for c in connections if c is not None)


TestConnections = Connections.TestCase
TestConnections.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
