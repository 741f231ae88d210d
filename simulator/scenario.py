"""Scenarios: what the simulated car does and what goes wrong, as a TOML file (docs/reference/scenario-format.md)."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from simulator.buses import BUS_NAMES
from simulator.faults import KINDS, Fault
from simulator.model.route import load_route
from simulator.model.vehicle import Activity, Start

FOLDER = Path(__file__).parent / "scenarios"
DEFAULT_EPOCH = datetime(2026, 1, 5, 7, 0, 0, tzinfo=UTC)
MAX_PHASES, MAX_FAULTS = 100, 1000

Seconds = Annotated[float, msgspec.Meta(gt=0, le=1e7)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Celsius = Annotated[float, msgspec.Meta(ge=-40, le=60)]


class ScenarioError(ValueError):
    """A scenario that cannot be run; the message names the file and the key."""


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class _StartFile(_Strict, frozen=True):
    soc: Share = 0.72
    cycles: Annotated[float, msgspec.Meta(ge=0, le=5000)] = 140.0
    odometer_km: Annotated[float, msgspec.Meta(ge=0, le=2e6)] = 23_450.0
    ambient_c: Celsius = 14.0
    cabin_c: Celsius | None = None
    battery_c: Celsius | None = None
    setpoint_c: Annotated[float, msgspec.Meta(ge=14, le=32)] = 21.0
    sun_w_m2: Annotated[float, msgspec.Meta(ge=0, le=1400)] = 250.0
    rain: Share = 0.0
    dark: bool = False
    tyre_kpa: Annotated[float, msgspec.Meta(ge=50, le=500)] = 250.0
    low_voltage_soc: Share = 0.9
    distance_m: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0
    occupants: Annotated[int, msgspec.Meta(ge=1, le=4)] = 1


class _PhaseFile(_Strict, frozen=True):
    activity: Literal["drive", "stand", "park", "charge"]
    duration_s: Seconds
    name: str = ""
    route: str = ""
    style: Literal["calm", "normal", "sporty"] = "normal"
    on_the_road: bool = False
    charge: Literal["ac", "dc"] = "ac"
    charge_kw: Annotated[float, msgspec.Meta(gt=0, le=400)] = 11.0
    target_soc: Share = 0.8
    silent_buses: list[str] = []  # msgspec copies a default list for each struct


class _FaultFile(_Strict, frozen=True):
    kind: str
    target: str = ""
    at_s: Annotated[float, msgspec.Meta(ge=0, le=1e7)] = 0.0
    duration_s: Seconds | None = None
    value: float | None = None


class _Head(_Strict, frozen=True):
    name: str
    description: str = ""
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**32)] = 1
    start_utc: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One stretch of a scenario."""

    name: str
    activity: Activity
    duration_s: float
    route: str
    on_the_road: bool
    silent_buses: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What happens, checked but for the targets of faults, which need the manifest."""

    name: str
    description: str
    seed: int
    epoch_ns: int
    start: Start
    phases: tuple[Phase, ...]
    faults: tuple[Fault, ...] = ()

    @property
    def duration_s(self) -> float:
        """All phases together."""
        return sum(phase.duration_s for phase in self.phases)


def list_scenarios() -> list[Scenario]:
    """Those shipped, by name."""
    return [load_scenario(path.stem) for path in sorted(FOLDER.glob("*.toml"))]


def load_scenario(name: str) -> Scenario:
    """A shipped scenario by name, or one from a file (anything with a ``/`` or ending in ``.toml``).

    Raises:
        ScenarioError: no such scenario, not TOML, or a key that is wrong; the message names both.
    """
    path = Path(name) if name.endswith(".toml") or "/" in name else FOLDER / f"{name}.toml"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        known = sorted(p.stem for p in FOLDER.glob("*.toml"))
        near = difflib.get_close_matches(name, known, 1, 0.5)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise ScenarioError(f"no scenario {name!r}; {hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path}: {error}") from error
    return parse_scenario(text, str(path))


def parse_scenario(text: str, source: str) -> Scenario:
    """From TOML text; ``source`` names it in messages.

    Raises:
        ScenarioError: as ``load_scenario``.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{source}: {error}") from error
    start = _convert(source, "start", content.pop("start", {}), _StartFile)
    raw_phases = _tables(source, "phases", content.pop("phases", []), MAX_PHASES)
    raw_faults = _tables(source, "faults", content.pop("faults", []), MAX_FAULTS)
    head = _convert(source, "", content, _Head)
    if not raw_phases:
        raise ScenarioError(f"{source}: phases: at least one is needed")
    phases: list[Phase] = []
    for i, raw in enumerate(raw_phases):
        phases.append(_phase(source, f"phases[{i}]", _convert(source, f"phases[{i}]", raw, _PhaseFile), phases, i))
    faults = [_convert(source, f"faults[{i}]", raw, _FaultFile) for i, raw in enumerate(raw_faults)]
    for i, fault in enumerate(faults):
        if fault.kind not in KINDS:
            raise ScenarioError(f"{source}: faults[{i}].kind: no fault {fault.kind!r}; there are {', '.join(KINDS)}")
    begin = head.start_utc or DEFAULT_EPOCH
    if begin.tzinfo is None:
        raise ScenarioError(f"{source}: start_utc: needs a time zone, such as 2026-01-05T07:00:00Z")
    epoch_ns = int(begin.timestamp()) * 1_000_000_000
    return Scenario(
        name=head.name,
        description=head.description,
        seed=head.seed,
        epoch_ns=epoch_ns,
        start=_start(start),
        phases=tuple(phases),
        faults=tuple(Fault(**msgspec.structs.asdict(fault)) for fault in faults),
    )


T = TypeVar("T")


def _convert(source: str, key: str, value: object, kind: type[T]) -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        text = str(error)
        where = key
        if " - at `$" in text:
            text, _, path = text.partition(" - at `$")
            path = path.rstrip("`")
            where = f"{key}{path}" if key else path.lstrip(".")
        raise ScenarioError(f"{source}: {where + ': ' if where else ''}{text}") from error


def _tables(source: str, key: str, value: Any, limit: int) -> list[Any]:
    if not isinstance(value, list):
        raise ScenarioError(f"{source}: {key}: expected [[{key}]] tables")
    if len(value) > limit:
        raise ScenarioError(f"{source}: {key}: {len(value)} of them, at most {limit}")
    return value


def _phase(source: str, key: str, raw: _PhaseFile, before: list[Phase], index: int) -> Phase:
    route = raw.route or (before[-1].route if before else "city")
    try:
        load_route(route)
    except ValueError as error:
        raise ScenarioError(f"{source}: {key}.route: {error}") from error
    if raw.on_the_road and (index > 0 or raw.activity != "drive"):
        raise ScenarioError(f"{source}: {key}.on_the_road: only a scenario's first phase, and only if it drives")
    for bus in raw.silent_buses:
        if bus not in BUS_NAMES:
            raise ScenarioError(f"{source}: {key}.silent_buses: no bus {bus!r}; there are {', '.join(BUS_NAMES)}")
    activity = Activity(
        kind=raw.activity,
        style=raw.style,
        charge=raw.charge,
        charge_power_w=raw.charge_kw * 1000,
        target_soc=raw.target_soc,
    )
    return Phase(
        name=raw.name or raw.activity,
        activity=activity,
        duration_s=raw.duration_s,
        route=route,
        on_the_road=raw.on_the_road,
        silent_buses=tuple(raw.silent_buses),
    )


def _start(raw: _StartFile) -> Start:
    values = msgspec.structs.asdict(raw)
    values["cabin_c"] = raw.ambient_c if raw.cabin_c is None else raw.cabin_c
    values["battery_c"] = raw.ambient_c + 2 if raw.battery_c is None else raw.battery_c
    return Start(**values)
