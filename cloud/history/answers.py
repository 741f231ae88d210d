"""History as an API answers it: one signal over time, and the list of a vehicle's signals."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from sqlalchemy import select

from cloud.errors import InvalidInput, NotFound
from cloud.history.params import format_time, parse_cursor
from cloud.history.query import History
from cloud.lake.columns import Columns
from cloud.lake.definitions import Definition, clean
from cloud.lake.pending import pending_batches
from cloud.lake.reader import ManifestMissing, UnreadableBatch
from cloud.lake.rollup import WIDTH_NS, Rollup, physical_values, roll_up
from cloud.lake.tables import Tier, VehicleSignalRow

#: Resolutions finer than a stored roll-up are computed from samples; this bounds how many of them.
MAX_COMPUTED_SAMPLES = 3_000_000
COMPUTED_NS = {"1s": 1_000_000_000, "10s": 10_000_000_000}
DEFAULT_SPAN_NS = 3_600_000_000_000


class SignalInfo(msgspec.Struct, frozen=True):
    """A signal a vehicle has sent."""

    signal: str
    unit: str
    labels: dict[int, str]
    count: int  # samples ever received
    first_seen: str
    last_seen: str
    last_seen_ms: int


class RawPoints(msgspec.Struct, frozen=True, tag_field="kind", tag="samples"):
    """Equally long columns, in order of time."""

    time_ms: list[float]
    value: list[float | None]  # physical; null where it is no finite number
    raw: list[int]
    label: list[str]
    quality: list[int]


class RollupPoints(msgspec.Struct, frozen=True, tag_field="kind", tag="rollups"):
    """Equally long columns; ``time_ms`` is the start of the bucket. Bad samples are counted but not in the values."""

    time_ms: list[float]
    min: list[float | None]
    max: list[float | None]
    mean: list[float | None]
    last: list[float | None]
    count: list[int]
    bad: list[int]


class HistoryAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One signal of one vehicle over ``[from, to)``."""

    vehicle: str
    signal: str
    unit: str
    digits: int
    resolution: str
    start: str = msgspec.field(name="from")
    end: str = msgspec.field(name="to")
    points: RawPoints | RollupPoints
    units: list[str] | None = None  # one per point, only where the unit changed within the range
    next: str | None = None  # ask again with ?cursor= for what follows


async def list_signals(history: History, vehicle_id: str) -> list[SignalInfo]:
    """The signals of a vehicle, those in waiting batches included."""
    catalog = history.catalog
    known: dict[int, tuple[int, int, int, int]] = {}  # series → count, first, last, definition
    async with history.turn(), history.lake.database.read() as session:
        for row in await session.scalars(select(VehicleSignalRow).where(VehicleSignalRow.vehicle_id == vehicle_id)):
            known[row.series_id] = (row.count, row.first_ns, row.last_ns, row.definition_id)
        async for batch in pending_batches(session, vehicle_id):
            try:
                columns = (await history.read_batch(batch)).columns
            except (UnreadableBatch, ManifestMissing):
                continue
            _count(known, columns)
    infos = []
    for count, first_ns, last_ns, number in known.values():
        definition = catalog.definitions[number]
        infos.append(
            SignalInfo(
                definition.name,
                definition.unit,
                definition.labels,
                count,
                format_time(first_ns),
                format_time(last_ns),
                last_ns // 1_000_000,
            )
        )
    return sorted(infos, key=lambda info: info.signal)


def _count(known: dict[int, tuple[int, int, int, int]], columns: Columns) -> None:
    series, first, counts = np.unique(columns.series, return_index=True, return_counts=True)
    for number, start, count in zip(series.tolist(), first.tolist(), counts.tolist(), strict=True):
        last = start + count - 1
        first_ns, last_ns = int(columns.time_ns[start]), int(columns.time_ns[last])
        definition = int(columns.definition[last])
        if number in known:
            before = known[number]
            if before[2] > last_ns:
                definition = before[3]
            first_ns, last_ns = min(first_ns, before[1]), max(last_ns, before[2])
            count += before[0]
        known[number] = (count, first_ns, last_ns, definition)


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """One signal over time. ``None`` for the range means the last hour the signal has."""

    vehicle: str
    signal: str
    from_ns: int | None = None
    to_ns: int | None = None
    resolution: str = "auto"
    limit: int = 2_000
    cursor: str = ""


async def answer(history: History, question: Question) -> HistoryAnswer:
    """Samples or roll-ups of one signal.

    Raises:
        NotFound: the vehicle never sent such a signal.
        InvalidInput: the range is empty, or too long for the resolution.
        Unavailable: the query takes too long.
    """
    series = await history.series(question.vehicle, question.signal)
    async with history.turn():
        from_ns, to_ns = await _range(history, question, series)
        resolution = question.resolution
        if resolution == "auto":
            resolution = await _choose(history, question, series, from_ns, to_ns)
        if question.cursor:
            from_ns = max(from_ns, parse_cursor(question.cursor)[0])
        if resolution == "raw":
            return await _raw(history, question, series, from_ns, to_ns)
        return await _rolled(history, question, series, resolution, from_ns, to_ns)


async def _range(history: History, question: Question, series: int) -> tuple[int, int]:
    from_ns, to_ns = question.from_ns, question.to_ns
    if from_ns is None or to_ns is None:
        async with history.lake.database.read() as session:
            last_ns = await session.scalar(
                select(VehicleSignalRow.last_ns).where(
                    VehicleSignalRow.vehicle_id == question.vehicle, VehicleSignalRow.series_id == series
                )
            )
        known = await history.extent(question.vehicle, Tier.RAW)
        newest_ns = max(t for t in (last_ns, known[1] if known else None, 0) if t is not None)
        if to_ns is None:
            to_ns = newest_ns + 1 if from_ns is None else max(newest_ns + 1, from_ns + 1)
        if from_ns is None:
            from_ns = to_ns - DEFAULT_SPAN_NS
    if from_ns >= to_ns:
        raise InvalidInput("the range is empty: 'from' must be before 'to'", where="query.from")
    return from_ns, to_ns


async def _choose(history: History, question: Question, series: int, from_ns: int, to_ns: int) -> str:
    """The finest resolution that gives at most ``limit`` points, guessed from the signal's rate."""
    known = await history.extent(question.vehicle, Tier.RAW)
    if known is not None:  # a range may reach far beyond the data
        from_ns, to_ns = max(from_ns, known[0]), min(to_ns, known[1] + 1)
    span_ns = max(1, to_ns - from_ns)
    samples = await history.estimate(question.vehicle, series, from_ns, to_ns)
    if samples <= question.limit:
        return "raw"
    if samples <= MAX_COMPUTED_SAMPLES:
        for name, width_ns in COMPUTED_NS.items():
            if span_ns <= question.limit * width_ns:
                return name
    return "1m" if span_ns <= question.limit * WIDTH_NS["1m"] else "1h"


async def _raw(history: History, question: Question, series: int, from_ns: int, to_ns: int) -> HistoryAnswer:
    parts: list[Columns] = []
    found = 0
    skip = parse_cursor(question.cursor)[1] if question.cursor else 0

    async def read(start_ns: int, end_ns: int) -> Columns:
        return await history.samples(question.vehicle, [series], start_ns, end_ns)

    async for part in history.windows(question.vehicle, Tier.RAW, from_ns, to_ns, read, len):
        parts.append(part)
        found += len(part)
        if found > question.limit + skip:
            break
    columns = Columns.concatenate(parts)
    columns = columns.take(np.lexsort((columns.quality, columns.raw, columns.definition, columns.time_ns)))
    page = columns.take(slice(skip, skip + question.limit))
    following = None
    if len(columns) > skip + question.limit:
        next_ns = int(columns.time_ns[skip + question.limit])
        given = int(np.searchsorted(columns.time_ns, next_ns))
        following = f"{next_ns}.{skip + question.limit - given}"
    definitions = history.catalog.definitions
    values = physical_values(page, definitions)
    points = RawPoints(
        [t / 1e6 for t in page.time_ns.tolist()],
        _numbers(values),
        page.raw.tolist(),
        [definitions[d].label(r) for d, r in zip(page.definition.tolist(), page.raw.tolist(), strict=True)],
        page.quality.tolist(),
    )
    return _wrap(history, question, series, "raw", from_ns, to_ns, points, page.definition.tolist(), following)


async def _rolled(
    history: History, question: Question, series: int, resolution: str, from_ns: int, to_ns: int
) -> HistoryAnswer:
    width_ns = COMPUTED_NS.get(resolution) or WIDTH_NS[resolution]
    from_ns = from_ns // width_ns * width_ns
    following = None
    span_ns = (question.limit + 1) * width_ns
    if resolution in COMPUTED_NS:
        samples = await history.estimate(question.vehicle, series, from_ns, min(to_ns, from_ns + span_ns))
        if samples > MAX_COMPUTED_SAMPLES:
            raise InvalidInput(
                f"about {samples} samples to add up; use 1m or a shorter range", where="query.resolution"
            )

        async def read(start_ns: int, end_ns: int) -> Rollup:
            columns = await history.samples(question.vehicle, [series], start_ns, end_ns)
            return roll_up(columns, physical_values(columns, history.catalog.definitions), width_ns)

        tier, step_ns = Tier.RAW, width_ns
    else:

        async def read(start_ns: int, end_ns: int) -> Rollup:
            return await history.rollup(question.vehicle, [series], resolution, start_ns, end_ns)

        tier, step_ns = Tier(resolution), width_ns
    parts: list[Rollup] = []
    found = 0
    async for part in history.windows(question.vehicle, tier, from_ns, to_ns, read, len, step_ns=step_ns):
        parts.append(part)
        found += len(part)
        if found > question.limit:
            break
    rows = Rollup.concatenate(parts)
    rows = rows.take(np.lexsort((rows.definition, rows.bucket_ns)))
    if len(rows) > question.limit:
        cut = int(np.searchsorted(rows.bucket_ns, rows.bucket_ns[question.limit]))
        if cut == 0:
            cut = int(np.searchsorted(rows.bucket_ns, rows.bucket_ns[0], side="right"))
        if cut < len(rows):
            following = f"{int(rows.bucket_ns[cut])}.0"
        rows = rows.take(np.arange(cut))
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = rows.sum / rows.count
    points = RollupPoints(
        [t / 1e6 for t in rows.bucket_ns.tolist()],
        _numbers(rows.minimum),
        _numbers(rows.maximum),
        _numbers(mean),
        _numbers(rows.last),
        rows.count.tolist(),
        rows.bad.tolist(),
    )
    return _wrap(history, question, series, resolution, from_ns, to_ns, points, rows.definition.tolist(), following)


def _numbers(values: np.typing.NDArray[np.float64]) -> list[float | None]:
    return [clean(v) for v in values.tolist()]


def _wrap(
    history: History,
    question: Question,
    series: int,
    resolution: str,
    from_ns: int,
    to_ns: int,
    points: RawPoints | RollupPoints,
    used: Sequence[int],
    following: str | None,
) -> HistoryAnswer:
    definitions = history.catalog.definitions
    newest = definitions[used[-1]] if used else history.catalog.newest_definition(series)
    if newest is None:  # a series is never registered without a definition
        raise NotFound(f"nothing is known of {question.signal}")
    return HistoryAnswer(
        vehicle=question.vehicle,
        signal=question.signal,
        unit=newest.unit,
        digits=newest.digits,
        resolution=resolution,
        start=format_time(from_ns),
        end=format_time(to_ns),
        points=points,
        units=_units(definitions, used),
        next=following,
    )


def _units(definitions: dict[int, Definition], used: Sequence[int]) -> list[str] | None:
    if len({definitions[d].unit for d in set(used)}) < 2:
        return None
    return [definitions[d].unit for d in used]
