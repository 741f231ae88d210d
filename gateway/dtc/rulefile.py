"""The file of monitor rules as written: TOML decoded into frozen types that refuse unknown keys.

Names are still names here; ``gateway.dtc.rules`` gives them a meaning. For readers: docs/reference/monitor-rules.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from gateway.dtc.model import Byte, Cycles, Debounce
from gateway.errors import ConfigError

MAX_FILE_BYTES = 1024 * 1024
MAX_MONITORS = 1000

Milliseconds = Annotated[int, Meta(ge=0, le=86_400_000)]
PositiveMilliseconds = Annotated[int, Meta(ge=1, le=86_400_000)]
NonNegative = Annotated[float, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
SeverityName = Literal["none", "maintenance", "next_halt", "immediate"]


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of everything in a rules file."""


class Defaults(Strict, frozen=True, kw_only=True):
    """``[defaults]``: what a monitor means when it does not say otherwise."""

    enable: str = ""
    enable_delay_ms: Milliseconds = 1000
    debounce: Debounce = Debounce()
    confirm_cycles: Cycles = 2
    healing_cycles: Cycles = 3
    aging_cycles: Cycles = 40
    snapshot: tuple[str, ...] = ()


class _Monitor(Strict, frozen=True, kw_only=True, tag_field="kind"):
    """What all monitors have. None: as ``[defaults]`` says.

    ``enable``: the test runs only where this condition has held for ``enable_delay_ms``; empty: always.
    ``snapshot``: signals frozen at a failure besides those of the defaults.
    """

    dtc: str
    name: str = ""
    text: str = ""
    enable: str | None = None
    enable_delay_ms: Milliseconds | None = None
    debounce: Debounce | None = None
    confirm_cycles: Cycles | None = None
    healing_cycles: Cycles | None = None
    aging_cycles: Cycles | None = None
    aging_tested: bool = True
    severity: SeverityName = "none"
    functional_unit: Byte = 0
    priority: Annotated[int, Meta(ge=1, le=255)] = 10
    lamp: bool = False
    emissions: bool = False
    memory: Byte | None = None
    snapshot: tuple[str, ...] = ()


class RangeMonitor(_Monitor, frozen=True, kw_only=True, tag="range"):
    """Fault: the signal is below ``min`` or above ``max``, until it is back inside by ``hysteresis``."""

    signal: str
    min: float | None = None
    max: float | None = None
    hysteresis: NonNegative = 0.0


class VoltageMonitor(_Monitor, frozen=True, kw_only=True, tag="voltage"):
    """Fault: the supply is below ``low`` or above ``high`` (V), until it is back by ``hysteresis``."""

    signal: str
    low: Positive | None = None
    high: Positive | None = None
    hysteresis: NonNegative = 0.3


class RateMonitor(_Monitor, frozen=True, kw_only=True, tag="rate"):
    """Fault: the signal rises or falls faster than these units per second between two looks at it."""

    signal: str
    max_rise_per_s: Positive | None = None
    max_fall_per_s: Positive | None = None


class PlausibilityMonitor(_Monitor, frozen=True, kw_only=True, tag="plausibility"):
    """Fault: the condition holds. Unknown is no test."""

    condition: str


class MissingMonitor(_Monitor, frozen=True, kw_only=True, tag="missing"):
    """Fault: one of the messages, or every frame of the bus, has not come for ``timeout_ms``.

    Without ``timeout_ms``: ten cycles of the message, at least 500 ms; 1000 ms for a bus.
    """

    message: str | tuple[str, ...] = ()
    bus: str = ""
    timeout_ms: PositiveMilliseconds | None = None


class IntegrityMonitor(_Monitor, frozen=True, kw_only=True, tag="integrity"):
    """Fault: a frame of the messages came with a wrong checksum, a wrong counter, or either."""

    message: str | tuple[str, ...]
    check: Literal["checksum", "counter", "both"] = "both"


class EcuSilentMonitor(_Monitor, frozen=True, kw_only=True, tag="ecu_silent"):
    """Fault: an ECU does not answer diagnostic requests, as those who ask it tell."""

    ecu: str


class BusOffMonitor(_Monitor, frozen=True, kw_only=True, tag="bus_off"):
    """Fault: the controller left the bus."""

    bus: str


Monitor: TypeAlias = (
    RangeMonitor
    | VoltageMonitor
    | RateMonitor
    | PlausibilityMonitor
    | MissingMonitor
    | IntegrityMonitor
    | EcuSilentMonitor
    | BusOffMonitor
)


class RulesFile(Strict, frozen=True, kw_only=True):
    """A rules file as its author wrote it.

    ``period_ms`` is how often monitors look at the signals; ``stale_ms`` after how long a signal is unknown (at least
    five cycles of its message); ``cycle_end_ms`` how long the ignition may be unknown before the cycle ends.
    """

    period_ms: Annotated[int, Meta(ge=10, le=10_000)] = 100
    stale_ms: PositiveMilliseconds = 1000
    cycle_end_ms: PositiveMilliseconds = 10_000
    defaults: Defaults = Defaults()
    monitor: tuple[Monitor, ...] = ()


def read_rules_file(path: Path) -> RulesFile:
    """Read and decode a rules file.

    Raises:
        ConfigError: cannot be read, not TOML, or a key is unknown, missing or wrong; names file and key.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}", path=str(path)) from error
    return parse_rules_file(content, str(path))


def parse_rules_file(content: str | bytes, path: str = "") -> RulesFile:
    """Decode the text of a rules file; raises as ``read_rules_file``."""
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"larger than {MAX_FILE_BYTES} bytes", path=path)
    try:
        rules = msgspec.toml.decode(content, type=RulesFile)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at ")
        raise ConfigError(message.replace("`", ""), path=path, where=where.replace("`", "") or "$") from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:  # tomllib raises ValueErrors of its own
        raise ConfigError(f"not a TOML file: {' '.join(str(error).split())[:200]}", path=path) from error
    if len(rules.monitor) > MAX_MONITORS:
        raise ConfigError(f"at most {MAX_MONITORS} monitors", path=path, where="$.monitor")
    return rules
