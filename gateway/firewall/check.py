"""Finds rules of a policy that never decide anything, because rules before them always do."""

from __future__ import annotations

from gateway.firewall.policy import Rule
from gateway.firewall.rules import CompiledPolicy, CompiledRule, Ranges
from gateway.firewall.services import is_writing


def check(policy: CompiledPolicy) -> list[str]:
    """Problems, as sentences; empty when there are none.

    A rule is covered if, for each of its services, one earlier rule takes all it could take. Several earlier rules that
    only together cover one service are not recognised.
    """
    reached = {rule.name: False for rule in policy.policy.rules}
    covering: dict[str, set[str]] = {name: set() for name in reached}
    for sid, rules in policy.by_service.items():
        for i, later in enumerate(rules):
            earlier = next((r for r in rules[:i] if _covers(r, later, sid)), None)
            if earlier is None:
                reached[later.rule.name] = True
            else:
                covering[later.rule.name].add(earlier.rule.name)
    return [
        f"rule {name!r} never applies: covered by {' and '.join(sorted(repr(c) for c in covering[name]))}"
        for name, is_reached in reached.items()
        if not is_reached
    ]


def _covers(first: CompiledRule, later: CompiledRule, sid: int) -> bool:
    """Whether ``first`` fits every item of this service that ``later`` fits."""
    a, b = first.rule, later.rule
    return (
        _wider_set(a.ports, b.ports)
        and (a.secure is None or a.secure == b.secure)
        and (a.functional is None or a.functional == b.functional)
        and (first.targets is None or (later.targets is not None and later.targets <= first.targets))
        and all(
            _wider(x, y)
            for x, y in (
                (first.testers, later.testers),
                (first.subs, later.subs),
                (first.dids, later.dids),
                (first.routines, later.routines),
                (first.memory, later.memory),
                (first.sessions, later.sessions),
            )
        )
        and (not a.tester_names or (bool(b.tester_names) and set(b.tester_names) <= set(a.tester_names)))
        and _covers_conditions(first, later)
        and (sid != 0x10 or later.session_kinds <= first.session_kinds)
        and all(_covers_vehicle(first, later, kind) for kind in _kinds(sid, later))
    )


def _kinds(sid: int, rule: CompiledRule) -> frozenset[bool]:
    return rule.session_kinds if sid == 0x10 else frozenset({is_writing(sid, None)})


def _covers_vehicle(first: CompiledRule, later: CompiledRule, writes: bool) -> bool:
    a = first.vehicle_writing if writes else first.vehicle_reading
    b = later.vehicle_writing if writes else later.vehicle_reading
    return a in ("any", b)


def _covers_conditions(first: CompiledRule, later: CompiledRule) -> bool:
    a, b = first.rule, later.rule
    is_same_lock = a.unlocked is None or (a.unlocked == b.unlocked and first.levels == later.levels)
    is_faster = a.below_kmh is None or (b.below_kmh is not None and b.below_kmh <= a.below_kmh)
    has_voltage = a.min_voltage_v is None or (b.min_voltage_v is not None and b.min_voltage_v >= a.min_voltage_v)
    return is_same_lock and is_faster and has_voltage


def _wider_set(a: tuple[str, ...], b: tuple[str, ...]) -> bool:
    return not a or (bool(b) and set(b) <= set(a))


def _wider(a: Ranges, b: Ranges) -> bool:
    return a is None or (b is not None and all(_is_in(r, a) for r in b))


def _is_in(inner: range, outer: tuple[range, ...]) -> bool:
    return any(o.start <= inner.start and inner.stop <= o.stop for o in outer)


def allowed_while_moving(policy: CompiledPolicy) -> list[Rule]:
    """Rules that let writing through while the vehicle moves, for people to look at twice."""
    found = []
    for sid, rules in policy.by_service.items():
        for compiled in rules:
            rule = compiled.rule
            can_write = True in compiled.session_kinds if sid == 0x10 else is_writing(sid, None)
            if rule.action == "allow" and can_write and compiled.vehicle_writing != "standstill" and rule not in found:
                found.append(rule)
    return found
