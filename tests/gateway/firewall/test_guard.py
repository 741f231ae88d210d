"""Guessing keys is slow, slower each time, for one tester and for all of them, also over restarts."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.diag import ports
from gateway.firewall.guard import MAX_TESTERS
from tests.gateway.firewall.support import BATTERY, MOTOR, OTHER, WORKSHOP, Bench, S

WRONG = "7F2735"


def guess(bench: Bench, by: ports.Tester = WORKSHOP, *, level: int = 1, answer: str = WRONG) -> int:
    """A seed and a key; the NRC of the firewall, or 0."""
    nrc = bench.nrc(f"27{level:02X}", by=by)
    if nrc:
        return nrc
    bench.answer(f"67{level:02X}AABB", to=by)
    nrc = bench.nrc(f"27{level + 1:02X}1122", by=by)
    if not nrc:
        bench.answer(answer, to=by)
        bench.answer("5001", to=by)  # so that the next tester may try
        bench.firewall.left(by, now_ns=bench.now_ns)
        bench.firewall.closed(MOTOR, is_certain=True)
    return nrc


def lockouts(bench: Bench) -> list[str]:
    return [record.detail for record in bench.records if record.kind == "lockout"]


def test_three_wrong_keys_lock_out_and_each_lockout_is_longer() -> None:
    bench = Bench()
    for seconds in (10, 20, 40):
        tries = 3 if seconds == 10 else 1
        assert [guess(bench) for _ in range(tries + 1)] == [0] * tries + [0x37]
        assert lockouts(bench)[-1].startswith(f"locked out for {seconds} s")
        bench.now_ns += (seconds - 1) * S
        assert guess(bench) == 0x37
        bench.now_ns += 61 * S  # seeds per minute, too


def test_a_lockout_has_an_upper_end() -> None:
    bench = Bench()
    for _ in range(60):
        guess(bench)
        bench.now_ns += 3700 * S
    assert guess(bench) == 0
    assert max(float(text.split()[3]) for text in lockouts(bench)) == 3600


def test_another_target_and_another_tester_are_not_locked_out_at_first() -> None:
    bench = Bench()
    for _ in range(3):
        guess(bench)
    assert bench.nrc("2701") == 0x37
    assert bench.nrc("2701", to=BATTERY) == 0
    assert bench.nrc("2701", by=OTHER) == 0


def test_changing_the_address_does_not_help_for_long() -> None:
    bench = Bench()
    tried = 0
    for address in range(0x0E00, 0x0E80):
        tried += guess(bench, ports.Tester(port="doip", address=address)) == 0
        bench.now_ns += 7 * S
    assert tried <= 17  # ten, and one for each doubling of the lockout in a quarter of an hour


def test_seeds_are_not_for_collecting() -> None:
    bench = Bench()
    given = sum(bench.nrc("2701", by=WORKSHOP) == 0 for _ in range(500))
    assert given == 10
    bench.now_ns += 60 * S
    assert bench.nrc("2701") == 0


def test_the_right_key_forgives_only_its_own_level() -> None:
    bench = Bench()
    guess(bench), guess(bench)
    guess(bench, level=3, answer="6704")
    assert guess(bench) == 0
    assert bench.nrc("2701") == 0x37
    bench = Bench()
    guess(bench), guess(bench)
    guess(bench, answer="6702")
    assert [guess(bench) for _ in range(2)] == [0, 0]


def test_failed_authentication_counts_too() -> None:
    bench = Bench()
    for _ in range(3):
        bench.do("290300", "7F2958")
    assert bench.nrc("290300") == 0x37
    assert bench.nrc("2701") == 0x37


def test_a_restart_does_not_shorten_a_lockout() -> None:
    before = Bench()
    for _ in range(3):
        guess(before)
    before.now_ns += 4 * S
    saved = before.firewall.guard.saved(before.now_ns)
    after = Bench()
    after.now_ns = 5 * S
    after.firewall.guard.restore(saved, after.now_ns)
    assert after.nrc("2701") == 0x37
    after.now_ns += 5 * S
    assert after.nrc("2701") == 0x37
    after.now_ns += 2 * S
    assert guess(after) == 0


def test_failures_before_a_restart_count_after_it() -> None:
    before = Bench()
    guess(before), guess(before)
    after = Bench()
    after.firewall.guard.restore(before.firewall.guard.saved(before.now_ns), after.now_ns)
    assert guess(after) == 0
    assert after.nrc("2701") == 0x37


def test_the_guard_is_bounded_under_a_flood_of_testers() -> None:
    bench = Bench()
    for i in range(3 * MAX_TESTERS):
        bench.firewall.guard.answered(("doip", i, ""), MOTOR, bytes.fromhex(WRONG), 2, bench.now_ns)
    assert len(bench.firewall.guard._counts) <= MAX_TESTERS + 1


@settings(max_examples=100, deadline=None)
@given(steps=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), max_size=60))
def test_no_order_of_guesses_beats_the_rate(steps: list[tuple[int, int]]) -> None:
    """Over any time, fewer keys are tried than the target's limit and its lockouts allow."""
    bench = Bench()
    start_ns, tried = bench.now_ns, 0
    for who, seconds in steps:
        tried += guess(bench, ports.Tester(port="doip", address=0x0E00 + who)) == 0
        bench.now_ns += seconds * S
    elapsed_s = (bench.now_ns - start_ns) / S
    assert tried <= 10 + elapsed_s // 10
    assert tried <= 10 * (elapsed_s // 60 + 1)
