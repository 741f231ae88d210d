"""What is waited for: signals, links, windows in local time, and a person's word."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootctl.files import RealFiles
from gateway.errors import ConfigError, NotNowError
from gateway.update.conditions import Conditions, Consent, ConsentDesk, SignalCondition, SignalReading
from gateway.update.config import Condition
from gateway.update.records import Record
from gateway.update.window import local_zone, window_missing
from gateway.wire.uptane import InstallPolicy

BERLIN = local_zone("Europe/Berlin", 0)


def at(text: str) -> int:
    """UTC nanoseconds of an ISO time with its offset."""
    return int(datetime.fromisoformat(text).timestamp()) * 1_000_000_000


def is_open(text: str, start: str, end: str, *days: int) -> bool:
    minutes = [int(clock[:2]) * 60 + int(clock[3:]) for clock in (start, end)]
    policy = InstallPolicy(window_start_min=minutes[0], window_end_min=minutes[1], window_days=days)
    return not window_missing(policy, at(text), BERLIN)


@pytest.mark.parametrize(
    ("moment", "start", "end", "days", "expected"),
    [
        ("2026-06-01T09:00+02:00", "09:00", "17:00", (), True),
        ("2026-06-01T08:59+02:00", "09:00", "17:00", (), False),
        ("2026-06-01T17:00+02:00", "09:00", "17:00", (), False),
        ("2026-06-01T23:30+02:00", "22:00", "05:00", (), True),
        ("2026-06-02T04:59+02:00", "22:00", "05:00", (), True),
        ("2026-06-02T05:00+02:00", "22:00", "05:00", (), False),
        # Monday's window over midnight ends on Tuesday morning; Monday morning is Sunday's
        ("2026-06-02T03:00+02:00", "22:00", "05:00", (0,), True),
        ("2026-06-01T03:00+02:00", "22:00", "05:00", (0,), False),
        ("2026-06-01T23:00+02:00", "22:00", "05:00", (0,), True),
        ("2026-06-02T23:00+02:00", "22:00", "05:00", (0,), False),
        # the clock shows the same hour in winter
        ("2026-01-01T09:30+01:00", "09:00", "10:00", (), True),
        ("2026-01-01T09:30+02:00", "09:00", "10:00", (), False),
        # the night on which clocks skip from 2 to 3: an hour that does not come
        ("2026-03-29T01:59+01:00", "02:00", "03:00", (), False),
        ("2026-03-29T03:00+02:00", "02:00", "03:00", (), False),
        # the night on which 2:30 comes twice
        ("2026-10-25T02:30+02:00", "02:00", "03:00", (), True),
        ("2026-10-25T02:30+01:00", "02:00", "03:00", (), True),
        # as long as a day
        ("2026-06-01T12:00+02:00", "08:00", "08:00", (), True),
        ("2026-06-02T07:00+02:00", "08:00", "08:00", (0,), True),
        ("2026-06-01T07:00+02:00", "08:00", "08:00", (0,), False),
    ],
)
def test_windows_follow_the_clock_on_the_wall(
    moment: str, start: str, end: str, days: tuple[int, ...], expected: bool
) -> None:
    assert is_open(moment, start, end, *days) is expected


def test_days_alone_are_whole_days() -> None:
    weekend = InstallPolicy(window_days=(5, 6))
    assert not window_missing(weekend, at("2026-06-06T00:00+02:00"), BERLIN)
    assert not window_missing(weekend, at("2026-06-07T23:59+02:00"), BERLIN)
    assert "Sat Sun" in window_missing(weekend, at("2026-06-08T00:00+02:00"), BERLIN)


def test_no_window_is_any_time() -> None:
    assert window_missing(InstallPolicy(), 0, BERLIN) == ""


@settings(max_examples=100)
@given(
    start=st.integers(-3000, 5000), end=st.one_of(st.none(), st.integers(-3000, 5000)), now=st.integers(0, 4 * 10**18)
)
def test_any_numbers_give_an_answer(start: int, end: int | None, now: int) -> None:
    assert isinstance(window_missing(InstallPolicy(window_start_min=start, window_end_min=end), now, BERLIN), str)


def test_a_window_is_open_for_as_long_as_it_says() -> None:
    policy = InstallPolicy(window_start_min=23 * 60, window_end_min=60)
    day_ns = at("2026-06-01T00:00+00:00")
    minutes = [not window_missing(policy, day_ns + n * 60_000_000_000, UTC) for n in range(1440)]
    assert sum(minutes) == 120


def test_a_fixed_offset_needs_no_zone_file() -> None:
    zone = local_zone("", 330)
    policy = InstallPolicy(window_start_min=0, window_end_min=60)
    assert window_missing(policy, at("2026-06-01T00:30+05:30"), zone) == ""


@pytest.mark.parametrize("name", ["Europe/Atlantis", "../../etc/passwd", "/etc/localtime"])
def test_an_unknown_zone_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="time zone"):
        local_zone(name, 0)


class Values:
    def __init__(self, value: float | None, age_s: float, silent_s: float = 0.0) -> None:
        self.reading = SignalReading(value, age_s, silent_s)

    def latest(self, signal: str) -> SignalReading:
        assert signal == "b.m.s"
        return self.reading


@pytest.mark.parametrize(
    ("value", "age_s", "silent_s", "may_be_silent", "is_missing"),
    [
        (12.5, 1, 0, False, False),
        (11.9, 1, 0, False, True),
        (15.1, 1, 0, False, True),
        (12.0, 10, 0, False, False),
        (12.5, 10.1, 0, False, True),
        (None, 1, 0, False, True),
        (float("nan"), 1, 0, False, True),
        (12.5, float("nan"), 0, False, True),
        (12.5, 100, 100, False, True),
        (12.5, 100, 100, True, False),
        (None, 100, 100, True, False),
        (11.0, 1, 1, True, True),
        (None, 100, 5, True, True),
    ],
)
def test_n8_a_signal_must_be_known_and_in_range(
    value: float | None, age_s: float, silent_s: float, may_be_silent: bool, is_missing: bool
) -> None:
    condition = Condition(name="battery", signal="b.m.s", at_least=12.0, at_most=15.0, may_be_silent=may_be_silent)
    text = SignalCondition(condition, Values(value, age_s, silent_s)).missing(0)
    assert bool(text) is is_missing
    assert not text or text.startswith("battery (b.m.s is ")


def desk(folder: Path) -> ConsentDesk:
    return ConsentDesk(Record(RealFiles(), folder / "consent.json", Consent))


def test_consent_is_for_one_assignment_and_is_kept(tmp_path: Path) -> None:
    first = desk(tmp_path)
    assert not first.has("one")
    for waiting in ("", "other"):
        with pytest.raises(NotNowError):
            first.give("one", waiting, "driver", 5)
    first.give("one", "one", "driver", 5)
    again = desk(tmp_path)
    assert again.has("one")
    assert not again.has("two")
    assert not again.has("")


@pytest.mark.parametrize(
    ("kind", "links", "is_critical", "is_allowed"),
    [
        ("cellular", "any", False, True),
        ("cellular", "wifi", False, False),
        ("unknown", "wifi", False, False),
        ("cellular", "wifi", True, True),
        ("wifi", "wifi", False, True),
        ("ethernet", "wifi", False, True),
    ],
)
def test_n8_links(tmp_path: Path, kind: str, links: str, is_critical: bool, is_allowed: bool) -> None:
    conditions = Conditions(consent=desk(tmp_path), zone=UTC, link=lambda: kind, links=links)
    assert bool(conditions.link_missing(InstallPolicy(is_critical=is_critical))) is not is_allowed


def test_n8_the_policy_tells_everything_that_is_missing(tmp_path: Path) -> None:
    conditions = Conditions(consent=desk(tmp_path), zone=UTC)
    policy = InstallPolicy(needs_consent=True, not_before_ns=100, deadline_ns=200, window_days=(6,))
    text = conditions.policy_missing(policy, "one", 50)
    assert "later" in text
    assert "consent" in text
    assert "Sun" in text
    assert not conditions.is_late(policy, 200)
    assert conditions.is_late(policy, 201)
