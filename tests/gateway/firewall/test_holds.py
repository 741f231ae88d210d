"""One writer at a time, and nobody inherits what another tester opened."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.diag import ports
from gateway.firewall.core import _HOLDING, MAX_BUCKETS
from gateway.firewall.policy import default_policy_text
from gateway.firewall.ports import Verdict
from gateway.firewall.state import MAX_DEFINITIONS
from tests.gateway.firewall.support import BATTERY, MOTOR, MOVING, OBD, OTHER, WORKSHOP, Bench, S

EXTENDED = "5003003201F4"


def extended(by: ports.Tester = WORKSHOP) -> Bench:
    bench = Bench()
    bench.do("1003", EXTENDED, by=by)
    return bench


@pytest.mark.parametrize(
    "request_", ["1001", "1003", "1002", "2EF19041", "14FFFFFF", "1101", "2701", "2C01F30022F10101"]
)
def test_a_second_tester_may_not_write_nor_touch_the_session(request_: str) -> None:
    assert extended().nrc(request_, by=OTHER) == 0x22


def test_a_second_tester_may_read_and_write_elsewhere() -> None:
    bench = extended()
    assert bench.allows("22F190", by=OTHER)
    assert bench.allows("190209", by=OTHER)
    assert bench.allows("2EF19041", by=OTHER, to=BATTERY)


def test_the_whole_vehicle_can_be_one_lock() -> None:
    bench = Bench(default_policy_text().replace('scope = "ecu"', 'scope = "vehicle"'))
    bench.do("1003", EXTENDED)
    assert bench.nrc("2EF19041", by=OTHER, to=BATTERY) == 0x22
    assert bench.allows("22F190", by=OTHER, to=BATTERY)


def test_a_write_in_the_default_session_holds_until_its_answer() -> None:
    bench = Bench()
    assert bench.allows("2EF19041")
    assert bench.nrc("2EF19042", by=OTHER) == 0x22
    bench.answer("7F2E78")
    assert bench.nrc("2EF19042", by=OTHER) == 0x22
    bench.answer("6EF190")
    assert bench.allows("2EF19042", by=OTHER)


def test_a_refused_session_holds_nothing() -> None:
    bench = Bench()
    bench.do("1002", "7F1022")
    assert bench.allows("2EF19041", by=OTHER)


def test_returning_to_the_default_session_frees() -> None:
    bench = extended()
    bench.do("1001", "5001003201F4")
    assert bench.allows("2EF19041", by=OTHER)


def test_a_reset_frees() -> None:
    bench = extended()
    bench.do("1101", "5101")
    assert bench.allows("2EF19041", by=OTHER)


def test_a_session_without_answer_is_taken_as_open() -> None:
    bench = Bench()
    assert bench.allows("1083")
    assert bench.nrc("2EF19041", by=OTHER) == 0x22
    bench.now_ns += 60 * S
    assert bench.firewall.abandoned(bench.now_ns) == [(MOTOR, WORKSHOP)]


def test_a_session_without_answer_that_was_refused_is_not_open() -> None:
    bench = Bench()
    assert bench.allows("1083")
    bench.answer("7F1022")
    assert bench.allows("2EF19041", by=OTHER)


def test_during_a_download_others_may_not_even_read() -> None:
    bench = extended()
    bench.do("34004411112222333344445555", "7420FFFF")
    assert bench.nrc("22F190", by=OTHER) == 0x21
    assert bench.allows("22F190")
    bench.do("37", "77")
    assert bench.allows("22F190", by=OTHER)
    bench.do("1002", "5002003201F4")
    assert bench.nrc("22F190", by=OTHER) == 0x21


def test_another_testers_keep_alive_does_not_reach_a_held_target() -> None:
    bench = extended()
    assert bench.ask("3E80", by=OTHER).verdict is Verdict.DROP
    assert bench.allows("3E00", by=OTHER)
    assert bench.allows("3E80")
    assert bench.allows("3E80", by=OTHER, to=BATTERY)


def test_silence_longer_than_s3_ends_a_hold_only_once_it_was_closed() -> None:
    bench = extended()
    bench.now_ns += 5 * S
    assert bench.allows("3E80")
    bench.now_ns += 5 * S
    assert bench.firewall.abandoned(bench.now_ns) == []
    bench.now_ns += 2 * S
    assert bench.nrc("2EF19041", by=OTHER) == 0x21  # busy: come again, it is being closed
    assert bench.firewall.abandoned(bench.now_ns) == [(MOTOR, WORKSHOP)]
    assert bench.nrc("2EF19041") == 0x21  # not even who held it
    bench.firewall.closed(MOTOR, is_certain=True)
    assert bench.allows("2EF19041", by=OTHER)


def test_a_target_that_still_works_is_not_silent() -> None:
    bench = extended()
    for _ in range(10):
        bench.now_ns += 5 * S
        assert bench.firewall.abandoned(bench.now_ns, busy=[MOTOR]) == []


def test_a_tester_that_left_is_closed_at_once_and_does_not_come_back_to_it() -> None:
    bench = extended()
    bench.firewall.left(WORKSHOP, now_ns=bench.now_ns)
    assert bench.firewall.abandoned(bench.now_ns) == [(MOTOR, WORKSHOP)]
    assert bench.nrc("2EF19041") == 0x21
    for is_last in (False, False, True):  # the ECU does not answer: its own S3 will have done it
        bench.firewall.closed(MOTOR, is_certain=False)
        assert bool(bench.firewall.abandoned(bench.now_ns)) is not is_last
    assert bench.allows("2EF19041", by=OTHER)


def test_leaving_with_nothing_open_needs_no_closing() -> None:
    bench = Bench()
    assert bench.allows("2EF19041")
    bench.firewall.left(WORKSHOP, now_ns=bench.now_ns)
    assert bench.firewall.abandoned(bench.now_ns) == []
    assert bench.allows("2EF19041", by=OTHER)


def test_an_answer_to_another_tester_changes_nothing() -> None:
    bench = extended()
    bench.answer("5001003201F4", to=OTHER)
    bench.answer("6702", to=OTHER)
    assert bench.nrc("2EF19041", by=OTHER) == 0x22


UNLOCKED_ONLY = """
    version = 1
    [[rules]]
    name = "writing after unlock"
    services = [0x2E]
    unlocked = [1]
    session = [3]
    action = "allow"
    [[rules]]
    name = "the way there"
    services = ["reading", 0x10, 0x27]
    action = "allow"
"""


def test_rules_see_session_and_unlock_of_their_own_tester() -> None:
    bench = Bench(UNLOCKED_ONLY)
    assert bench.nrc("2EF19041") == 0x33
    bench.do("1003", EXTENDED)
    assert bench.nrc("2EF19041") == 0x33
    bench.do("2701", "6701AABBCCDD")
    assert bench.nrc("2EF19041") == 0x33
    bench.do("270211223344", "6702")
    assert bench.allows("2EF19041")
    assert bench.nrc("2EF19041", to=BATTERY) == 0x33
    assert bench.nrc("2EF19041", by=OBD) == 0x33
    bench.do("1003", EXTENDED)  # entering any session locks again
    assert bench.nrc("2EF19041") == 0x33


def test_a_zero_seed_tells_that_it_is_unlocked_already() -> None:
    bench = Bench(UNLOCKED_ONLY)
    bench.do("1003", EXTENDED)
    bench.do("2701", "670100000000")
    assert bench.allows("2EF19041")


# dynamically defined identifiers

SECRETS = """
    version = 1
    [[rules]]
    name = "the workshop reads secrets"
    testers = [0x0E80]
    services = [0x22, 0x23, 0x2C]
    vehicle = "any"
    action = "allow"
    [[rules]]
    name = "secrets"
    services = [0x22]
    dids = ["0xFD00-0xFDFF"]
    action = "refuse"
    nrc = 0x31
    [[rules]]
    name = "reading"
    services = ["reading"]
    action = "allow"
"""


def test_a_definition_from_a_forbidden_source_is_refused() -> None:
    bench = Bench(SECRETS)
    assert bench.nrc("2C01F300FD000101", by=OTHER) == 0x31
    assert bench.nrc("2C01F300F1900101FD000101", by=OTHER) == 0x31
    assert bench.nrc("2C02F3001410000000FF", by=OTHER) == 0x33
    assert bench.allows("2C01F300F1900101", by=OTHER)


@pytest.mark.parametrize("read", ["22F300", "22F190F300", "2A01F300"[:4] + "00"])
def test_what_a_trusted_tester_defined_is_no_way_for_others(read: str) -> None:
    bench = Bench(SECRETS)
    did = "F200" if read.startswith("2A") else "F300"
    bench.do(f"2C01{did}FD000101", f"6C01{did}")
    assert bench.nrc(read, by=OTHER) == 0x31
    assert bench.allows("22F301", by=OTHER)
    bench.do("2C03" + did, f"6C03{did}")
    assert bench.allows(read, by=OTHER)


def test_a_redefinition_does_not_forget_the_earlier_sources() -> None:
    """ECUs append to a definition."""
    bench = Bench(SECRETS)
    bench.do("2C01F300FD000101", "6C01F300")
    bench.do("2C01F300F1900101", "6C01F300")
    assert bench.nrc("22F300", by=OTHER) == 0x31


def test_memory_behind_an_identifier_counts_as_reading_memory() -> None:
    bench = Bench(SECRETS)
    bench.do("2C02F3001410000000FF", "6C02F300")
    assert bench.nrc("22F300", by=OTHER) == 0x33


def test_definitions_are_bounded() -> None:
    bench = Bench()
    for i in range(MAX_DEFINITIONS):
        bench.do(f"2C01F3{i:02X}F1900101", f"6C01F3{i:02X}")
    assert bench.nrc("2C01F3F0F1900101") == 0x22
    bench.do("2C03", "6C03")
    assert bench.allows("2C01F3F0F1900101")


# limits


def test_a_limit_per_minute_is_kept_per_tester_and_target_and_refills() -> None:
    bench = Bench('version = 1\n[[rules]]\nname = "slow"\nservices = [0x22]\nmax_per_minute = 2\naction = "allow"\n')
    assert [bench.nrc("22F190") for _ in range(3)] == [0, 0, 0x21]
    assert bench.nrc("22F190", by=OTHER) == 0
    assert bench.nrc("22F190", to=BATTERY) == 0
    bench.now_ns += 30 * S
    assert [bench.nrc("22F190") for _ in range(2)] == [0, 0x21]


def test_a_flood_of_testers_does_not_make_the_firewall_grow() -> None:
    bench = Bench('version = 1\n[[rules]]\nname = "slow"\nmax_per_minute = 2\naction = "allow"\n')
    for address in range(3 * MAX_BUCKETS):
        bench.ask("22F190", by=ports.Tester(port="doip", address=address))
        bench.ask("1003", by=ports.Tester(port="doip", address=address))
    assert len(bench.firewall._buckets) <= MAX_BUCKETS
    assert len(bench.firewall._targets) == 1


def test_observing_lets_everything_through_and_says_what_would_not_have_passed() -> None:
    bench = Bench(mode="observe", vehicle=MOVING)
    decision = bench.ask("2EF19041")
    assert decision.verdict is Verdict.ALLOW
    assert decision.is_observed
    assert (bench.records[-1].kind, bench.records[-1].rule) == ("observed", "no writing while moving")
    assert not bench.ask("22F190").is_observed
    assert bench.firewall.statistics().observed == 1


class TwoTesters(RuleBasedStateMachine):
    """Whatever two testers do: never do both write to one ECU within one session, and reading stays possible."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.writer: ports.Tester | None = None  # who, in the ECU's eyes, opened the session

    testers = st.sampled_from([WORKSHOP, OTHER])
    requests = st.sampled_from(
        ["1001", "1003", "1083", "1002", "2701", "270211", "2EF19041", "14FFFFFF", "3E00", "3E80", "22F190", "1101"]
    )

    @rule(tester=testers, request=requests, is_positive=st.booleans())
    def ask(self, tester: ports.Tester, request: str, is_positive: bool) -> None:
        bench, pdu = self.bench, bytes.fromhex(request)
        if not bench.allows(pdu, by=tester):
            return
        if pdu[0] in _HOLDING:
            assert self.writer in (None, tester)
        if pdu[0] == 0x10 and (is_positive or pdu[1] & 0x80):
            self.writer = None if pdu[1] & 0x7F == 1 else tester
        if pdu[0] == 0x11 and is_positive:
            self.writer = None
        if len(pdu) < 2 or not pdu[1] & 0x80 or pdu[0] not in (0x10, 0x3E):
            answer = bytes([pdu[0] | 0x40, *pdu[1:2]]) if is_positive else bytes([0x7F, pdu[0], 0x22])
            bench.answer(answer.hex(), to=tester)

    @rule(seconds=st.integers(0, 8))
    def wait(self, seconds: int) -> None:
        self.bench.now_ns += seconds * S

    @rule(tester=testers)
    def leave(self, tester: ports.Tester) -> None:
        self.bench.firewall.left(tester, now_ns=self.bench.now_ns)

    @rule(is_answered=st.booleans())
    def close_what_was_left(self, is_answered: bool) -> None:
        for target, _ in self.bench.firewall.abandoned(self.bench.now_ns):
            if is_answered:
                self.writer = None
                self.bench.firewall.closed(target, is_certain=True)

    @invariant()
    def somebody_can_go_on(self) -> None:
        assert len(self.bench.firewall.statistics().holds) <= 1


TestTwoTesters = TwoTesters.TestCase
TestTwoTesters.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
