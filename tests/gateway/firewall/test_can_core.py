"""Frames pass by their route and within its limits; everything else is refused and counted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.can.link import CanFrame
from gateway.firewall.can_core import MAX_IDS, CanFirewall, Reason
from gateway.firewall.can_rules import IdRange, Route, RoutingTable

SECOND = 1_000_000_000


def firewall(**limits: object) -> CanFirewall:
    route = Route(name="r", source="a", to=("b",), ids=(IdRange(False, 0x100, 0x10F),), **limits)  # type: ignore[arg-type]  # keyword arguments of Route
    return CanFirewall(RoutingTable(routes=(route,)))


def passes(
    core: CanFirewall, can_id: int, now_ns: int = 0, *, bus: str = "a", data: bytes = b"", ext: bool = False
) -> bool:
    return bool(core.judge(bus, CanFrame(can_id, data, ext), now_ns))


def test_default_is_deny() -> None:
    core = firewall()
    assert passes(core, 0x100)
    assert not passes(core, 0x110)
    assert not passes(core, 0x100, bus="b")
    assert not passes(core, 0x100, ext=True)


def test_length_limits_hold_and_are_counted() -> None:
    core = firewall(lengths=(2, 4))
    assert [passes(core, 0x100, data=bytes(n)) for n in range(7)] == [False, False, True, True, True, False, False]
    assert (core.counts["r"].forwarded, core.counts["r"].refused_length) == (3, 4)
    assert [(r.reason, r.count) for r in core.take_refused()] == [(Reason.LENGTH, 4)]
    assert core.take_refused() == []


@given(st.lists(st.integers(0, 50_000_000), min_size=1, max_size=300))
def test_never_more_than_rate_and_burst_in_any_time(gaps: list[int]) -> None:
    core = firewall(max_rate_hz=100.0, burst=3)
    now, let_through = 0, []
    for gap in gaps:
        now += gap
        if passes(core, 0x100, now):
            let_through.append(now)
    for i, first in enumerate(let_through):
        for j in range(i, len(let_through)):
            assert j - i + 1 <= 3 + (let_through[j] - first) * 100 / SECOND + 1e-6
    counts = core.counts["r"]
    assert counts.heard == len(gaps) == counts.forwarded + counts.refused_rate


def test_a_flood_of_one_identifier_does_not_starve_its_neighbour() -> None:
    core = firewall(max_rate_hz=10.0, burst=1)
    for n in range(10_000):
        passes(core, 0x100, n * 100_000)
    assert passes(core, 0x101, SECOND)


def test_a_flood_is_told_once_a_second() -> None:
    core = firewall(max_rate_hz=10.0, burst=1)
    for n in range(30_000):
        passes(core, 0x100, n * 100_000)  # 10,000 frames/s for 3 s
    assert core.take_flooding() == [("a", (0x100, False))] * 3


def test_identifiers_of_a_wide_route_are_bounded() -> None:
    route = Route(name="r", source="a", to=("b",), ids=(IdRange(True, 0, 0x1FFFFFFF),), max_rate_hz=1.0, burst=1)
    core = CanFirewall(RoutingTable(routes=(route,)))
    let = sum(passes(core, n, ext=True) for n in range(MAX_IDS + 100))
    assert let == MAX_IDS
    assert core.counts["r"].refused_table_full == 100
    assert sum(r.count for r in core.take_refused()) == 100
