"""History over HTTP: the right numbers, downloads that others can read, and bad questions answered with a problem."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest

from cloud.history.params import format_time, parse_time
from cloud.history.telemetry import telemetry_of
from gateway.wire.codec import encode_batch
from gateway.wire.frames import BRS, ERROR, EXTENDED, FD, REMOTE, FrameBatch
from gateway.wire.samples import Event, EventKind
from tests.cloud.support import EPOCH_NS, Cloud, cloud_in, make_batch, make_manifest

pytestmark = pytest.mark.anyio
ROOT = "/api/v1/vehicles/VIN1"
SIGNAL = "can0.message.signal_0"


async def filled(cloud: Cloud, *, compacted: bool = True) -> httpx.AsyncClient:
    """A viewer, and a vehicle with two batches of three rows, the first of them compacted."""
    vehicle = await cloud.enrolled("VIN1")
    await vehicle.send_manifest(make_manifest())
    await vehicle.upload(make_batch(1))
    if compacted:
        await telemetry_of(cloud.services).compactor.compact(everything=True)
    await vehicle.upload(make_batch(2))
    frames = FrameBatch.from_rows(
        [
            (EPOCH_NS, 0, 0x123, 0, b"\x01\xff"),
            (EPOCH_NS + 1_000_000, 0, 0x123, REMOTE, b""),
            (EPOCH_NS + 2_000_000, 0, 0x1ABCDE, EXTENDED | FD | BRS, b"\x02" * 12),
            (EPOCH_NS + 3_000_000, 0, 0x4, ERROR, bytes(8)),
        ]
    )
    await vehicle.upload(
        encode_batch(
            stream="spool/bulk",
            sequence=1,
            items_before=0,
            manifest_hash=make_manifest().hash,
            created_ns=EPOCH_NS,
            frames=frames,
            events=[Event(EPOCH_NS, EventKind.BUS_OFF, "can0", "0x04")],
        )
    )
    return await cloud.logged_in("viewer")


async def test_one_signal_as_points(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        client = await filled(cloud)
        answer = (await client.get(f"{ROOT}/history", params={"signal": SIGNAL, "resolution": "raw"})).json()
        assert (answer["unit"], answer["resolution"], answer["next"]) == ("km/h", "raw", None)
        assert answer["points"]["raw"] == [0, 28, 56, 0, 28, 56]
        assert answer["points"]["value"] == [0.0, 14.0, 28.0, 0.0, 14.0, 28.0]
        first_ms = (EPOCH_NS + 1_000_000_000) / 1e6
        assert answer["points"]["time_ms"][:2] == [first_ms, first_ms + 100]
        rolled = (await client.get(f"{ROOT}/history", params={"signal": SIGNAL, "resolution": "1m"})).json()
        assert (rolled["points"]["count"], rolled["points"]["max"], rolled["points"]["mean"]) == ([6], [28.0], [14.0])
        hour = (await client.get(f"{ROOT}/history", params={"signal": SIGNAL, "resolution": "1h"})).json()
        assert hour["points"]["count"] == [6]
        listed = (await client.get(f"{ROOT}/signals")).json()
        assert [(s["signal"], s["count"]) for s in listed] == [(f"can0.message.signal_{i}", 6) for i in range(4)]
        latest = (await client.get(f"{ROOT}/latest")).json()
        assert [v["raw"] for v in latest["values"]] == [56, 63, 70, 77]


async def test_pages_follow_each_other_by_cursor(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        client = await filled(cloud)
        params: dict[str, str | int] = {"signal": SIGNAL, "resolution": "raw", "limit": 4}
        first = (await client.get(f"{ROOT}/history", params=params)).json()
        second = (await client.get(f"{ROOT}/history", params={**params, "cursor": first["next"]})).json()
        assert first["points"]["raw"] + second["points"]["raw"] == [0, 28, 56, 0, 28, 56]
        assert second["next"] is None


@pytest.mark.parametrize("compacted", [True, False])
async def test_csv_and_parquet_downloads_hold_all_signals_in_order_of_time(tmp_path: Path, compacted: bool) -> None:
    async with cloud_in(tmp_path) as cloud:
        client = await filled(cloud, compacted=compacted)
        signals: dict[str, Sequence[str]] = {"signal": [SIGNAL, "can0.message.signal_1"]}
        answer = await client.get(f"{ROOT}/history.csv", params=signals)
        assert answer.headers["content-type"].startswith("text/csv")
        assert "attachment" in answer.headers["content-disposition"]
        rows = list(csv.DictReader(io.StringIO(answer.text)))
        assert len(rows) == 12
        assert rows[1] == {
            "time": "2023-11-14T22:13:21.000Z",
            "signal": "can0.message.signal_1",
            "value": "3.5",
            "unit": "km/h",
            "label": "",
            "raw": "7",
            "quality": "0",
        }
        assert [r["time"] for r in rows] == sorted(r["time"] for r in rows)
        table = pq.read_table(io.BytesIO((await client.get(f"{ROOT}/history.parquet", params=signals)).content))
        assert table.column("value").to_pylist() == [float(r["value"]) for r in rows]
        assert table.column("signal").to_pylist() == [r["signal"] for r in rows]
        rolled = await client.get(f"{ROOT}/history.csv", params={**signals, "resolution": "1m"})
        assert [r["count"] for r in csv.DictReader(io.StringIO(rolled.text))] == ["6", "6"]
        rolled = await client.get(f"{ROOT}/history.parquet", params={**signals, "resolution": "1h"})
        assert pq.read_table(io.BytesIO(rolled.content)).column("count").to_pylist() == [6, 6]


async def test_an_empty_range_downloads_as_an_empty_table(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        client = await filled(cloud)
        params = {"signal": SIGNAL, "from": "2001-01-01T00:00:00Z", "to": "2001-01-02T00:00:00Z"}
        assert len((await client.get(f"{ROOT}/history.csv", params=params)).text.splitlines()) == 1
        parquet = await client.get(f"{ROOT}/history.parquet", params=params)
        assert pq.read_table(io.BytesIO(parquet.content)).num_rows == 0
        answer = (await client.get(f"{ROOT}/history", params=params)).json()
        assert answer["points"]["time_ms"] == []


async def test_black_box_is_a_candump_log_and_events_are_listed(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        client = await filled(cloud)
        for _ in range(2):
            log = (await client.get(f"{ROOT}/frames.log")).text.splitlines()
            assert log == [
                "(1700000000.000000) can0 123#01FF",
                "(1700000000.001000) can0 123#R",
                "(1700000000.002000) can0 001ABCDE##1" + "02" * 12,
                "(1700000000.003000) can0 20000004#" + "00" * 8,
            ]
            events = (await client.get(f"{ROOT}/events")).json()
            assert [(e["time"], e["kind"], e["source"]) for e in events] == [
                ("2023-11-14T22:13:20.000Z", "bus_off", "can0")
            ]
            assert (await client.get(f"{ROOT}/events?kind=trigger")).json() == []
            await telemetry_of(cloud.services).compactor.compact(everything=True)


BAD_QUESTIONS = [
    ("history", 400, "signal"),
    ("history?signal=no.such.signal", 404, "no.such.signal"),
    (f"history?signal={SIGNAL}&from=yesterday", 400, "query.from"),
    (f"history?signal={SIGNAL}&from=2024-01-01T00:00:00", 400, "time zone"),
    (f"history?signal={SIGNAL}&from=2000&to=1000", 400, "empty"),
    (f"history?signal={SIGNAL}&from=99999999999999999", 400, "out of range"),
    (f"history?signal={SIGNAL}&resolution=5m", 400, "query.resolution"),
    (f"history?signal={SIGNAL}&limit=-1", 400, "query.limit"),
    (f"history?signal={SIGNAL}&limit=100000000", 400, "query.limit"),
    (f"history?signal={SIGNAL}&limit=many", 400, "limit"),
    (f"history?signal={SIGNAL}&resolution=raw&cursor=x", 400, "query.cursor"),
    (f"history?signal={SIGNAL}&cursor=1.0", 400, "query.resolution"),
    ("history.csv", 400, "query.signal"),
    ("history.csv?signal=no.such.signal", 404, "no.such.signal"),
    (f"history.csv?signal={SIGNAL}&resolution=auto", 400, "query.resolution"),
    (f"history.parquet?{'&'.join(f'signal=s{i}' for i in range(65))}", 400, "at most 64"),
    ("events?limit=0", 400, "query.limit"),
    ("frames.log?from=2&to=1", 400, "empty"),
]


async def test_bad_questions_get_a_problem_that_names_the_parameter(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        client = await filled(cloud, compacted=False)
        for path, status, hint in BAD_QUESTIONS:
            answer = await client.get(f"{ROOT}/{path}")
            assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), path
            assert hint in answer.text, path


async def test_an_unknown_vehicle_is_not_found_and_nobody_asks_without_login(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        client = await cloud.logged_in("viewer")
        for path in ("signals", "history?signal=x", "latest", "live", "events", "frames.log", "history.csv"):
            assert (await client.get(f"/api/v1/vehicles/NOBODY/{path}")).status_code == 404, path
            assert (await cloud.operator.get(f"/api/v1/vehicles/NOBODY/{path}")).status_code == 401, path


async def test_erasing_a_vehicle_empties_its_history(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        await filled(cloud)
        admin = await cloud.logged_in("admin")
        assert (await admin.get(f"{ROOT}/latest")).json()["values"]
        assert (await admin.delete(ROOT)).status_code == 204
        assert (await admin.get(f"{ROOT}/latest")).status_code == 404
        assert list((tmp_path / "lake").rglob("*.parquet")) == []


@pytest.mark.parametrize(
    ("text", "time_ns"),
    [
        ("1970-01-01T00:00:01Z", 1_000_000_000),
        ("1970-01-01T01:00:01.5+01:00", 1_500_000_000),
        ("1970-01-01T01:00:01 01:00", 1_000_000_000),  # an unescaped + in a URL
        ("1500", 1_500_000_000),
        ("1500.25", 1_500_250_000),
        ("-1", -1_000_000),
    ],
)
def test_times_are_read_in_both_forms(text: str, time_ns: int) -> None:
    assert parse_time(text, "query.from") == time_ns


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_500_000, "1970-01-01T00:00:00.001500Z"),
        (1, "1970-01-01T00:00:00.000000001Z"),
        (-1_000_000, "1969-12-31T23:59:59.999Z"),
    ],
)
def test_times_are_written_with_the_decimals_they_need(time_ns: int, text: str) -> None:
    assert format_time(time_ns) == text
