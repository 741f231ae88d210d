"""From rules as written to monitors that can run: names become numbers, defaults are filled in.

Everything that can be wrong with a rules file is said here, with file and key, before a vehicle sees it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dbc.decode.layout import problem_of
from dbc.integrity import Rule, rule_of
from dbc.manifest import Manifest
from gateway.collect.bind import Condition, bind
from gateway.collect.expression import ExpressionError
from gateway.collect.model import Limits
from gateway.collect.names import NameError_, Names
from gateway.dtc.model import Debounce, Definition, Severity
from gateway.dtc.rulefile import (
    BusOffMonitor,
    EcuSilentMonitor,
    IntegrityMonitor,
    MissingMonitor,
    Monitor,
    PlausibilityMonitor,
    RangeMonitor,
    RateMonitor,
    RulesFile,
    VoltageMonitor,
    read_rules_file,
)
from gateway.dtc.scalar import refused_function
from gateway.errors import ConfigError
from gateway.wire.dtc import parse_dtc

T = TypeVar("T")
_MS = 1_000_000
_MISSING_CYCLES, _MISSING_MIN_MS, _BUS_MISSING_MS = 10, 500, 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeTest:
    """``RangeMonitor`` and ``VoltageMonitor``; limits are infinite where there is none."""

    signal: int
    low: float
    high: float
    hysteresis: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RateTest:
    """``RateMonitor``; limits in units per second, infinite where there is none."""

    signal: int
    rise: float
    fall: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionTest:
    """``PlausibilityMonitor``."""

    condition: Condition


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingTest:
    """``MissingMonitor``: messages with the timeout of each, or a bus (else -1)."""

    messages: tuple[tuple[int, int], ...]
    bus: int
    bus_timeout_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegrityTest:
    """``IntegrityMonitor``: what is checked of each message."""

    rules: tuple[Rule, ...]
    checksum: bool
    counter: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EcuTest:
    """``EcuSilentMonitor``."""

    ecu: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BusOffTest:
    """``BusOffMonitor``."""

    bus: int


Test = RangeTest | RateTest | ConditionTest | MissingTest | IntegrityTest | EcuTest | BusOffTest


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorRule:
    """One monitor that can run with the manifest it was resolved against."""

    definition: Definition
    test: Test
    enable: Condition | None
    enable_delay_ns: int
    snapshot: tuple[int, ...]  # signal numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """All monitors of a vehicle."""

    period_ns: int
    stale_ns: int
    cycle_end_ns: int
    monitors: tuple[MonitorRule, ...]

    @property
    def definitions(self) -> tuple[Definition, ...]:
        """Of all monitors, in the file's order."""
        return tuple(m.definition for m in self.monitors)

    @property
    def ecus(self) -> frozenset[str]:
        """Names of the ECUs whose silence is watched; whoever configures the poller should know them all."""
        return frozenset(m.test.ecu for m in self.monitors if isinstance(m.test, EcuTest))


NO_RULES = Rules(period_ns=100 * _MS, stale_ns=1000 * _MS, cycle_end_ns=10_000 * _MS, monitors=())


def load_rules(path: Path, manifest: Manifest) -> Rules:
    """Read and resolve a rules file.

    Raises:
        ConfigError: with the file and the key that is wrong.
    """
    return resolve_rules(read_rules_file(path), manifest, str(path))


def resolve_rules(file: RulesFile, manifest: Manifest, path: str = "") -> Rules:
    """Resolve rules against a manifest; raises as ``load_rules``."""
    resolver = _Resolver(file, Names(manifest), path)
    monitors: list[MonitorRule] = []
    codes: dict[int, int] = {}
    for i, entry in enumerate(file.monitor):
        monitor = resolver.monitor(entry, f"$.monitor[{i}]")
        code = monitor.definition.code
        if code in codes:
            raise ConfigError(
                f"DTC {entry.dtc} has a monitor already: monitor[{codes[code]}]", path=path, where=f"$.monitor[{i}].dtc"
            )
        codes[code] = i
        monitors.append(monitor)
    return Rules(
        period_ns=file.period_ms * _MS,
        stale_ns=file.stale_ms * _MS,
        cycle_end_ns=file.cycle_end_ms * _MS,
        monitors=tuple(monitors),
    )


class _Resolver:
    def __init__(self, file: RulesFile, names: Names, path: str) -> None:
        self._file, self._names, self._path = file, names, path
        self._limits = Limits()
        self._common = [self._signal(n, f"$.defaults.snapshot[{k}]") for k, n in enumerate(file.defaults.snapshot)]

    def monitor(self, entry: Monitor, where: str) -> MonitorRule:
        defaults = self._file.defaults
        enable = defaults.enable if entry.enable is None else entry.enable
        delay_ms = defaults.enable_delay_ms if entry.enable_delay_ms is None else entry.enable_delay_ms
        own = [self._signal(name, f"{where}.snapshot[{k}]") for k, name in enumerate(entry.snapshot)]
        enable_at = "$.defaults.enable" if entry.enable is None else f"{where}.enable"
        return MonitorRule(
            definition=self._definition(entry, where),
            test=self._test(entry, where),
            enable=self._condition(enable, enable_at) if enable else None,
            enable_delay_ns=delay_ms * _MS,
            snapshot=tuple(dict.fromkeys([*own, *self._common])),
        )

    def _definition(self, entry: Monitor, where: str) -> Definition:
        try:
            code = parse_dtc(entry.dtc)
        except ValueError as error:
            raise self._wrong(str(error), f"{where}.dtc") from error
        if code in (0, 0xFFFFFF) or code >> 8 == 0xFFFF:
            raise self._wrong(f"{entry.dtc} stands for a group of DTCs", f"{where}.dtc")
        defaults = self._file.defaults
        debounce = entry.debounce or defaults.debounce
        self._check_debounce(debounce, f"{where}.debounce" if entry.debounce else "$.defaults.debounce")
        if entry.emissions and not entry.lamp:
            raise self._wrong("an emissions-related DTC has a lamp; set lamp = true", f"{where}.emissions")
        return Definition(
            code=code,
            name=entry.name,
            text=entry.text,
            severity=Severity[entry.severity.upper()],
            functional_unit=entry.functional_unit,
            priority=entry.priority,
            lamp=entry.lamp,
            confirm_cycles=_or(entry.confirm_cycles, defaults.confirm_cycles),
            aging_cycles=_or(entry.aging_cycles, defaults.aging_cycles),
            aging_tested=entry.aging_tested,
            healing_cycles=_or(entry.healing_cycles, defaults.healing_cycles),
            emissions=entry.emissions,
            memory=entry.memory,
            debounce=debounce,
        )

    def _check_debounce(self, debounce: Debounce, where: str) -> None:
        low, high = -debounce.pass_after, debounce.fail_after
        for key, jump in (("jump_up", debounce.jump_up), ("jump_down", debounce.jump_down)):
            if jump is not None and not low < jump < high:
                raise self._wrong(f"must lie between {low} and {high}, the counter's ends", f"{where}.{key}")

    def _test(self, entry: Monitor, where: str) -> Test:
        match entry:
            case RangeMonitor():
                return self._range(entry.signal, entry.min, entry.max, entry.hysteresis, ("min", "max"), where)
            case VoltageMonitor():
                return self._range(entry.signal, entry.low, entry.high, entry.hysteresis, ("low", "high"), where)
            case RateMonitor():
                if entry.max_rise_per_s is None and entry.max_fall_per_s is None:
                    raise self._wrong("give max_rise_per_s, max_fall_per_s or both", where)
                signal = self._signal(entry.signal, f"{where}.signal")
                infinite = float("inf")
                return RateTest(
                    signal=signal, rise=_or(entry.max_rise_per_s, infinite), fall=_or(entry.max_fall_per_s, infinite)
                )
            case PlausibilityMonitor():
                return ConditionTest(condition=self._condition(entry.condition, f"{where}.condition"))
            case MissingMonitor():
                return self._missing(entry, where)
            case IntegrityMonitor():
                return self._integrity(entry, where)
            case EcuSilentMonitor():
                return EcuTest(ecu=entry.ecu)
            case BusOffMonitor():
                return BusOffTest(bus=self._try(self._names.bus, entry.bus, f"{where}.bus"))

    def _range(
        self, signal: str, low: float | None, high: float | None, hysteresis: float, keys: tuple[str, str], where: str
    ) -> RangeTest:
        if low is None and high is None:
            raise self._wrong(f"give {keys[0]}, {keys[1]} or both", where)
        bottom, top = _or(low, float("-inf")), _or(high, float("inf"))
        if not bottom < top:
            raise self._wrong(f"{keys[0]} is not below {keys[1]}", f"{where}.{keys[0]}")
        if bottom + hysteresis > top - hysteresis:
            raise self._wrong("no value would be good again", f"{where}.hysteresis")
        number = self._signal(signal, f"{where}.signal")
        return RangeTest(signal=number, low=bottom, high=top, hysteresis=hysteresis)

    def _missing(self, entry: MissingMonitor, where: str) -> MissingTest:
        names = (entry.message,) if isinstance(entry.message, str) else entry.message
        if bool(names) == bool(entry.bus):
            raise self._wrong("give either message or bus", where)
        if entry.bus:
            bus = self._try(self._names.bus, entry.bus, f"{where}.bus")
            timeout_ns = _or(entry.timeout_ms, _BUS_MISSING_MS) * _MS
            return MissingTest(messages=(), bus=bus, bus_timeout_ns=timeout_ns)
        messages: dict[int, int] = {}
        for name in names:
            for number in self._try(self._names.messages, name, f"{where}.message"):
                cycle_ms = self._names.manifest.messages[number].cycle_ms
                if entry.timeout_ms is None and not cycle_ms:
                    raise self._wrong(f"{name} has no cycle time in the manifest; give timeout_ms", f"{where}.message")
                own_ms = max(_MISSING_CYCLES * (cycle_ms or 0), _MISSING_MIN_MS)
                messages[number] = _or(entry.timeout_ms, own_ms) * _MS
        return MissingTest(messages=tuple(messages.items()), bus=-1, bus_timeout_ns=0)

    def _integrity(self, entry: IntegrityMonitor, where: str) -> IntegrityTest:
        names = (entry.message,) if isinstance(entry.message, str) else entry.message
        rules: dict[int, Rule] = {}
        for name in names:
            for number in self._try(self._names.messages, name, f"{where}.message"):
                rule = rule_of(self._names.manifest, number)
                lacking = [
                    part
                    for part, has in (
                        ("checksum", rule is not None and rule.checksum is not None),
                        ("counter", rule is not None and rule.counter is not None),
                    )
                    if not has and entry.check in (part, "both")
                ]
                if rule is None or lacking:
                    raise self._wrong(
                        f"the manifest tells of no {' and no '.join(lacking)} in {name}", f"{where}.message"
                    )
                rules[number] = rule
        if not rules:
            raise self._wrong("name at least one message", f"{where}.message")
        return IntegrityTest(
            rules=tuple(rules.values()), checksum=entry.check != "counter", counter=entry.check != "checksum"
        )

    def _condition(self, text: str, where: str) -> Condition:
        try:
            condition = bind(text, self._names, self._limits)
        except ExpressionError as error:
            raise self._wrong(str(error), where) from error
        if name := refused_function(condition):
            raise self._wrong(f"{name}(…) needs every sample; monitors look at moments", where)
        return condition

    def _signal(self, name: str, where: str) -> int:
        number = self._try(self._names.signal, name, where)
        if problem := problem_of(self._names.manifest.signals[number]):
            raise self._wrong(f"{name} cannot be decoded: {problem}", where)
        return number

    def _try(self, find: Callable[[str], T], name: str, where: str) -> T:
        try:
            return find(name)
        except NameError_ as error:
            raise self._wrong(str(error), where) from error

    def _wrong(self, message: str, where: str) -> ConfigError:
        return ConfigError(message, path=self._path, where=where)


def _or(value: T | None, default: T) -> T:
    return default if value is None else value
