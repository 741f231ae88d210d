"""From a scheme as written to a scheme that can run: names become numbers, units become nanoseconds.

A ``Scheme`` belongs to one manifest. Everything that can be wrong with it is said here, with file and key, before a
vehicle sees it.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from dbc.decode.layout import problem_of
from dbc.integrity import CHECKSUMS
from dbc.manifest import Manifest
from gateway.collect.bind import Condition, bind
from gateway.collect.expression import ExpressionError
from gateway.collect.model import (
    Defaults,
    Integrity,
    Limits,
    RawFrames,
    SchemeFile,
    SignalRule,
    Trigger,
    Validity,
    load_scheme,
    names_of,
)
from gateway.collect.names import NameError_, Names
from gateway.errors import ConfigError
from gateway.wire.api import SchemeState
from gateway.wire.batch import Priority, UploadRule

T = TypeVar("T")
_MS = 1_000_000
_STANDARD_MAX, _EXTENDED_MAX = 0x7FF, 0x1FFFFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """When a sample of one signal is worth sending; ``SignalRule`` tells the semantics."""

    signal: int
    period_ns: int = 0
    on_change: bool = False
    dead_band: float = 0.0
    force: bool = False
    heartbeat_ns: int = 0
    validity: Validity = "ignore"
    timeout_ns: int = 0
    check_range: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A checksum (and its signal) or a counter signal of a message; -1 for none."""

    message: int
    checksum: str = ""
    checksum_signal: int = -1
    data_id: int = 0
    counter_signal: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerRule:
    """When a window opens and how far it reaches."""

    condition: Condition
    edge: Literal["rising", "level"]
    min_interval_ns: int
    pre_ns: int
    post_ns: int
    stale_ns: int
    require_valid: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """A scheme that can run with the manifest it was resolved against.

    ``raw_ranges`` are inclusive ranges of frame keys (``frame_key``), sorted and disjoint.
    """

    id: str
    version: int
    description: str
    not_before_ns: int | None
    not_after_ns: int | None
    priority: Priority
    upload: UploadRule
    resolution_ns: int
    rules: tuple[Rule, ...]
    trigger: TriggerRule | None
    raw_ranges: tuple[tuple[int, int], ...]
    checks: tuple[Check, ...]

    def active_at(self, now_ns: int) -> bool:
        """Within ``not_before`` (included) and ``not_after`` (excluded)."""
        return (self.not_before_ns is None or now_ns >= self.not_before_ns) and (
            self.not_after_ns is None or now_ns < self.not_after_ns
        )


@dataclass(frozen=True, slots=True)
class LoadedSchemes:
    """The sound schemes, and what became of the others."""

    schemes: tuple[Scheme, ...]
    rejected: tuple[SchemeState, ...]
    errors: tuple[ConfigError, ...]


def frame_key(bus: int, can_id: int, extended: bool) -> int:
    """One number per bus, identifier and kind of identifier; ordered by bus, then kind, then identifier."""
    return bus << 30 | int(extended) << 29 | can_id


def load_schemes(paths: Iterable[Path], manifest: Manifest, limits: Limits | None = None) -> LoadedSchemes:
    """Load and resolve scheme files. A bad one is reported and the others still run; never raises for content."""
    limits = limits or Limits()
    names = Names(manifest)
    schemes: list[Scheme] = []
    rejected: list[SchemeState] = []
    errors: list[ConfigError] = []
    for path in paths:
        identity = (path.stem, 0)
        try:
            file = load_scheme(path)
            identity = (file.id, file.version)
            if any(s.id == file.id for s in schemes):
                raise ConfigError(f"a scheme with the id {file.id!r} is already loaded", path=str(path), where="$.id")
            if len(schemes) >= limits.max_schemes:
                raise ConfigError(f"more than {limits.max_schemes} schemes", path=str(path))
            schemes.append(resolve(file, names, limits, str(path)))
        except ConfigError as error:
            errors.append(error)
            rejected.append(SchemeState(*identity, "rejected", str(error)))
    return LoadedSchemes(tuple(schemes), tuple(rejected), tuple(errors))


def resolve(file: SchemeFile, names: Names, limits: Limits | None = None, path: str = "") -> Scheme:
    """Resolve a scheme against the manifest of ``names``.

    Raises:
        ConfigError: a name the manifest does not have, a contradiction, or more than the limits allow.
    """
    return _Resolver(file, names, limits or Limits(), path).scheme()


class _Resolver:
    def __init__(self, file: SchemeFile, names: Names, limits: Limits, path: str) -> None:
        self._file, self._names, self._limits, self._path = file, names, limits, path

    def scheme(self) -> Scheme:
        file = self._file
        if not (file.signals or file.raw_frames or file.trigger):
            raise self._wrong("the scheme collects nothing: give it signals, raw_frames or a trigger", "$")
        before, after = _utc_ns(file.not_before), _utc_ns(file.not_after)
        if before is not None and after is not None and before >= after:
            raise self._wrong("not_after is not later than not_before", "$.not_after")
        return Scheme(
            id=file.id,
            version=file.version,
            description=file.description,
            not_before_ns=before,
            not_after_ns=after,
            priority=Priority[file.priority.upper()],
            upload=UploadRule[file.upload.upper()],
            resolution_ns=max(1, round(file.resolution_ms * _MS)),
            rules=self._rules(),
            trigger=self._trigger(file.trigger) if file.trigger else None,
            raw_ranges=_merged(
                [r for i, raw in enumerate(file.raw_frames) for r in self._raw(raw, f"$.raw_frames[{i}]")]
            ),
            checks=tuple(self._check(c, f"$.integrity[{i}]") for i, c in enumerate(file.integrity)),
        )

    def _rules(self) -> tuple[Rule, ...]:
        """One rule per signal: the last entry that names it wins."""
        rules: dict[int, Rule] = {}
        for i, entry in enumerate(self._file.signals):
            excluded = {
                s for k, name in enumerate(entry.exclude) for s in self._find(name, f"$.signals[{i}].exclude[{k}]")
            }
            written = names_of(entry)
            if not written:
                raise self._wrong("no name", f"$.signals[{i}].name")
            for k, name in enumerate(written):
                where = f"$.signals[{i}].name" + ("" if isinstance(entry.name, str) else f"[{k}]")
                for signal in self._find(name, where):
                    if signal not in excluded:
                        rules[signal] = _rule(signal, entry, self._file.defaults)
        return tuple(rules[signal] for signal in sorted(rules))

    def _trigger(self, trigger: Trigger) -> TriggerRule:
        limits = self._limits
        if trigger.pre_trigger_ms > limits.max_pre_trigger_ms:
            raise self._wrong(f"at most {limits.max_pre_trigger_ms} ms", "$.trigger.pre_trigger_ms")
        if trigger.post_trigger_ms > limits.max_post_trigger_ms:
            raise self._wrong(f"at most {limits.max_post_trigger_ms} ms", "$.trigger.post_trigger_ms")
        try:
            condition = bind(trigger.condition, self._names, limits)
        except ExpressionError as error:
            raise self._wrong(str(error), "$.trigger.condition") from error
        return TriggerRule(
            condition=condition,
            edge=trigger.edge,
            min_interval_ns=trigger.min_interval_ms * _MS,
            pre_ns=trigger.pre_trigger_ms * _MS,
            post_ns=trigger.post_trigger_ms * _MS,
            stale_ns=trigger.stale_ms * _MS,
            require_valid=trigger.validity == "require",
        )

    def _raw(self, raw: RawFrames, where: str) -> list[tuple[int, int]]:
        manifest = self._names.manifest
        buses: Sequence[int] = range(len(manifest.buses))
        if raw.buses:
            buses = [self._try(self._names.bus, name, f"{where}.buses[{i}]") for i, name in enumerate(raw.buses)]
        kinds = (False, True) if raw.extended is None else (raw.extended,)
        if not raw.ids:
            tops = {False: _STANDARD_MAX, True: _EXTENDED_MAX}
            return [(frame_key(b, 0, kind), frame_key(b, tops[kind], kind)) for b in buses for kind in kinds]
        ranges: list[tuple[int, int]] = []
        for i, text in enumerate(raw.ids):
            span = _id_range(text)
            if span is None:
                for number in self._try(self._names.messages, text, f"{where}.ids[{i}]"):
                    message = manifest.messages[number]
                    if message.bus in buses:
                        key = frame_key(message.bus, message.can_id, message.extended)
                        ranges.append((key, key))
                continue
            low, high = span
            extended = high > _STANDARD_MAX if raw.extended is None else raw.extended
            if low > high or high > (_EXTENDED_MAX if extended else _STANDARD_MAX):
                raise self._wrong(f"{text!r} is no identifier or range of them", f"{where}.ids[{i}]")
            ranges.extend((frame_key(b, low, extended), frame_key(b, high, extended)) for b in buses)
        return ranges

    def _check(self, entry: Integrity, where: str) -> Check:
        message = self._try(self._names.message, entry.message, f"{where}.message")
        if not entry.checksum and not entry.counter:
            raise self._wrong("give a checksum or a counter", where)
        if entry.checksum and entry.checksum not in CHECKSUMS:
            raise self._wrong(
                f"no checksum {entry.checksum!r}; there are {', '.join(sorted(CHECKSUMS))}", f"{where}.checksum"
            )
        checksum_signal = -1
        if entry.checksum:
            checksum_signal = self._part(message, entry.checksum_signal, "checksum", f"{where}.checksum_signal")
        counter = self._part(message, entry.counter, "counter", f"{where}.counter") if entry.counter else -1
        return Check(
            message=message,
            checksum=entry.checksum,
            checksum_signal=checksum_signal,
            data_id=entry.data_id,
            counter_signal=counter,
        )

    def _part(self, message: int, name: str, role: str, where: str) -> int:
        """A signal of the message by its short name, or by its role when no name is given."""
        record = self._names.manifest.messages[message]
        for i, signal in enumerate(record.signals):
            if signal.name == name or (not name and (signal.role == role or signal.name.lower() == role)):
                if problem := problem_of(signal):
                    raise self._wrong(f"{signal.name} cannot be decoded: {problem}", where)
                return self._names.manifest.first_signal[message] + i
        known = ", ".join(s.name for s in record.signals[:12])
        raise self._wrong(
            f"{record.name} has no signal {name!r}; it has {known}" if name else f"name the {role} signal", where
        )

    def _find(self, name: str, where: str) -> list[int]:
        return self._try(self._names.signals, name, where)

    def _try(self, find: Callable[[str], T], name: str, where: str) -> T:
        try:
            return find(name)
        except NameError_ as error:
            raise self._wrong(str(error), where) from error

    def _wrong(self, message: str, where: str) -> ConfigError:
        return ConfigError(message, path=self._path, where=where)


def _rule(signal: int, entry: SignalRule, defaults: Defaults) -> Rule:
    dead_band = defaults.dead_band if entry.dead_band is None else entry.dead_band
    on_change = (defaults.on_change if entry.on_change is None else entry.on_change) or dead_band > 0
    heartbeat_ms = defaults.heartbeat_ms if entry.heartbeat_ms is None else entry.heartbeat_ms
    return Rule(
        signal=signal,
        period_ns=_MS * (defaults.min_period_ms if entry.min_period_ms is None else entry.min_period_ms),
        on_change=on_change,
        dead_band=float(dead_band),
        force=defaults.force_on_change if entry.force_on_change is None else entry.force_on_change,
        heartbeat_ns=_MS * heartbeat_ms if on_change else 0,
        validity=entry.validity or defaults.validity,
        timeout_ns=_MS * (defaults.timeout_ms if entry.timeout_ms is None else entry.timeout_ms),
        check_range=defaults.check_range if entry.check_range is None else entry.check_range,
    )


def _id_range(text: str) -> tuple[int, int] | None:
    """The numbers of ``"0x123"`` or ``"0x100-0x1FF"``; None when it is neither."""
    low, dash, high = text.partition("-")
    try:
        first = int(low.strip(), 0)
        return first, int(high.strip(), 0) if dash else first
    except ValueError:
        return None


def _merged(ranges: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def _utc_ns(instant: datetime.datetime | None) -> int | None:
    if instant is None:
        return None
    step = instant - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return (step.days * 86_400 + step.seconds) * 1_000_000_000 + step.microseconds * 1000
