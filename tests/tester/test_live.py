"""The live values: extremes, trends, recording, sources, and the table driven by its pilot."""

from __future__ import annotations

import asyncio
import csv
import json
from pathlib import Path

import anyio
import pytest
from textual.widgets import DataTable

from gateway.can.link import CanFrame
from gateway.can.link_memory import MemoryBus
from gateway.uds.client import UdsClient
from simulator.ecu.describe import describe
from simulator.ecu.description import load_description
from tester.errors import FileError
from tester.live import MAX_SERIES, Board, CsvRecording, sparkline
from tester.live_app import LiveApp
from tester.live_sources import hear_periodic, hear_uudt, poll_dids, poll_pids
from tester.vehicle import Ecu
from tester.vehicle_files import load_vehicle
from tests.gateway.uds.test_with_ecus import SimulatedEcu, on


def described(folder: Path, name: str = "motor") -> Ecu:
    path = folder / "described.json"
    path.write_text(json.dumps({"ecus": [describe(load_description(name))]}))
    return load_vehicle(path).ecu(name)


def test_extremes_and_trend() -> None:
    board = Board()
    for value in (3, 1, 2):
        board.put("a", "x", value, "V")
    [row] = board.rows()
    assert (row.value, row.minimum, row.maximum, row.count, row.unit) == (2, 1, 3, 3, "V")
    assert row.trend[0] == "█"
    board.reset()
    board.put("a", "x", 7)
    [row] = board.rows()
    assert (row.minimum, row.maximum, row.unit) == (7, 7, "V")


def test_a_paused_board_stands_still_and_a_failure_hides_the_value() -> None:
    board = Board()
    board.put("a", "x", 1)
    board.paused = True
    board.put("a", "x", 2)
    board.put("a", "y", 2)
    assert [row.value for row in board.rows()] == [1]
    board.paused = False
    board.fail("a", "x", "no answer")
    assert [row.text for row in board.rows()] == ["no answer"]


def test_names_without_end_are_bounded_and_counted() -> None:
    board = Board()
    for i in range(MAX_SERIES + 5):
        board.put("a", str(i), i)
    assert len(list(board.rows())) == MAX_SERIES
    assert board.dropped == 5


def test_a_recording_is_csv(tmp_path: Path) -> None:
    board = Board()
    board.put("a", 'x, "y"', 1.5, "V")
    with CsvRecording(tmp_path / "x.csv") as recording:
        recording.write(board, 1_700_000_000.25)
    with (tmp_path / "x.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[1] == ["2023-11-14T22:13:20.250000Z", "a", 'x, "y"', "1.5", "V"]
    with pytest.raises(FileError):
        CsvRecording(tmp_path / "no" / "x.csv")


def test_sparkline_of_a_constant_is_flat() -> None:
    from collections import deque

    assert sparkline(deque([5.0, 5.0])) == "▁▁"
    assert sparkline(deque()) == ""


def test_identifiers_and_obd_values_of_an_ecu(tmp_path: Path) -> None:
    about = described(tmp_path)

    async def work(client: UdsClient, _ecu: SimulatedEcu) -> None:
        board = Board()
        await poll_dids(board, about, client, [0x0100, 0xFFFF])
        await poll_pids(board, about, client, [0x42])
        rows = {row.name: row for row in board.rows()}
        assert (rows["Supply voltage"].value, rows["Supply voltage"].unit) == (13.8, "V")
        assert rows["FFFF"].problem == "request out of range"
        assert rows["control module voltage"].value == 13.8

    on("motor", work)


def test_periodic_data_comes_by_itself_and_is_stopped(tmp_path: Path) -> None:
    about = described(tmp_path, "body")

    async def work(client: UdsClient, ecu: SimulatedEcu) -> None:
        board = Board()
        await client.session(3)
        with anyio.move_on_after(3.0):
            await hear_periodic(board, about, client, [0xF200], "medium")
        assert sum(row.count for row in board.rows()) >= 5
        stopped = len(ecu.requests)
        await anyio.sleep(2)
        assert ecu.requests[stopped - 1] == b"\x2a\x04"

    on("body", work)


def test_periodic_frames_of_their_own(tmp_path: Path) -> None:
    about = described(tmp_path)

    async def scenario() -> None:
        bus, board = MemoryBus(), Board()
        end = hear_uudt(board, about, [0xF200], bus.link(), 0x5E8)
        did = about.did(0xF200)
        assert did.bytes is not None
        bus.inject(CanFrame(0x5E8, b"\x00" + bytes(did.bytes)))
        bus.inject(CanFrame(0x5E8, b"\x07" + bytes(did.bytes)))
        await asyncio.sleep(0.01)
        end()
        assert {row.count for row in board.rows()} == {1}

    asyncio.run(scenario())


def test_the_table_shows_pauses_and_records(tmp_path: Path) -> None:
    board = Board()
    record = tmp_path / "live.csv"

    async def feed() -> None:
        value = 0
        while True:
            value += 1
            board.put("motor", "Supply voltage", value, "V")
            board.put("motor", "Name\x1b[31m", "text")
            await asyncio.sleep(0.01)

    async def scenario() -> None:
        app = LiveApp(board, feed, record)
        async with app.run_test() as pilot:
            while not app.query_one(DataTable).row_count:
                await pilot.pause(0.05)
            table = app.query_one(DataTable)
            first = table.get_row_at(0)
            assert first[:2] == ["motor", "Supply voltage"]
            assert "\x1b" not in table.get_row_at(1)[1]
            await pilot.press("c")
            await pilot.press("p")
            assert board.paused
            await pilot.press("p", "r")
            app.show()
            await pilot.press("c")
            assert app.recording is None
        assert app.error is None

    asyncio.run(scenario())
    assert "Supply voltage" in record.read_text()


def test_an_error_of_the_source_closes_the_table_and_is_kept(tmp_path: Path) -> None:
    async def feed() -> None:
        raise ValueError("gone")

    async def scenario() -> Exception | None:
        app = LiveApp(Board(), feed, tmp_path / "x.csv")
        async with app.run_test() as pilot:
            for _ in range(50):
                if app.error is not None:
                    break
                await pilot.pause(0.02)
        return app.error

    assert isinstance(asyncio.run(scenario()), ValueError)
