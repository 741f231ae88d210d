"""REST: signals, history, downloads, events, and the black box of a vehicle. For everyone who may look."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated
from urllib.parse import quote

from litestar import Router, get
from litestar.di import Provide
from litestar.params import FromPath, FromQuery, QueryParameter
from litestar.response import Stream

from cloud.auth.middleware import role
from cloud.auth.model import Role
from cloud.errors import InvalidInput, NotFound
from cloud.history.answers import HistoryAnswer, Question, SignalInfo, answer, list_signals
from cloud.history.events import EventInfo, list_events
from cloud.history.export import candump_lines, csv_lines, parquet_chunks
from cloud.history.params import check_limit, check_resolution, parse_cursor, parse_time
from cloud.history.telemetry import Shared, Telemetry, telemetry_of
from cloud.lake.tables import Tier
from cloud.registry.model import VehicleRow

MAX_EVENTS = 5_000
TIME_HELP = "RFC 3339 with a time zone, or milliseconds since 1970"
Signal = Annotated[str, QueryParameter(name="signal", description="bus.message.signal", max_length=400)]
Signals = Annotated[
    list[str] | None, QueryParameter(name="signal", description="bus.message.signal; repeat for several")
]
From = Annotated[str, QueryParameter(name="from", description=f"first time; {TIME_HELP}", max_length=64)]
To = Annotated[str, QueryParameter(name="to", description=f"time after the last; {TIME_HELP}", max_length=64)]


async def known_vehicle(telemetry: Telemetry, vehicle_id: str) -> None:
    """Raises ``NotFound`` unless the registry has the vehicle."""
    async with telemetry.lake.database.read() as session:
        if await session.get(VehicleRow, vehicle_id) is None:
            raise NotFound(f"no vehicle {vehicle_id[:100]!r}")


@get("/vehicles/{vehicle_id:str}/signals", summary="Signals of a vehicle")
async def get_signals(telemetry: Shared, vehicle_id: FromPath[str]) -> list[SignalInfo]:
    """Name, unit, labels, number of samples, first and last time of every signal the vehicle has sent."""
    await known_vehicle(telemetry, vehicle_id)
    return await list_signals(telemetry.history, vehicle_id)


@get("/vehicles/{vehicle_id:str}/history", summary="One signal over time")
async def get_history(
    telemetry: Shared,
    vehicle_id: FromPath[str],
    signal: Signal,
    from_: From = "",
    to: To = "",
    resolution: FromQuery[str] = "auto",
    limit: FromQuery[int] = 0,
    cursor: FromQuery[str] = "",
) -> HistoryAnswer:
    """Samples (raw) or roll-ups (1s, 10s, 1m, 1h), in order of time; auto picks the finest that fits ``limit``.

    Without a range: the signal's last hour. ``next`` in the answer is the cursor of the following page.
    """
    await known_vehicle(telemetry, vehicle_id)
    if cursor:
        parse_cursor(cursor)
    question = Question(
        vehicle=vehicle_id,
        signal=signal,
        from_ns=parse_time(from_, "query.from") if from_ else None,
        to_ns=parse_time(to, "query.to") if to else None,
        resolution=check_resolution(resolution),
        limit=check_limit(limit or telemetry.default_points, telemetry.max_points),
        cursor=cursor,
    )
    if cursor and question.resolution == "auto":
        raise InvalidInput("a cursor needs the resolution of the answer it came from", where="query.resolution")
    return await answer(telemetry.history, question)


async def _export(
    telemetry: Telemetry, vehicle_id: str, signals: list[str] | None, from_: str, to: str, resolution: str
) -> tuple[list[int], str, int, int]:
    """Checked arguments of a download: series, tier and range."""
    await known_vehicle(telemetry, vehicle_id)
    names = signals or []
    if not names:
        raise InvalidInput("name at least one signal", where="query.signal")
    if len(names) > telemetry.max_signals:
        raise InvalidInput(f"at most {telemetry.max_signals} signals at once", where="query.signal")
    if resolution not in (Tier.RAW, Tier.MINUTE, Tier.HOUR):
        raise InvalidInput("one of raw, 1m, 1h", where="query.resolution")
    from_ns, to_ns = _range(from_, to)
    series = {await telemetry.history.series(vehicle_id, name) for name in names}
    return sorted(series), resolution, from_ns, to_ns


def _range(from_: str, to: str) -> tuple[int, int]:
    from_ns = parse_time(from_, "query.from") if from_ else -(2**62)
    to_ns = parse_time(to, "query.to") if to else 2**62
    if from_ns >= to_ns:
        raise InvalidInput("the range is empty: 'from' must be before 'to'", where="query.from")
    return from_ns, to_ns


def _download(chunks: AsyncIterator[bytes], media_type: str, vehicle_id: str, suffix: str) -> Stream:
    name = quote(f"{vehicle_id}{suffix}", safe="")
    return Stream(
        chunks,
        media_type=media_type,
        headers={"content-disposition": f"attachment; filename*=UTF-8''{name}", "cache-control": "no-store"},
    )


@get("/vehicles/{vehicle_id:str}/history.csv", summary="History as CSV", media_type="text/csv")
async def get_history_csv(
    telemetry: Shared,
    vehicle_id: FromPath[str],
    signals: Signals = None,
    from_: From = "",
    to: To = "",
    resolution: FromQuery[str] = "raw",
) -> Stream:
    """All samples or roll-ups of the signals in the range (default: everything), streamed in order of time."""
    series, tier, from_ns, to_ns = await _export(telemetry, vehicle_id, signals, from_, to, resolution)
    chunks = csv_lines(telemetry.history, vehicle_id, series, tier, from_ns, to_ns)
    return _download(chunks, "text/csv; charset=utf-8", vehicle_id, f"-{tier}.csv")


@get(
    "/vehicles/{vehicle_id:str}/history.parquet",
    summary="History as Parquet",
    media_type="application/vnd.apache.parquet",
)
async def get_history_parquet(
    telemetry: Shared,
    vehicle_id: FromPath[str],
    signals: Signals = None,
    from_: From = "",
    to: To = "",
    resolution: FromQuery[str] = "raw",
) -> Stream:
    """The same as one Parquet file with timestamps, names and physical values."""
    series, tier, from_ns, to_ns = await _export(telemetry, vehicle_id, signals, from_, to, resolution)
    chunks = parquet_chunks(telemetry.history, vehicle_id, series, tier, from_ns, to_ns)
    return _download(chunks, "application/vnd.apache.parquet", vehicle_id, f"-{tier}.parquet")


@get("/vehicles/{vehicle_id:str}/events", summary="Events of a vehicle")
async def get_events(
    telemetry: Shared,
    vehicle_id: FromPath[str],
    from_: From = "",
    to: To = "",
    kind: FromQuery[str] = "",
    limit: FromQuery[int] = 200,
) -> list[EventInfo]:
    """Triggers, timeouts, bus states, clock jumps and losses, newest first."""
    await known_vehicle(telemetry, vehicle_id)
    from_ns, to_ns = _range(from_, to)
    check_limit(limit, MAX_EVENTS)
    return await list_events(telemetry.history, vehicle_id, from_ns=from_ns, to_ns=to_ns, kind=kind, limit=limit)


@get("/vehicles/{vehicle_id:str}/frames.log", summary="Black box as a candump log", media_type="text/plain")
async def get_frames(telemetry: Shared, vehicle_id: FromPath[str], from_: From = "", to: To = "") -> Stream:
    """Raw frames as ``candump -L`` writes them, streamed in order of time."""
    await known_vehicle(telemetry, vehicle_id)
    from_ns, to_ns = _range(from_, to)
    chunks = candump_lines(telemetry.history, vehicle_id, from_ns, to_ns)
    return _download(chunks, "text/plain; charset=utf-8", vehicle_id, ".log")


#: All routes of this module, below ``/api/v1``; needs the dependency ``services``.
history_router = Router(
    path="/api/v1",
    route_handlers=[get_signals, get_history, get_history_csv, get_history_parquet, get_events, get_frames],
    dependencies={"telemetry": Provide(telemetry_of, sync_to_thread=False)},
    opt=role(Role.VIEWER),
    tags=["history"],
)
