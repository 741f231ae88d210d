"""The scheme file as written: TOML decoded into frozen types that refuse unknown keys.

Names are still names here; ``resolve`` turns a ``SchemeFile`` and a manifest into a ``Scheme`` that can be run.
Unknown keys are an error because a misspelt option that is silently ignored costs a fleet its data.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gateway.errors import ConfigError

MAX_FILE_BYTES = 1024 * 1024

_DAY_MS = 86_400_000
Milliseconds = Annotated[int, Meta(ge=0, le=_DAY_MS)]
PositiveMilliseconds = Annotated[int, Meta(ge=1, le=_DAY_MS)]
NonNegative = Annotated[float, Meta(ge=0)]
Identifier = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Instant = Annotated[datetime.datetime, Meta(tz=True)]
Validity = Literal["ignore", "mark", "require"]


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of everything in a scheme file."""


class SignalRule(Strict, frozen=True):
    """Which signals, and when a sample of them is worth sending. ``None`` takes the scheme's default.

    A sample is sent when it is the first one; when ``heartbeat_ms`` passed since the last one sent; when ``on_change``
    is off and ``min_period_ms`` passed; or when the value changed and ``min_period_ms`` passed or ``force_on_change``
    is set. "Changed" is against the last value *sent*: any difference, or at least ``dead_band`` physical units. A
    ``dead_band`` above 0 turns ``on_change`` on.
    """

    name: str | tuple[str, ...]
    exclude: tuple[str, ...] = ()
    min_period_ms: Milliseconds | None = None
    on_change: bool | None = None
    dead_band: NonNegative | None = None
    force_on_change: bool | None = None
    heartbeat_ms: Milliseconds | None = None  # 0: never
    validity: Validity | None = None
    timeout_ms: Milliseconds | None = None  # 0: not watched
    check_range: bool | None = None  # quality OUT_OF_RANGE by the manifest's minimum and maximum


class Defaults(Strict, frozen=True):
    """What a ``[[signals]]`` entry means when it does not say otherwise."""

    min_period_ms: Milliseconds = 0
    on_change: bool = False
    dead_band: NonNegative = 0.0
    force_on_change: bool = False
    heartbeat_ms: Milliseconds = 0
    validity: Validity = "ignore"
    timeout_ms: Milliseconds = 0
    check_range: bool = False


class Trigger(Strict, frozen=True):
    """When the scheme collects at all. Without a trigger it always does."""

    condition: str
    edge: Literal["rising", "level"] = "rising"
    min_interval_ms: Milliseconds = 1000
    pre_trigger_ms: Milliseconds = 0
    post_trigger_ms: Milliseconds = 0
    stale_ms: Milliseconds = 0  # an input older than this is unknown; 0: never
    validity: Validity = "ignore"  # "require": inputs with a bad checksum or counter are not seen


class RawFrames(Strict, frozen=True):
    """A black box: whole frames, of known identifiers or not.

    ``ids`` holds numbers (``"0x1A0"``), ranges (``"0x100-0x1FF"``), or message names; empty means all. An identifier
    above 0x7FF is a 29-bit one; ``extended`` says it for smaller ones.
    """

    buses: tuple[str, ...] = ()  # empty: all
    ids: tuple[str, ...] = ()
    extended: bool | None = None


class Integrity(Strict, frozen=True):
    """A checksum or counter the DBC does not tell of. Signals by their name in the message."""

    message: str
    checksum: str = ""
    checksum_signal: str = ""
    data_id: Annotated[int, Meta(ge=0, le=0xFFFF)] = 0
    counter: str = ""


class SchemeFile(Strict, frozen=True):
    """A collection scheme as its author wrote it."""

    id: Identifier
    version: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    description: str = ""
    not_before: Instant | None = None
    not_after: Instant | None = None
    priority: Literal["critical", "normal", "bulk"] = "normal"
    upload: Literal["any", "wifi"] = "any"
    resolution_ms: Annotated[float, Meta(gt=0, le=60_000)] = 1.0
    defaults: Defaults = Defaults()
    signals: tuple[SignalRule, ...] = ()
    trigger: Trigger | None = None
    raw_frames: tuple[RawFrames, ...] = ()
    integrity: tuple[Integrity, ...] = ()


class Limits(Strict, frozen=True):
    """What schemes may ask of the vehicle. The defaults suit an ECU with 512 MiB."""

    max_schemes: int = 64
    max_expression_chars: int = 2000
    max_expression_nodes: int = 200
    max_expression_depth: int = 32
    max_window_ms: int = 600_000  # of min/max/mean/count
    max_history_samples: int = 200_000  # kept for windows, all schemes together
    max_pre_trigger_ms: int = 120_000
    max_post_trigger_ms: int = 3_600_000
    max_held_frames: int = 100_000  # in pre-trigger windows
    max_events_per_call: int = 200
    clock_back_ms: int = 1000  # a step back of more than this is a clock jump
    clock_forward_ms: int = 3_600_000
    condition_tick_ms: int = 100  # how often conditions that depend on time alone are looked at
    coarse_period_ms: int = 100  # base period of a signal without one, when the budget degrades it


def parse_scheme(text: str | bytes, path: str = "") -> SchemeFile:
    """Decode a scheme file.

    Raises:
        ConfigError: not TOML, or a key is unknown, missing or wrong; ``where`` is the key's path.
    """
    if len(text) > MAX_FILE_BYTES:
        raise ConfigError(f"scheme larger than {MAX_FILE_BYTES} bytes", path=path)
    try:
        return msgspec.toml.decode(text, type=SchemeFile)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at ")
        raise ConfigError(message.replace("`", ""), path=path, where=where.replace("`", "") or "$") from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:  # tomllib raises ValueErrors of its own
        raise ConfigError(f"not a TOML file: {_first_line(error)}", path=path) from error


def load_scheme(path: Path) -> SchemeFile:
    """Read and decode a scheme file; ``ConfigError`` names the file."""
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ConfigError(f"scheme larger than {MAX_FILE_BYTES} bytes", path=str(path))
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}", path=str(path)) from error
    return parse_scheme(content, str(path))


def names_of(rule: SignalRule) -> Sequence[str]:
    """The names of a rule as a sequence."""
    return (rule.name,) if isinstance(rule.name, str) else rule.name


def _first_line(error: BaseException) -> str:
    return re.sub(r"\s+", " ", str(error))[:200]
