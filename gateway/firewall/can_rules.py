"""The routing table between buses as written: TOML decoded into frozen types, then resolved and checked.

Nothing passes from one bus to another unless a route says so. An identifier may be routed from only one bus to another
bus, by one route, and never in a circle: with that, the order of the file means nothing, and a route can be given to
the kernel without another one having to be asked first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from dbc.manifest import Manifest
from gateway.can.link import CanId
from gateway.errors import ConfigError

MAX_FILE_BYTES = 256 * 1024
MAX_STANDARD, MAX_EXTENDED = 0x7FF, 0x1FFFFFFF
LENGTHS = (*range(9), 12, 16, 20, 24, 32, 48, 64)


class RoutingSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[routing]``: frames from bus to bus. Without ``rules`` nothing is routed."""

    rules: str = ""  # the routing table's file
    kernel: str = "auto"  # "auto": can-gw does what it can; "never"; "always": refuse to start without it
    report_s: Annotated[float, Meta(ge=0.1, le=3600)] = 5.0  # refused frames are reported so often
    mute_s: Annotated[float, Meta(ge=0, le=3600)] = (
        1.0  # an identifier that floods is not even heard for so long; 0: never
    )


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything in the file."""


class RouteRule(_Strict, frozen=True, rename={"source": "from"}):
    """``[[route]]``: these identifiers pass from one bus to others, within limits.

    ``ids`` holds numbers (``"0x1A0"``), ranges (``"0x100-0x10F"``) or message names of the manifest. Numbers above
    0x7FF are 29-bit; ``extended`` says it for smaller ones. A route without limits can be given to the kernel.
    """

    name: str
    source: str
    to: tuple[str, ...]
    ids: tuple[str, ...]
    extended: bool = False
    length: int | tuple[int, int] | None = None  # bytes of payload, exact or from-to; None: any
    max_rate_hz: Annotated[float, Meta(gt=0, le=100_000)] | None = None  # per identifier
    burst: Annotated[int, Meta(ge=1, le=10_000)] = 5  # frames that may come at once above the rate


class OriginRule(_Strict, frozen=True):
    """``[[origin]]``: these identifiers are sent on ``bus`` only; seen on another, somebody pretends to be another."""

    name: str
    bus: str
    ids: tuple[str, ...]
    extended: bool = False


class RulesFile(_Strict, frozen=True):
    """The whole file."""

    route: tuple[RouteRule, ...] = ()
    origin: tuple[OriginRule, ...] = ()


class IdRange(msgspec.Struct, frozen=True, order=True):
    """Identifiers ``first`` to ``last``, both included."""

    extended: bool
    first: int
    last: int

    def overlaps(self, other: IdRange) -> bool:
        """Whether an identifier is in both."""
        return self.extended == other.extended and self.first <= other.last and other.first <= self.last

    def __contains__(self, can_id: CanId) -> bool:
        return can_id[1] == self.extended and self.first <= can_id[0] <= self.last

    def __len__(self) -> int:
        return self.last - self.first + 1

    def masks(self) -> list[tuple[int, int]]:
        """The fewest (identifier, mask) pairs that together match exactly the range."""
        top = MAX_EXTENDED if self.extended else MAX_STANDARD
        out, at = [], self.first
        while at <= self.last:
            size = at & -at or top + 1
            while at + size - 1 > self.last:
                size >>= 1
            out.append((at, top & ~(size - 1)))
            at += size
        return out


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A resolved route; buses by name."""

    name: str
    source: str
    to: tuple[str, ...]
    ids: tuple[IdRange, ...]
    lengths: tuple[int, int] | None = None
    max_rate_hz: float | None = None
    burst: int = 5

    @property
    def has_limits(self) -> bool:
        """Whether each frame must be looked at."""
        return self.lengths is not None or self.max_rate_hz is not None


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """A resolved origin."""

    name: str
    bus: str
    ids: tuple[IdRange, ...]


class RoutingTable(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a file says, sound and free of contradictions."""

    routes: tuple[Route, ...] = ()
    origins: tuple[Origin, ...] = ()


def load_routing(path: Path, manifest: Manifest, buses: Sequence[str]) -> RoutingTable:
    """Read, resolve and check a routing table.

    Args:
        path: the TOML file.
        manifest: for message names.
        buses: the buses the gateway is connected to.

    Raises:
        ConfigError: with the file and the key that is wrong.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}", path=str(path)) from error
    return parse_routing(content, manifest, buses, path=str(path))


def parse_routing(content: bytes, manifest: Manifest, buses: Sequence[str], *, path: str = "") -> RoutingTable:
    """See ``load_routing``."""
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"routing table larger than {MAX_FILE_BYTES} bytes", path=path)
    try:
        file = msgspec.toml.decode(content, type=RulesFile)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at ")
        raise ConfigError(message.replace("`", ""), path=path, where=where.replace("`", "") or "$") from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ConfigError(f"not a TOML file: {error}", path=path) from error
    try:
        table = RoutingTable(
            routes=tuple(_route(rule, n, manifest, buses) for n, rule in enumerate(file.route)),
            origins=tuple(
                Origin(
                    name=rule.name,
                    bus=_bus(rule.bus, buses, f"$.origin[{n}].bus"),
                    ids=_ranges(rule.ids, rule.bus, manifest, f"$.origin[{n}]", extended=rule.extended),
                )
                for n, rule in enumerate(file.origin)
            ),
        )
        _check(table)
    except ConfigError as error:
        raise ConfigError(str(error).partition(" - at ")[0], path=path, where=error.where) from error
    return table


def _route(rule: RouteRule, number: int, manifest: Manifest, buses: Sequence[str]) -> Route:
    where = f"$.route[{number}]"
    source = _bus(rule.source, buses, f"{where}.from")
    if not rule.to:
        raise ConfigError("at least one bus", where=f"{where}.to")
    for n, name in enumerate(rule.to):
        _bus(name, buses, f"{where}.to[{n}]")
        if name == source or name in rule.to[:n]:
            raise ConfigError(f"bus {name!r} again", where=f"{where}.to[{n}]")
    low, high = rule.length if isinstance(rule.length, tuple) else (rule.length, rule.length)
    if low is not None and high is not None and (low > high or low not in LENGTHS or high not in LENGTHS):
        raise ConfigError(f"no frame has from {low} to {high} bytes", where=f"{where}.length")
    return Route(
        name=rule.name,
        source=source,
        to=rule.to,
        ids=_ranges(rule.ids, source, manifest, where, extended=rule.extended),
        lengths=None if low is None or high is None else (low, high),
        max_rate_hz=rule.max_rate_hz,
        burst=rule.burst,
    )


def _bus(name: str, buses: Sequence[str], where: str) -> str:
    if name not in buses:
        raise ConfigError(f"no bus {name!r} ({', '.join(buses)})", where=where)
    return name


def _ranges(texts: Iterable[str], bus: str, manifest: Manifest, where: str, *, extended: bool) -> tuple[IdRange, ...]:
    out = []
    for n, text in enumerate(texts):
        here = f"{where}.ids[{n}]"
        first, dash, last = text.partition("-")
        if first.strip()[:1].isdigit():
            try:
                low = int(first, 0)
                high = int(last, 0) if dash else low
            except ValueError:
                raise ConfigError(f"{text!r} is no identifier and no range", where=here) from None
            is_extended = extended or high > MAX_STANDARD
            if not 0 <= low <= high <= (MAX_EXTENDED if is_extended else MAX_STANDARD):
                raise ConfigError(f"{text!r} is no range of identifiers", where=here)
            out.append(IdRange(is_extended, low, high))
        else:
            out.append(_message(text, bus, manifest, here))
    if not out:
        raise ConfigError("at least one identifier", where=f"{where}.ids")
    return tuple(out)


def _message(text: str, bus: str, manifest: Manifest, where: str) -> IdRange:
    name = text.removeprefix(f"{bus}.")
    for message in manifest.messages:
        if message.name == name and manifest.buses[message.bus] == bus:
            return IdRange(message.extended, message.can_id, message.can_id)
    raise ConfigError(f"bus {bus} has no message {name!r}", where=where)


def _check(table: RoutingTable) -> None:
    """No identifier may have two ways between the same buses, two origins, or a way back to where it came from."""
    edges = [(n, route, to, ids) for n, route in enumerate(table.routes) for to in route.to for ids in route.ids]
    for i, (n, route, to, ids) in enumerate(edges):
        for _, other, other_to, other_ids in edges[:i]:
            if route.source == other.source and to == other_to and ids.overlaps(other_ids):
                raise ConfigError(f"{_text(ids)} is already routed there by {other.name!r}", where=f"$.route[{n}].ids")
        if _leads(edges[:i], ids, to, route.source):
            raise ConfigError(f"{_text(ids)} would come back to {route.source}", where=f"$.route[{n}].ids")
    for n, origin in enumerate(table.origins):
        for rival in table.origins[:n]:
            if origin.bus != rival.bus and any(a.overlaps(b) for a in origin.ids for b in rival.ids):
                raise ConfigError(f"also claimed by {rival.name!r} for {rival.bus}", where=f"$.origin[{n}].ids")


def _leads(edges: Sequence[tuple[int, Route, str, IdRange]], ids: IdRange, begin: str, end: str) -> bool:
    """Whether some identifier of ``ids`` gets from one bus to another by the routes (taken broadly: by overlap)."""
    reached, new = {begin}, [begin]
    while new:
        bus = new.pop()
        for _, route, to, others in edges:
            if route.source == bus and to not in reached and ids.overlaps(others):
                reached.add(to)
                new.append(to)
    return end in reached


def _text(ids: IdRange) -> str:
    return f"{ids.first:#x}" if len(ids) == 1 else f"{ids.first:#x}-{ids.last:#x}"
