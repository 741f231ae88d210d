"""Rules made ready for judging: per service the list of rules that may fit, everything parsed, nothing to look up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.diag.ports import Tester
from gateway.errors import ConfigError
from gateway.firewall.policy import Number, Policy, Rule, parse_number
from gateway.firewall.request import Item
from gateway.firewall.services import NAMES, OPAQUE, READING, WRITING
from gateway.firewall.state import VehicleFacts

#: Ranges that a value must be in one of; None: anything, also nothing.
Ranges = tuple[range, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What does not depend on the item."""

    tester: Tester
    target: int
    is_functional: bool
    session: int
    unlocked: frozenset[int]
    vehicle: VehicleFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledRule:
    """A rule; ``vehicle_reading`` and ``vehicle_writing`` are what it demands of either kind of item."""

    rule: Rule
    testers: Ranges
    targets: frozenset[int] | None
    subs: Ranges
    dids: Ranges
    routines: Ranges
    memory: Ranges
    sessions: Ranges
    levels: frozenset[int] | None
    session_kinds: frozenset[bool]  # of 0x10: "reading" takes the harmless sessions (False), "writing" the others
    vehicle_reading: str
    vehicle_writing: str

    def fits(self, item: Item, now: Circumstances) -> bool:
        """Whether the rule speaks of this item."""
        rule, tester = self.rule, now.tester
        if rule.ports and tester.port not in rule.ports:
            return False
        if rule.secure is not None and rule.secure != tester.is_secure:
            return False
        if rule.functional is not None and rule.functional != now.is_functional:
            return False
        if self.targets is not None and now.target not in self.targets:
            return False
        if not (_within(item.sub, self.subs) and _within(item.did, self.dids) and _within(item.routine, self.routines)):
            return False
        if not (_within(tester.address, self.testers) and _within(now.session, self.sessions)):
            return False
        if rule.tester_names and not any(_named(tester.name, pattern) for pattern in rule.tester_names):
            return False
        if item.sid == 0x10 and item.is_writing not in self.session_kinds:
            return False
        if self.memory is not None and not _inside(item.memory, self.memory):
            return False
        return self._fits_unlock(now.unlocked) and self._fits_vehicle(item, now.vehicle)

    def _fits_unlock(self, unlocked: frozenset[int]) -> bool:
        if self.levels is not None:
            return bool(self.levels & unlocked)
        return self.rule.unlocked is None or self.rule.unlocked == bool(unlocked)

    def _fits_vehicle(self, item: Item, vehicle: VehicleFacts) -> bool:
        demanded = self.vehicle_writing if item.is_writing else self.vehicle_reading
        if demanded == "standstill" and not vehicle.is_standing:
            return False
        if demanded == "moving" and vehicle.is_standing:
            return False
        below, volts = self.rule.below_kmh, self.rule.min_voltage_v
        if below is not None and not (vehicle.speed_kmh is not None and vehicle.speed_kmh < below):
            return False
        return volts is None or (vehicle.voltage_v is not None and vehicle.voltage_v >= volts)


def _within(value: int | None, ranges: Ranges) -> bool:
    return ranges is None or (value is not None and any(value in r for r in ranges))


def _inside(memory: tuple[int, int] | None, ranges: tuple[range, ...]) -> bool:
    return memory is not None and any(memory[0] in r and memory[1] in r for r in ranges)


def _named(name: str, pattern: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """A policy ready for judging."""

    policy: Policy
    by_service: Mapping[int, tuple[CompiledRule, ...]]

    def find(self, item: Item, now: Circumstances) -> Rule | None:
        """The first rule that fits; None when none does."""
        for compiled in self.by_service.get(item.sid, ()):
            if compiled.fits(item, now):
                return compiled.rule
        return None

    def knows(self, sid: int) -> bool:
        """Whether the service exists, in the standard or because a rule names it."""
        return sid in NAMES or sid in self.by_service


def compile_policy(policy: Policy, names: Mapping[str, int], *, path: str = "") -> CompiledPolicy:
    """Make a policy ready; ``names`` are the targets' logical addresses.

    Raises:
        ConfigError: a number, range or name that says nothing, or a name used twice.
    """
    by_service: dict[int, list[CompiledRule]] = {}
    seen: set[str] = set()
    for i, rule in enumerate(policy.rules):
        where = f"$.rules[{i}]"
        if not rule.name or rule.name in seen:
            raise ConfigError("each rule needs a name of its own", path=path, where=f"{where}.name")
        seen.add(rule.name)
        services = _services(rule, path, where)
        compiled = _compile(rule, names, path, where)
        for sid in services:
            by_service.setdefault(sid, []).append(compiled)
    return CompiledPolicy(policy, {sid: tuple(rules) for sid, rules in by_service.items()})


def _compile(rule: Rule, names: Mapping[str, int], path: str, where: str) -> CompiledRule:
    def ranges(key: str, values: Sequence[Number], highest: int) -> Ranges:
        parsed = tuple(_range(value, highest, path, f"{where}.{key}") for value in values)
        return parsed or None

    is_allowing = rule.action == "allow"
    return CompiledRule(
        rule=rule,
        testers=ranges("testers", rule.testers, 0xFFFF),
        targets=_targets(rule, names, path, where),
        subs=ranges("sub_functions", rule.sub_functions, 0x7F),
        dids=ranges("dids", rule.dids, 0xFFFF),
        routines=ranges("routines", rule.routines, 0xFFFF),
        memory=ranges("memory", rule.memory, (1 << 120) - 1),
        sessions=ranges("session", rule.session, 0x7F),
        levels=frozenset(rule.unlocked) if isinstance(rule.unlocked, tuple) else None,
        session_kinds=_session_kinds(rule),
        vehicle_reading=rule.vehicle or "any",
        vehicle_writing=rule.vehicle or ("standstill" if is_allowing else "any"),
    )


def _range(value: Number, highest: int, path: str, where: str) -> range:
    try:
        parsed = parse_number(value)
    except ValueError as error:
        raise ConfigError(f"{value!r}: a number or a range like '0xF180-0xF19F'", path=path, where=where) from error
    if not (parsed.start >= 0 and parsed.stop - 1 <= highest):
        raise ConfigError(f"{value!r}: from 0 to {highest:#x}", path=path, where=where)
    return parsed


def _targets(rule: Rule, names: Mapping[str, int], path: str, where: str) -> frozenset[int] | None:
    if not rule.targets:
        return None
    found: set[int] = set()
    for value in rule.targets:
        if isinstance(value, str) and value in names:
            found.add(names[value])
        elif isinstance(value, str) and not value[:1].isdigit():
            raise ConfigError(f"no target is called {value!r}", path=path, where=f"{where}.targets")
        else:
            found.update(_range(value, 0xFFFF, path, f"{where}.targets"))
    return frozenset(found)


def _session_kinds(rule: Rule) -> frozenset[bool]:
    groups = {"reading": False, "writing": True}
    if any(value not in groups and 0x10 in parse_number(value) for value in rule.services) or not rule.services:
        return frozenset({False, True})
    return frozenset(kind for group, kind in groups.items() if group in rule.services)


def _services(rule: Rule, path: str, where: str) -> frozenset[int]:
    if not rule.services:
        return frozenset(NAMES) - OPAQUE
    found: set[int] = set()
    for value in rule.services:
        if value in ("reading", "writing"):
            found |= (READING if value == "reading" else WRITING) - OPAQUE
        else:
            parsed = _range(value, 0xFF, path, f"{where}.services")
            if any(sid & 0x40 for sid in parsed):
                raise ConfigError(f"{value!r}: an answer, not a service", path=path, where=f"{where}.services")
            found.update(parsed)
    return frozenset(found)
