"""The policy file: one TOML file of ordered rules and a few limits. Unknown keys are refused, with the key's path.

The first rule that fits an item of a request decides; a request passes if each of its items does. Three things no rule
does by accident: a rule that allows writing does so at standstill only, unless it says ``vehicle = "any"``; a rule
without ``services`` fits neither services that ISO 14229-1 does not know nor 0x84; and what no rule fits is refused.
"""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gateway.errors import ConfigError

Nrc = Annotated[int, Meta(ge=0x10, le=0xFF)]
#: A number, or a range as text: ``"0xF180-0xF19F"``.
Number = int | str

MAX_RULES = 500


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Common rules of all sections."""


class LockSection(_Section, frozen=True):
    """``[lock]``: one tester at a time may write, hold a session or a transfer."""

    scope: Literal["ecu", "vehicle"] = "ecu"
    nrc: Nrc = 0x22  # for the others
    session_timeout_ms: Annotated[int, Meta(ge=1000, le=3_600_000)] = 6000  # S3 and a margin


class SecurityAccessSection(_Section, frozen=True):
    """``[security_access]``: guessing keys (0x27) and failing to authenticate (0x29)."""

    max_failed_keys: Annotated[int, Meta(ge=1, le=1000)] = 3  # of one tester at one target
    max_failed_keys_per_target: Annotated[int, Meta(ge=1, le=1000)] = 10  # of all testers together
    lockout_s: Annotated[float, Meta(gt=0, le=86_400)] = 10.0  # the first; each further one doubles
    max_lockout_s: Annotated[float, Meta(gt=0, le=604_800)] = 3600.0
    max_seeds_per_minute: Annotated[int, Meta(ge=1, le=100_000)] = 10  # of one target
    forget_after_s: Annotated[float, Meta(gt=0, le=31_536_000)] = 86_400.0  # without a failure


class Rule(_Section, frozen=True):
    """``[[rules]]``. A key that is absent fits everything; lists fit if one of their members does."""

    name: str
    action: Literal["allow", "refuse", "drop"]
    ports: tuple[str, ...] = ()  # "doip", "obd", "cloud", "gateway"
    testers: tuple[Number, ...] = ()  # source addresses
    tester_names: tuple[str, ...] = ()  # TLS subject, operator; ``*`` at the end matches the rest
    secure: bool | None = None  # over TLS with a client certificate, or in a signed order
    targets: tuple[Number, ...] = ()  # names or logical addresses
    services: tuple[Number, ...] = ()  # numbers, ranges, "reading" or "writing"
    sub_functions: tuple[Number, ...] = ()  # without the suppress bit
    dids: tuple[Number, ...] = ()
    routines: tuple[Number, ...] = ()
    memory: tuple[str, ...] = ()  # "0x1000-0x1FFF"; the whole range asked for must be inside one of them
    functional: bool | None = None
    session: tuple[Number, ...] = ()  # the ECU's, as far as this tester opened it (1 otherwise)
    unlocked: bool | tuple[int, ...] | None = None  # any level; or one of these levels (odd, as in the seed request)
    vehicle: Literal["any", "standstill", "moving"] | None = None  # unknown counts as moving
    below_kmh: Annotated[float, Meta(gt=0)] | None = None  # speed known and below
    min_voltage_v: float | None = None  # voltage known and at least this
    nrc: Nrc = 0x33  # with "refuse"
    max_per_minute: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None  # per tester and target; beyond: 0x21
    audit: bool | None = None  # record what it allows; None: writing only


class Policy(_Section, frozen=True):
    """The whole file."""

    version: Literal[1]
    rules: Annotated[tuple[Rule, ...], Meta(max_length=MAX_RULES)]
    default_nrc: Nrc = 0x33  # for what no rule fits
    lock: LockSection = LockSection()
    security_access: SecurityAccessSection = SecurityAccessSection()


def parse_number(text: Number) -> range:
    """One number or a range, as a ``range``.

    Raises:
        ValueError: neither.
    """
    if isinstance(text, int):
        return range(text, text + 1)
    first, dash, last = text.partition("-")
    low = int(first.strip(), 0)
    high = int(last.strip(), 0) if dash else low
    if not 0 <= low <= high:
        raise ValueError(f"{text!r} is an empty range")
    return range(low, high + 1)


def parse_policy(text: str, *, path: str = "") -> Policy:
    """A policy from its text.

    Raises:
        ConfigError: with the key that is wrong.
    """
    try:
        return msgspec.convert(tomllib.loads(text), Policy)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(str(error), path=path) from error
    except msgspec.ValidationError as error:
        raise ConfigError(str(error).replace("`", ""), path=path) from error


def load_policy(path: Path) -> Policy:
    """A policy from a file; only its form is checked, ``gateway.firewall.rules.compile_policy`` checks what it says.

    Raises:
        ConfigError: the file cannot be read or is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(error.strerror or str(error), path=str(path)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(str(error), path=str(path)) from error
    return parse_policy(text, path=str(path))


def default_policy_text() -> str:
    """The built-in policy's file."""
    return files("gateway.firewall").joinpath("default_policy.toml").read_text(encoding="utf-8")


def default_policy() -> Policy:
    """Reading for all, writing at standstill, little for the cloud."""
    return parse_policy(default_policy_text(), path="default_policy.toml")
