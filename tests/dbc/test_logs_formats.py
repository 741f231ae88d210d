"""GVRET CSV, ASC and BLF; and that no bytes whatever make a reader raise."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import can
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbc.frames import BRS, ERROR, EXTENDED, FD, REMOTE
from dbc.logs import LogError, LogReport, open_log
from dbc.logs.candump import BadLine
from dbc.logs.gvret import GvretParser, parse_line
from dbc.logs.lines import LineBlock
from dbc.logs.model import BusNames
from tests.dbc.test_logs_candump import read, rows
from tests.support import LONG

HEADER = "Time Stamp,ID,Extended,Bus,LEN,D1,D2,D3,D4,D5,D6,D7,D8\n"


def test_gvret_times_are_microseconds_and_buses_numbers(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(
        HEADER + "1000,00000123,false,0,2,AA,0b\n2500,18FEF100,true,1,8,00,01,02,03,04,05,06,07,\n3000,7FF,false,1,0\n"
    )
    found, report, buses = read(path)
    assert found == [
        (1_000_000, 0, 0x123, 0, b"\xaa\x0b"),
        (2_500_000, 1, 0x18FEF100, EXTENDED, bytes(range(8))),
        (3_000_000, 1, 0x7FF, 0, b""),
    ]
    assert (report.skipped_count, buses) == (0, ("0", "1"))


def test_gvret_with_a_direction_column(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(
        "Time Stamp,ID,Extended,Dir,Bus,LEN,D1,D2,D3\n5,00000123,false,Rx,3,1,AA\n6,124, False ,Tx,3,1,0xAA\n"
    )
    found, _, buses = read(path)
    assert found == [(5000, 0, 0x123, 0, b"\xaa"), (6000, 0, 0x124, 0, b"\xaa")]
    assert buses == ("3",)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1,2", "2 fields"),
        ("x,123,false,0,1,AA", "not a number"),
        ("1,123,perhaps,0,1,AA", "neither true nor false"),
        ("1,123,false,0,2,AA", "1 bytes where LEN is 2"),
        ("1,123,false,0,1,1AA", "not a number"),
        ("1,FFF,false,0,1,AA", "identifier out of range"),
        ("1,123,false,300,1,AA", "bus out of range"),
        ("-1,123,false,0,1,AA", "timestamp out of range"),
        ("1,123,false,0,-1", "LEN is -1"),
    ],
)
def test_a_gvret_line_that_is_no_frame_is_skipped_with_its_reason(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(HEADER + f"1,001,false,0,1,AA\n{line}\n\n2,002,false,0,1,AA\n")
    found, report, _ = read(path)
    assert [row[2] for row in found] == [1, 2]
    assert (report.skipped_count, report.skipped[0].number) == (1, 3)
    assert reason in report.skipped[0].reason


gvret_lines = st.lists(
    st.one_of(
        st.builds(
            lambda t, i, b, p: f"{t},{i:08X},{'true' if i > 0x7FF else 'false'},{b},{len(p)}," + p.hex(",").upper(),
            st.integers(0, 10**14),
            st.one_of(st.integers(0, 0x7FF), st.integers(0, 0x1FFFFFFF)),
            st.integers(0, 4),
            st.binary(max_size=9),
        ),
        st.text("0123456789abcdefTtrueFls,-x ", max_size=30),
    ),
    max_size=12,
)


@given(gvret_lines)
@settings(max_examples=1000 if LONG else 150)
def test_the_fast_gvret_parser_agrees_with_the_one_for_single_lines(lines: list[str]) -> None:
    expected = []
    bad = []
    for number, line in enumerate(lines, 2):
        try:
            row = parse_line(line.encode(), False)
        except BadLine:
            bad.append(number)
            continue
        if row is not None:
            expected.append((row[0], *row[2:]))
    report = LogReport()
    text = HEADER + "".join(f"{line}\n" for line in lines)
    found = rows(GvretParser(report, BusNames(None)).parse(LineBlock(text.encode(), 1)))
    assert [(r[0], *r[2:]) for r in found] == expected
    assert [s.number for s in report.skipped] == bad


SHORT_ID: dict[str, Any] = {"is_extended_id": False, "channel": 0}
MESSAGES = [
    can.Message(timestamp=1700000000.5, arbitration_id=0x123, data=b"\x01\x02", **SHORT_ID),
    can.Message(timestamp=1700000000.75, arbitration_id=0x18FEF100, data=bytes(range(8)), channel=1),
    can.Message(timestamp=1700000001.0, arbitration_id=7, is_fd=True, bitrate_switch=True, data=bytes(64), **SHORT_ID),
    can.Message(timestamp=1700000001.5, arbitration_id=7, is_remote_frame=True, dlc=4, **SHORT_ID),
    can.Message(timestamp=1700000002.0, is_error_frame=True, **SHORT_ID),
]


def write_with_library(path: Path) -> bytes:
    writer = can.BLFWriter(path) if path.suffix == ".blf" else can.ASCWriter(path)
    for message in MESSAGES:
        writer.on_message_received(message)
    writer.stop()
    return path.read_bytes()


@pytest.mark.parametrize("suffix", ["blf", "asc"])
def test_asc_and_blf_frames_come_as_they_were_recorded(tmp_path: Path, suffix: str) -> None:
    write_with_library(tmp_path / f"x.{suffix}")
    found, report, buses = read(tmp_path / f"x.{suffix}")
    assert [(r[2], r[3], r[4]) for r in found[:4]] == [
        (0x123, 0, b"\x01\x02"),
        (0x18FEF100, EXTENDED, bytes(range(8))),
        (0x7, FD | BRS, bytes(64)),
        (0x7, REMOTE, bytes(4)),
    ]
    assert found[4][3] == ERROR
    assert [buses[r[1]] for r in found[:4]] == ["0", "1", "0", "0"]
    steps = [found[i + 1][0] - found[i][0] for i in range(4)]
    assert steps == pytest.approx([250e6, 250e6, 500e6, 500e6], abs=1e6)
    assert (report.damage, report.skipped_count) == ("", 0)


@pytest.mark.parametrize("suffix", ["blf", "asc"])
def test_the_content_tells_the_format_not_the_name(tmp_path: Path, suffix: str) -> None:
    write_with_library(tmp_path / f"x.{suffix}")
    (tmp_path / f"x.{suffix}").rename(tmp_path / "x.log")
    with open_log(tmp_path / "x.log") as log:
        assert log.format == suffix
        assert sum(len(batch) for batch in log) == 5


def test_mf4_without_its_reader_is_refused_with_advice(tmp_path: Path) -> None:
    pytest.importorskip("can")
    path = tmp_path / "x.mf4"
    path.write_bytes(b"MDF     4.11" + bytes(100))
    try:
        import asammdf  # type: ignore[import-not-found,unused-ignore]  # noqa: F401  # not among our packages
    except ImportError:
        with pytest.raises(LogError, match="asammdf"):
            open_log(path)
    else:
        with open_log(path) as log:
            assert sum(len(batch) for batch in log) == 0


@pytest.mark.parametrize("suffix", ["blf", "asc", "csv", "log"])
def test_damaged_logs_end_early_or_skip_but_never_raise(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    if suffix in ("blf", "asc"):
        sound = write_with_library(path)
    elif suffix == "csv":
        sound = (HEADER + "".join(f"{i},00000123,false,0,2,AA,BB\n" for i in range(20))).encode()
    else:
        sound = b"".join(b"(%d.000000) can0 123#AABB\n" % i for i in range(20))
    generator = random.Random(7)
    for _ in range(1000 if LONG else 60):
        content = bytearray(sound)
        for _ in range(generator.randrange(1, 6)):
            content[generator.randrange(len(content))] = generator.randrange(256)
        path.write_bytes(content[: generator.randrange(len(content) + 1)])
        try:
            found, report, _ = read(path)
        except LogError:
            continue
        assert len(found) == report.frames


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_a_log_error_or_a_report(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("any", numbered=True) / "x.log"
    path.write_bytes(content)
    try:
        found, report, _ = read(path)
    except LogError:
        return
    assert len(found) == report.frames
