"""candump text: what is read, what is reported, and that the fast parser agrees with the one for single lines."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dbc.frames import BRS, ERROR, ESI, EXTENDED, FD, REMOTE, FrameBatch
from dbc.logs import CandumpWriter, LogError, LogReport, format_candump, open_log
from dbc.logs.candump import BadLine, CandumpParser, parse_line
from dbc.logs.lines import LineBlock, line_blocks
from dbc.logs.model import MAX_REPORTED_LINES, BusNames
from tests.support import LONG

Row = tuple[int, int, int, int, bytes]


def rows(batch: FrameBatch) -> list[Row]:
    """The frames as tuples."""
    columns = (batch.timestamp_ns, batch.bus, batch.can_id, batch.flags, batch.length)
    facts = zip(*(c.tolist() for c in columns), strict=True)
    return [(t, b, i, f, bytes(batch.data[n, :k])) for n, (t, b, i, f, k) in enumerate(facts)]


def read(path: Path, buses: dict[str, int] | None = None) -> tuple[list[Row], LogReport, tuple[str, ...]]:
    """All frames of a log, its report and its buses."""
    with open_log(path, buses) as log:
        found = [row for batch in log for row in rows(batch)]
    return found, log.report, log.buses


@pytest.mark.parametrize(
    ("line", "row"),
    [
        ("(1.000002) can0 123#AABB", (1_000_002_000, "can0", 0x123, 0, b"\xaa\xbb")),
        ("(1.000000003) can0 123#", (1_000_000_003, "can0", 0x123, 0, b"")),
        ("(1) can0 123#aa", (10**9, "can0", 0x123, 0, b"\xaa")),
        ("(1.5) can0 00000123#AA", (1_500_000_000, "can0", 0x123, EXTENDED, b"\xaa")),
        ("(1.0) a-very-long-interface-name 123#AA", (10**9, "a-very-long-interface-name", 0x123, 0, b"\xaa")),
        ("(1.0) can0 123#R", (10**9, "can0", 0x123, REMOTE, b"")),
        ("(1.0) can0 123#R5", (10**9, "can0", 0x123, REMOTE, bytes(5))),
        ("(1.0) can0 20000004#0008000000000000", (10**9, "can0", 4, ERROR, bytes.fromhex("0008000000000000"))),
        ("(1.0) can0 123##0" + "11" * 64, (10**9, "can0", 0x123, FD, b"\x11" * 64)),
        ("(1.0) can0 123##3AA", (10**9, "can0", 0x123, FD | BRS | ESI, b"\xaa")),
        ("(1.0) can0 123#1122334455667788_E", (10**9, "can0", 0x123, 0, bytes.fromhex("1122334455667788"))),
        ("(1.0) can0 123#11.22", (10**9, "can0", 0x123, 0, b"\x11\x22")),
        ("(1.0) can0 123#1122 T", (10**9, "can0", 0x123, 0, b"\x11\x22")),
        (" (1.000002)  can0  123   [2]  AA BB", (1_000_002_000, "can0", 0x123, 0, b"\xaa\xbb")),
        (" (1.0)  can0  123   [2]  AA BB   '..'", (10**9, "can0", 0x123, 0, b"\xaa\xbb")),
        (" (1.0)  can0  TX - -  123   [2]  AA BB", (10**9, "can0", 0x123, 0, b"\xaa\xbb")),
        (" (1.0)  can0  00000123   [0] ", (10**9, "can0", 0x123, EXTENDED, b"")),
        (" (1.0)  can0  123   [2]  remote request", (10**9, "can0", 0x123, REMOTE, bytes(2))),
        (" (1.0)  can0  123  [12]  " + "11 " * 12, (10**9, "can0", 0x123, FD, b"\x11" * 12)),
    ],
)
def test_each_form_of_a_line(tmp_path: Path, line: str, row: tuple[int, str, int, int, bytes]) -> None:
    assert parse_line(line.encode()) == row
    path = tmp_path / "x.log"
    path.write_text("(0.1) first 001#00\n" + line + "\n")
    found, report, buses = read(path)
    assert (*found[1][:1], buses[found[1][1]], *found[1][2:]) == row
    assert report.skipped_count == 0


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("hello", "no candump line"),
        ("(1.0) can0 123#AAB", "pairs of hexadecimal"),
        ("(1.0) can0 123#GG", "pairs of hexadecimal"),
        ("(1.0) can0 123#112233445566778899", "9 bytes, at most 8"),
        ("(1.0) can0 123##1" + "00" * 65, "65 bytes, at most 64"),
        ("(1.0) can0 123##", "no CAN FD flags"),
        ("(1.0) can0 FFF#00", "more than 11 bits"),
        ("(1.0) can0 FFFFFFFF#00", "more than 29 bits"),
        ("(99999999999.0) can0 123#00", "timestamp out of range"),
        ("(1.0) can0 123#RX", "no length after R"),
        ("(1.0)  can0  123   [3]  AA BB", "[3] says another"),
        ("(-1.0) can0 123#00", "no candump line"),
    ],
)
def test_a_line_that_is_no_frame_is_skipped_with_number_and_reason(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "x.log"
    path.write_text(f"(1.0) can0 001#00\n\n# a comment\n{line}\n(2.0) can0 002#00\n")
    found, report, _ = read(path)
    assert [row[2] for row in found] == [1, 2]
    assert (report.skipped_count, report.skipped[0].number) == (1, 4)
    assert reason in report.skipped[0].reason


def test_windows_line_ends_and_a_last_line_without_one(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_bytes(b"(1.0) can0 001#00\r\n(2.000000) can0 002#11\r\n(3.000000) can0 003#22")
    assert [(row[2], row[4]) for row in read(path)[0]] == [(1, b"\0"), (2, b"\x11"), (3, b"\x22")]


def test_buses_are_numbered_as_they_appear_or_as_told(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_text("".join(f"({i}.000000) can{i % 3} 001#00\n" for i in range(9)))
    found, _, buses = read(path)
    assert ([row[1] for row in found], buses) == ([0, 1, 2] * 3, ("can0", "can1", "can2"))
    found, report, buses = read(path, {"can2": 0, "can0": 5})
    assert [row[1] for row in found] == [5, 0, 5, 0, 5, 0]
    assert report.unmapped == {"can1": 3}
    assert buses == ("can2", "", "", "", "", "can0")


def test_time_that_goes_back_is_counted_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_text("".join(f"({i}.000000) can0 001#00\n" for i in (5, 6, 4, 4, 3)))
    found, report, _ = read(path)
    assert [row[0] // 10**9 for row in found] == [5, 6, 4, 4, 3]
    assert report.backward_timestamps == 2


def test_the_list_of_skipped_lines_is_bounded_and_their_count_is_not(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_text("(1.0) can0 001#00\n" + "junk\n" * 5000)
    _, report, _ = read(path)
    assert (len(report.skipped), report.skipped_count) == (MAX_REPORTED_LINES, 5000)


@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress, zstandard.ZstdCompressor().compress])
def test_compressed_logs_are_read_whatever_they_are_called(tmp_path: Path, pack: object) -> None:
    path = tmp_path / "recording"
    path.write_bytes(pack(b"(1.000000) can0 001#00\n" * 5000))  # type: ignore[operator]  # parametrised
    found, report, _ = read(path)
    assert (len(found), report.damage) == (5000, "")


@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress, zstandard.ZstdCompressor().compress])
def test_a_truncated_file_gives_what_it_holds_and_says_so(tmp_path: Path, pack: object) -> None:
    text = "".join(f"({i}.{i * 7919 % 1000000:06d}) can0 001#{i * 2654435761 % 2**32:08X}\n" for i in range(20_000))
    packed: bytes = pack(text.encode())  # type: ignore[operator]  # parametrised
    path = tmp_path / "x.log"
    path.write_bytes(packed[: len(packed) // 2])
    found, report, _ = read(path)
    assert 1000 < len(found) < 20_000
    assert report.damage


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    for name, content in {"x.bin": b"\x00\x01\x02", "notes": b"hello\nworld\n", "folder": None}.items():
        path = tmp_path / name
        path.mkdir() if content is None else path.write_bytes(content)
        with pytest.raises(LogError):
            open_log(path)
    with pytest.raises(LogError, match="No such file"):
        open_log(tmp_path / "missing")


def test_an_empty_log_is_a_log_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "x.log").write_bytes(b"")
    assert read(tmp_path / "x.log")[0] == []


def test_a_line_too_long_to_be_one_is_skipped_without_holding_it(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_bytes(b"(1.0) can0 001#00\n" + b"A" * 1_000_000 + b"\n(2.0) can0 002#00\n")
    found, report, _ = read(path)
    assert [row[2] for row in found] == [1, 2]
    assert report.skipped_count == 1


identifiers = st.one_of(
    st.tuples(st.integers(0, 0x7FF), st.just(0)),
    st.tuples(st.integers(0, 0x1FFFFFFF), st.just(EXTENDED)),
    st.tuples(st.integers(0, 0x1FFFFFFF), st.just(ERROR)),
)


@st.composite
def frame_rows(draw: st.DrawFn) -> Row:
    can_id, flags = draw(identifiers)
    kind = draw(st.sampled_from([0, 0, REMOTE, FD, FD | BRS, FD | ESI])) if flags != ERROR else 0
    payload = draw(st.binary(max_size=64 if kind & FD else 8))
    if kind & REMOTE:
        payload = bytes(len(payload))
    time_us = draw(st.integers(0, 9_000_000_000_000_000 - 1))
    return time_us * 1000, draw(st.integers(0, 2)), can_id, flags | kind, payload


@given(st.lists(frame_rows(), max_size=40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read_back(tmp_path: Path, content: list[Row]) -> None:
    path = tmp_path / "x.log.xz"
    names = ("can0", "vcan1", "can2")
    with CandumpWriter(path, names) as writer:
        writer.write(FrameBatch.from_rows(content[:10]))
        writer.write(FrameBatch.from_rows(content[10:]))
    assert writer.frames == len(content)
    found, report, _ = read(path, {name: i for i, name in enumerate(names)})
    assert found == content
    assert (report.skipped_count, report.damage) == (0, "")


def test_a_bus_name_with_a_space_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'can 0'"):
        CandumpWriter(tmp_path / "x.log", ("can 0",))


def one_by_one(text: bytes) -> tuple[list[Row], list[int]]:
    """Frames and numbers of bad lines, as ``parse_line`` tells."""
    names = BusNames(None)
    found: list[Row] = []
    bad: list[int] = []
    for number, line in enumerate(text.split(b"\n")[:-1], 1):
        try:
            row = parse_line(line)
        except BadLine:
            bad.append(number)
            continue
        if row is not None:
            found.append((row[0], names.number(row[1]) or 0, *row[2:]))
    return found, bad


def mutated(draw: st.DrawFn) -> bytes:
    batch = FrameBatch.from_rows(draw(st.lists(frame_rows(), min_size=1, max_size=12)))
    text = bytearray(format_candump(batch, ("a", "b", "c")).encode())
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(text) - 1))
        match draw(st.integers(0, 2)):
            case 0:
                text[at] = draw(st.sampled_from(b"0189aAfFgG#.() R_\n\r\t\x00\xff"))
            case 1:
                del text[at]
            case _:
                text.insert(at, draw(st.integers(0, 255)))
        if not text:
            break
    return bytes(text) + b"\n"


@given(st.data())
@settings(max_examples=2000 if LONG else 150)
def test_the_fast_parser_agrees_with_the_one_for_single_lines(data: st.DataObject) -> None:
    text = data.draw(st.composite(mutated)())
    report = LogReport()
    found = rows(CandumpParser(report, BusNames(None)).parse(LineBlock(text, 1)))
    expected, bad = one_by_one(text)
    by_name = [(r[0], *r[2:]) for r in found]
    assert by_name == [(r[0], *r[2:]) for r in expected]
    assert [s.number for s in report.skipped] == bad[:MAX_REPORTED_LINES]


class _Pieces:
    """A byte source that hands out what it is given."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = [p for p in pieces if p]

    def read(self, size: int) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""


@given(st.lists(st.binary(max_size=30), max_size=20))
def test_lines_do_not_depend_on_how_the_stream_is_cut(pieces: list[bytes]) -> None:
    blocks = list(line_blocks(_Pieces(pieces), LogReport()))
    text = b"".join(pieces)
    assert b"".join(b.text for b in blocks) == text + (b"" if text.endswith(b"\n") or not text else b"\n")
    line = 1
    for block in blocks:
        assert block.first_line == line
        assert block.text.endswith(b"\n")
        line += block.text.count(b"\n")
